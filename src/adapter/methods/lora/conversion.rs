//! Configurations that target single experts. They were made before Transformers 5 stacked a
//! layer's experts in one tensor. PEFT converts them to `target_parameters`, and so does this.
//!
//! | `target_modules` | `target_parameters` |
//! |---|---|
//! | `gate` (the router) | `gate.weight` |
//! | an expert's gate and up projection, both named | `gate_up_proj`, twice the rank and `lora_alpha` |
//! | an expert's down projection | `down_proj` |
//!
//! - An entry matches one of these names if it equals the name, or ends with a dot and the name. So
//!   `down_proj` never selects the MLP of a layer without experts.
//! - `all-linear` selects these three and the linear layers.
//! - A regular expression that matches an expert selects the last segments of all names that it
//!   matches, in every layer. One that matches no expert selects just the modules that it matches,
//!   where PEFT selects their last segments, too.
//!
//! Source: PEFT, `utils/transformers_weight_conversion.py`.

use serde_json::{Value, json};

use super::config::is_on;
use crate::adapter::targets::{NamePattern, QUERY_VALUE, Targets, defaults};
use crate::arch::{DecoderSpec, Module, ModuleKind, last_name};
use crate::json::{ConfigError, JsonObject};

/// The option that names parameters.
pub const PARAMETERS: &str = "target_parameters";

const MODULES: &str = "target_modules";

/// The router's weight.
const ROUTER: &str = "gate.weight";

/// The models whose configurations PEFT converts, and the names of an expert's gate, up and down
/// projections in them.
const CONVERTED: [([&str; 3], &[&str]); 2] = [
    (["w1", "w3", "w2"], &["minimax_m2", "mixtral"]),
    (
        ["gate_proj", "up_proj", "down_proj"],
        &[
            "deepseek_v2",
            "deepseek_v3",
            "dots1",
            "ernie4_5_moe",
            "glm4_moe",
            "glm4_moe_lite",
            "hunyuan_v1_moe",
            "olmoe",
            "qwen3_moe",
            "qwen3_next",
        ],
    ),
];

/// A layer's stacked gate and up projections.
const FUSED: &str = "gate_up_proj";

/// The configuration after PEFT's conversion for `spec`.
///
/// # Errors
/// If one of an expert's fused projections is named without the other, or an option has a wrong
/// type.
pub fn converted(config: &JsonObject, spec: &DecoderSpec) -> Result<JsonObject, ConfigError> {
    let Some([gate, up, down]) = names(spec) else {
        // Without a default, null selects no module if parameters are named.
        let has_default = defaults::names(&spec.model_type, QUERY_VALUE).is_some();
        let none = config.get(MODULES).is_none() && !has_default && is_on(config, PARAMETERS);
        return Ok(match none {
            true => config.with(MODULES, json!([])),
            false => config.clone(),
        });
    };
    let table = [
        ("gate", ROUTER),
        (gate, FUSED),
        (up, FUSED),
        (down, "down_proj"),
    ];
    let targets = match config.get(MODULES) {
        // If no parameters are named, the family's default modules.
        None if !is_on(config, PARAMETERS) => return Ok(config.clone()),
        None => Vec::new(),
        Some(Value::String(text)) => {
            let found = match text.eq_ignore_ascii_case("all-linear") {
                true => all_linear(config, spec, &table)?,
                false => matched(config, spec, &table)?,
            };
            match found {
                Some(names) => names,
                None => return Ok(config.clone()),
            }
        }
        Some(_) => config.optional_texts(MODULES)?.unwrap_or_default(),
    };
    let mut parameters = config.optional_texts(PARAMETERS)?.unwrap_or_default();
    let mut modules = Vec::new();
    let mut fused = Vec::new();
    for target in targets {
        let last = last_name(&target);
        let Some((old, new)) = table.iter().find(|(old, _)| *old == last) else {
            modules.push(target);
            continue;
        };
        if *new == FUSED && !fused.contains(old) {
            fused.push(*old);
        }
        // Some models' router is a linear layer inside the module of that name.
        let is_there = *new != ROUTER || routers(spec).any(|path| path.ends_with(".gate"));
        if is_there && !parameters.iter().any(|name| name == new) {
            parameters.push((*new).to_owned());
        }
    }
    let mut changed = config.clone();
    match fused[..] {
        [] => {}
        [one] => {
            let other = if one == gate { up } else { gate };
            let reason = format!(
                "`{one}` can't be adapted without `{other}`: Transformers holds both in `{FUSED}`"
            );
            return Err(config.refused(MODULES, &reason));
        }
        _ => {
            for (key, pattern) in [("r", "rank_pattern"), ("lora_alpha", "alpha_pattern")] {
                let value = 2.0 * config.optional_number(key)?.unwrap_or(8.0);
                let mut values = config.get(pattern).cloned().unwrap_or_else(|| json!({}));
                if let Some(values) = values.as_object_mut() {
                    values.insert(format!(r".*\.{FUSED}"), json!(value));
                }
                changed = changed.with(pattern, values);
            }
        }
    }
    Ok(changed
        .with(MODULES, json!(modules))
        .with(PARAMETERS, json!(parameters)))
}

