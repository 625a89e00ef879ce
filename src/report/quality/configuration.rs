//! When two adapter configurations are the same.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::adapter::{nulls_on_llama, options_of};

/// Keys that say where a configuration is from, or how it's used, and not what the adapter is. The
/// sizes are the base's, from which PEFT fills them in.
const OTHER: [&str; 12] = [
    "base_model_name_or_path",
    "revision",
    "auto_mapping",
    "peft_version",
    "inference_mode",
    "task_type",
    "megatron_config",
    "megatron_core",
    "num_attention_heads",
    "num_layers",
    "num_transformer_submodules",
    "token_dim",
];

/// A configuration with PEFT's defaults, without keys that say nothing.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Configuration {
    pub method: String,
    keys: BTreeMap<String, Value>,
}

impl Configuration {
    /// The one that `config` stands for; `None` if it doesn't name a method.
    pub fn read(config: &Value) -> Option<Self> {
        let given = config.as_object()?;
        let method = given.get("peft_type")?.as_str()?.to_uppercase();
        // Of the same key, the last one counts.
        let nulls = nulls_on_llama(&method);
        let defaults = options_of(&method).into_iter().chain(nulls).flatten();
        let is_meant = |key: &str, value: &Value| {
            !value.is_null() || nulls.is_none_or(|nulls| !nulls.contains_key(key))
        };
        let given = given.iter().filter(|(key, value)| is_meant(key, value));
        let all = defaults.chain(given);
        let mut keys: BTreeMap<String, Value> = all
            .map(|(key, value)| (key.clone(), sorted(value)))
            .collect();
        keys.retain(|key, value| {
            let is_other = OTHER.contains(&key.as_str()) || key.starts_with("runtime_");
            key != "peft_type" && !is_other && says_something(value)
        });
        Some(Self { method, keys })
    }

    /// What this has instead of what `other` has, in words.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let keys: BTreeSet<&String> = self.keys.keys().chain(other.keys.keys()).collect();
        let different = keys.into_iter().filter_map(|key| {
            let (own, theirs) = (self.keys.get(key), other.keys.get(key));
            (own != theirs).then(|| format!("{key} ({} instead of {})", said(own), said(theirs)))
        });
        different.collect()
    }
}

/// Lists of names have no order in PEFT, and 2 is 2.0.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Array(all) => {
            let mut all: Vec<Value> = all.iter().map(sorted).collect();
            if all.iter().all(Value::is_string) {
                all.sort_by_key(Value::to_string);
            }
            Value::Array(all)
        }
        Value::Object(map) => {
            let all = map.iter().map(|(key, value)| (key.clone(), sorted(value)));
            Value::Object(all.collect())
        }
        Value::Number(number) => match number.as_f64() {
            Some(whole) if whole.fract() == 0.0 && whole.abs() < 2_f64.powi(53) => {
                Value::from(whole as i64)
            }
            Some(number) => Value::from(number),
            None => value.clone(),
        },
        other => other.clone(),
    }
}

fn says_something(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) => true,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty() && text != "none",
        Value::Array(all) => !all.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// A value in a few words.
fn said(value: Option<&Value>) -> String {
    const LENGTH: usize = 40;
    let text = match value {
        None => return "unset".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    match text.char_indices().nth(LENGTH) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::PEFT_TYPES;
    use serde_json::json;

    fn differences(one: Value, other: Value) -> Vec<String> {
        let [one, other] = [one, other].map(|of| Configuration::read(&of).unwrap());
        one.differences(&other)
    }

    #[test]
    fn defaults_order_and_where_it_is_from_make_no_difference() {
        let published = json!({
            "peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["v_proj", "q_proj"], "bias": "none",
            "peft_version": "0.19", "task_type": "CAUSAL_LM", "qalora_group_size": 16, "lora_dropout": 0.0,
            "init_lora_weights": true, "use_bdlora": null,
        });
        for own in [
            json!({ "peft_type": "LORA", "lora_alpha": 16.0, "target_modules": null }),
            json!({ "peft_type": "LORA", "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], "r": 8 }),
            json!({ "peft_type": "LORA", "lora_alpha": 16, "base_model_name_or_path": "m" }),
        ] {
            assert_eq!(differences(own, published.clone()), [""; 0]);
        }
    }

    #[test]
    fn hyper_parameters_do() {
        let found = differences(
            json!({ "peft_type": "LORA", "r": 8, "use_dora": true, "init_lora_weights": false }),
            json!({ "peft_type": "LORA", "r": 32 }),
        );
        assert_eq!(
            found,
            [
                "init_lora_weights (unset instead of true)",
                "r (8 instead of 32)",
                "use_dora (true instead of unset)"
            ]
        );
        assert!(Configuration::read(&json!({ "r": 8 })).is_none());
    }

    #[test]
    fn every_method_has_its_defaults() {
        let known = PEFT_TYPES.iter().filter(|name| options_of(name).is_some());
        assert!(known.count() > 40);
        assert_eq!(options_of("VERA").unwrap()["r"], 256);
        assert_eq!(
            nulls_on_llama("IA3").unwrap()["feedforward_modules"],
            json!(["down_proj"])
        );
    }
}
