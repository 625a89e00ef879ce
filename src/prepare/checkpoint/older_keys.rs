//! Keys of `config.json` as releases of Transformers before 5 read them, beside those of newer ones.
//!
//! | Transformers 5 | before |
//! | --- | --- |
//! | `rope_parameters.rope_theta` | `rope_theta` |
//! | `rope_parameters.partial_rotary_factor` | `partial_rotary_factor`, `rotary_pct` |
//! | `rope_parameters` of another type than `default` | `rope_scaling` |
//! | `rope_parameters.sliding_attention.rope_theta` | `rope_local_base_freq` |
//! | `rope_parameters.original_max_position_embeddings` of `longrope` | the same key, beside `rope_scaling` |
//! | `num_local_experts` of families that called it so later | `num_experts` |
//!
//! An older reader takes its defaults for what it misses, without a word: with another `rope_theta`
//! the most likely tokens are often still the same, and all logits are wrong.

use serde_json::{Map, Value};

const PARAMETERS: &str = "rope_parameters";
const THETA: &str = "rope_theta";
const PARTIAL: &str = "partial_rotary_factor";
const ORIGINAL: &str = "original_max_position_embeddings";

/// A type that came with Transformers 5, whose reader fails on the older keys beside it.
const PROPORTIONAL: &str = "proportional";

/// Families whose number of experts has another key in older releases.
const COUNTED: [&str; 3] = ["qwen2_moe", "qwen3_moe", "olmoe"];

/// Adds the older keys that `config` lacks.
pub fn add_older_keys(config: &mut Value) {
    add_number_of_experts(config);
    add_rotary_keys(config);
}

fn add_number_of_experts(config: &mut Value) {
    let Some(config) = config.as_object_mut() else {
        return;
    };
    let family = config.get("model_type").and_then(Value::as_str);
    if !family.is_some_and(|family| COUNTED.contains(&family)) {
        return;
    }
    if let Some(count) = config.get("num_local_experts").cloned() {
        config.entry("num_experts").or_insert(count);
    }
}

fn add_rotary_keys(config: &mut Value) {
    let Some(parameters) = config.get(PARAMETERS).and_then(Value::as_object) else {
        return;
    };
    let mut older = Map::new();
    // Some families have parameters for each type of layer.
    let sliding = parameters
        .get("sliding_attention")
        .and_then(Value::as_object);
    let full = match parameters.get("full_attention").and_then(Value::as_object) {
        Some(full) => full,
        None => parameters,
    };
    if full.get("rope_type").and_then(Value::as_str) == Some(PROPORTIONAL) {
        return;
    }
    let mut take = |from: &Map<String, Value>, key: &str, older_key: &str| {
        if let Some(value) = from.get(key) {
            older.insert(older_key.to_owned(), value.clone());
        }
    };
    take(full, THETA, THETA);
    take(full, PARTIAL, PARTIAL);
    if config.get("model_type").and_then(Value::as_str) == Some("gpt_neox") {
        take(full, PARTIAL, "rotary_pct");
        take(full, THETA, "rotary_emb_base");
    }
    if let Some(sliding) = sliding {
        take(sliding, THETA, "rope_local_base_freq");
    }
    match full.get("rope_type").and_then(Value::as_str) {
        None | Some("default") => {}
        Some("longrope") => {
            // Older releases refuse any other key.
            let mut scaling = Map::from_iter([("type".to_owned(), "longrope".into())]);
            for key in ["short_factor", "long_factor"] {
                scaling.extend(
                    full.get_key_value(key)
                        .map(|(key, value)| (key.clone(), value.clone())),
                );
            }
            older.insert("rope_scaling".to_owned(), scaling.into());
            older.extend(
                full.get_key_value(ORIGINAL)
                    .map(|(key, value)| (key.clone(), value.clone())),
            );
        }
        Some(_) => {
            let others = full
                .iter()
                .filter(|(key, _)| ![THETA, PARTIAL].contains(&key.as_str()));
            let scaling: Map<String, Value> = others
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            older.insert("rope_scaling".to_owned(), scaling.into());
        }
    }
    if let Some(config) = config.as_object_mut() {
        for (key, value) in older {
            config.entry(key).or_insert(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with_older_keys(mut config: Value) -> Value {
        add_older_keys(&mut config);
        config
    }

    #[test]
    fn older_keys_are_added_where_they_are_missing() {
        let theta = json!({"rope_parameters": {"rope_theta": 1e5, "rope_type": "default"}});
        assert_eq!(with_older_keys(theta.clone())["rope_theta"], json!(1e5));
        assert!(with_older_keys(theta).get("rope_scaling").is_none());
        let own = json!({"rope_parameters": {"rope_theta": 1e5}, "rope_theta": 2.0});
        assert_eq!(with_older_keys(own.clone()), own);
        let none = json!({"rope_theta": 2.0});
        assert_eq!(with_older_keys(none.clone()), none);
    }

    #[test]
    fn the_number_of_experts_has_the_key_that_older_releases_read() {
        let config = with_older_keys(json!({"model_type": "qwen3_moe", "num_local_experts": 6}));
        assert_eq!(config["num_experts"], json!(6));
        let mixtral = with_older_keys(json!({"model_type": "mixtral", "num_local_experts": 6}));
        assert!(mixtral.get("num_experts").is_none());
    }

    #[test]
    fn a_scaling_is_written_in_both_forms() {
        let scaled = with_older_keys(json!({"rope_parameters":
            {"rope_theta": 1e4, "rope_type": "linear", "factor": 4.0, "partial_rotary_factor": 0.5}}));
        let linear = json!({"rope_type": "linear", "factor": 4.0});
        assert_eq!(scaled["rope_scaling"], linear);
        assert_eq!(scaled["partial_rotary_factor"], json!(0.5));
        let layers = with_older_keys(json!({"rope_parameters": {
            "full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 4.0},
            "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"}}}));
        assert_eq!(layers["rope_theta"], json!(1e6));
        assert_eq!(layers["rope_local_base_freq"], json!(1e4));
        assert_eq!(layers["rope_scaling"], linear);
        let long = with_older_keys(json!({"rope_parameters": {
            "rope_theta": 1e4, "rope_type": "longrope", "short_factor": [1.0], "long_factor": [2.0],
            "original_max_position_embeddings": 64}}));
        assert_eq!(
            long["rope_scaling"],
            json!({"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]})
        );
        assert_eq!(long["original_max_position_embeddings"], json!(64));
        let newer = json!({"rope_parameters": {
            "full_attention": {"rope_theta": 1e6, "rope_type": "proportional"},
            "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"}}});
        assert_eq!(with_older_keys(newer.clone()), newer);
    }
}