/// The names of an expert's gate, up and down projections, for models whose configurations PEFT
/// converts.
fn names(spec: &DecoderSpec) -> Option<[&'static str; 3]> {
    // PEFT converts no configurations for wrappers.
    if spec.tower.is_some() || !spec.has_experts() {
        return None;
    }
    let model_type = spec.model_type.as_str();
    let (names, _) = CONVERTED
        .iter()
        .find(|(_, types)| types.contains(&model_type))?;
    Some(*names)
}

/// Whether PEFT converts configurations for `spec`.
pub fn converts(spec: &DecoderSpec) -> bool {
    names(spec).is_some()
}

/// The path of a layer's router, for each layer that has experts.
fn routers(spec: &DecoderSpec) -> impl Iterator<Item = &str> {
    let mixtures = spec.layers.iter().filter_map(|layer| layer.mlp.mixture());
    mixtures.map(|mixture| mixture.router.linear.path.as_str())
}

/// The last segments of the linear layers' names, and the names of experts and router.
fn all_linear(
    config: &JsonObject,
    spec: &DecoderSpec,
    table: &[(&str, &str)],
) -> Result<Option<Vec<String>>, ConfigError> {
    // Without `exclude_modules`, as in PEFT: the remaining last segments may select an excluded
    // module.
    let targets = Targets::read(config, &spec.model_type, None)?;
    let mut found: Vec<String> = Vec::new();
    for module in spec.modules() {
        if targets.contains(config, &module)? {
            push(&mut found, last_name(&module.path));
        }
    }
    for (old, _) in table {
        push(&mut found, old);
    }
    Ok(Some(found))
}

/// The last segments of the names that a regular expression matches, if an expert or router is
/// among them.
fn matched(
    config: &JsonObject,
    spec: &DecoderSpec,
    table: &[(&str, &str)],
) -> Result<Option<Vec<String>>, ConfigError> {
    let Some(pattern) = NamePattern::read(config, MODULES)? else {
        return Ok(None);
    };
    let mut found: Vec<String> = Vec::new();
    let mut add = |path: &str| -> Result<(), ConfigError> {
        if pattern.matches(config, MODULES, path)? {
            push(&mut found, last_name(path));
        }
        Ok(())
    };
    let is_expert = |module: &Module| matches!(module.kind, ModuleKind::Routed { .. });
    for module in spec.modules().iter().filter(|module| !is_expert(module)) {
        add(&module.path)?;
    }
    for mixture in spec.layers.iter().filter_map(|layer| layer.mlp.mixture()) {
        add(&mixture.router.linear.path)?;
        // PEFT looks for the names that no longer exist as siblings of the stacked tensor.
        for (old, _) in &table[1..] {
            add(&format!("{}.{old}", mixture.path))?;
        }
    }
    let routed = |name: &String| table.iter().any(|(old, _)| old == name);
    Ok(found.iter().any(routed).then_some(found))
}

