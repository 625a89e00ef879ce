//! `adapter_config.json` of a conversion.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::adapter::{Adapter, options_of};
use crate::arch::{DecoderSpec, Module, last_name};

/// What the configuration says of the pairs.
#[derive(Debug)]
pub struct Pairs<'a> {
    /// Each module, with its rank.
    pub ranks: Vec<(&'a Module, usize)>,
    /// Options of the original that are kept.
    pub kept: &'a [&'static str],
    /// Whether the file holds all biases.
    pub all_biases: bool,
    /// Whether modules get biases that they haven't in the base.
    pub added_biases: bool,
}

/// The configuration; `base` is the base's name, if the original gives none.
pub fn config(adapter: &Adapter, all: &[Module], pairs: &Pairs, base: &str) -> Value {
    let mut config: Map<String, Value> = options_of("LORA").cloned().unwrap_or_default();
    let mut set = |key: &str, value: Value| config.insert(key.to_owned(), value);
    set("peft_type", json!("LORA"));
    set("inference_mode", json!(true));
    for key in ["task_type", "revision"] {
        set(key, adapter.config.get(key).cloned().unwrap_or_default());
    }
    let made_for = adapter.config.get("base_model_name_or_path");
    let made_for = made_for.filter(|name| !name.is_null());
    set(
        "base_model_name_or_path",
        made_for.cloned().unwrap_or_else(|| json!(base)),
    );
    for key in pairs.kept {
        set(key, adapter.config.get(key).cloned().unwrap_or_default());
    }
    let rank = pairs.ranks.iter().map(|(_, rank)| *rank).max().unwrap_or(1);
    let others = pairs.ranks.iter().filter(|(_, own)| *own != rank);
    let pattern: Map<String, Value> = others
        .map(|(module, own)| (module.path.clone(), json!(own)))
        .collect();
    // The scale is in the pairs already: alpha is the rank.
    set("r", json!(rank));
    set("lora_alpha", json!(rank));
    set("rank_pattern", json!(pattern));
    set("alpha_pattern", json!(pattern));
    set("lora_dropout", json!(0.0));
    set("bias", json!(if pairs.all_biases { "all" } else { "none" }));
    set("lora_bias", json!(pairs.added_biases));
    set(
        "fan_in_fan_out",
        json!(
            pairs
                .ranks
                .iter()
                .any(|(module, _)| module.is_stored_in_out())
        ),
    );
    set("target_modules", json!(targets(&adapter.spec, all, pairs)));
    Value::Object(config)
}

/// The last parts of the modules' names, where these mean no other module; else whole paths. The
/// towers of a multimodal wrapper have modules of the same names.
fn targets(spec: &DecoderSpec, all: &[Module], pairs: &Pairs) -> Vec<String> {
    let own: BTreeSet<&str> = pairs.ranks.iter().map(|(m, _)| m.path.as_str()).collect();
    let names: BTreeSet<String> = own.iter().map(|path| last_name(path).to_owned()).collect();
    let mut meant = all
        .iter()
        .filter(|module| names.contains(last_name(&module.path)));
    let no_other = meant.all(|module| own.contains(module.path.as_str()));
    match no_other && spec.tower.is_none() {
        true => names.into_iter().collect(),
        false => own.into_iter().map(str::to_owned).collect(),
    }
}