fn push(names: &mut Vec<String>, name: &str) {
    if !names.iter().any(|other| other == name) {
        names.push(name.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::BaseModel;

    /// PEFT 0.21.2's conversion of a configuration; names are sorted.
    fn read(model: &str, options: Value) -> Result<[Value; 3], String> {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
        let base = BaseModel::open_folder(&fixtures.join(model)).unwrap();
        let config = JsonObject::of(Path::new("adapter_config.json"), options);
        let config = config.with("r", json!(2)).with("lora_alpha", json!(3));
        let found = converted(&config, &base.spec).map_err(|error| error.to_string())?;
        Ok([MODULES, PARAMETERS, "rank_pattern"].map(|key| {
            let mut value = found.get(key).cloned().unwrap_or(Value::Null);
            if let Some(names) = value.as_array_mut() {
                names.sort_by_key(Value::to_string);
            }
            value
        }))
    }

    const FUSED_RANK: &str = r".*\.gate_up_proj";

    #[test]
    fn names_of_experts_become_those_of_their_tensors() {
        let all = json!(["down_proj", "gate.weight", "gate_up_proj"]);
        let rank = json!({(FUSED_RANK): 4.0});
        let attention = json!(["k_proj", "o_proj", "q_proj", "v_proj"]);
        for (model, targets, expected) in [
            (
                "mixtral",
                json!(["w1", "w2", "w3", "gate", "q_proj"]),
                [json!(["q_proj"]), all.clone(), rank.clone()],
            ),
            (
                "mixtral",
                json!("all-linear"),
                [attention.clone(), all.clone(), rank.clone()],
            ),
            // The MLP of the layer without experts isn't selected either.
            (
                "qwen3-moe",
                json!("all-linear"),
                [attention, all, rank.clone()],
            ),
            (
                "qwen3-moe",
                json!(["q_proj", "down_proj"]),
                [json!(["q_proj"]), json!(["down_proj"]), Value::Null],
            ),
            (
                "mixtral",
                json!(["0.block_sparse_moe.experts.1.w2"]),
                [json!([]), json!(["down_proj"]), Value::Null],
            ),
            (
                "mixtral",
                json!(".*w[123]"),
                [json!([]), json!(["down_proj", "gate_up_proj"]), rank],
            ),
            (
                "mixtral",
                json!(r".*\.(q_proj|w2)"),
                [json!(["q_proj"]), json!(["down_proj"]), Value::Null],
            ),
        ] {
            let found = read(model, json!({(MODULES): targets})).unwrap();
            assert_eq!(found, expected, "{model} {targets}");
        }
    }

    #[test]
    fn what_names_no_expert_stays() {
        let regex = json!(r".*\.0\..*q_proj");
        let found = read("mixtral", json!({(MODULES): regex})).unwrap();
        assert_eq!(found, [regex, Value::Null, Value::Null]);
        let found = read("llama-gqa", json!({(MODULES): ["gate_proj"]})).unwrap();
        assert_eq!(found, [json!(["gate_proj"]), Value::Null, Value::Null]);
        // The family's default modules, unless parameters are named.
        let found = read("mixtral", json!({})).unwrap();
        assert_eq!(found, [Value::Null, Value::Null, Value::Null]);
        let found = read("mixtral", json!({(PARAMETERS): ["down_proj"]})).unwrap();
        assert_eq!(found, [json!([]), json!(["down_proj"]), Value::Null]);
    }

    #[test]
    fn a_rank_of_the_file_stays_in_front() {
        let options = json!({(MODULES): ["w1", "w3"], "rank_pattern": {"gate_up_proj": 6}});
        let [.., ranks] = read("mixtral", options).unwrap();
        let keys: Vec<&String> = ranks.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["gate_up_proj", FUSED_RANK]);
    }

    #[test]
    fn one_of_two_fused_projections_is_refused() {
        let error = read("qwen3-moe", json!({(MODULES): ["up_proj"]})).unwrap_err();
        assert!(
            error.contains("`up_proj`") && error.contains("`gate_proj`"),
            "{error}"
        );
    }
}
