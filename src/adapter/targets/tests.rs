use super::*;
use crate::adapter::AdapterTensors;
use crate::arch::Stored;

fn config(json: &str) -> JsonObject {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter_config.json");
    std::fs::write(&path, json).unwrap();
    JsonObject::read(&path).unwrap()
}

fn fresh(config: &JsonObject) -> AdapterTensors {
    AdapterTensors::without_values(config).unwrap()
}

fn modules() -> Vec<Module> {
    let mut all = Vec::new();
    for layer in 0..3 {
        for name in ["self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj"] {
            all.push(linear(&format!("model.layers.{layer}.{name}")));
        }
    }
    all.push(linear("lm_head"));
    all
}

fn linear(path: &str) -> Module {
    Module {
        path: path.to_owned(),
        source: path.to_owned(),
        kind: ModuleKind::Linear {
            tied: false,
            in_features: 2,
            out_features: 2,
            bias: false,
            stored: Stored::OutIn,
        },
    }
}

fn selected(json: &str) -> Vec<String> {
    let config = config(json);
    let targets = Targets::read(&config, "llama", Some(&["q_proj"])).unwrap();
    let selected = targets
        .select(&config, &mut fresh(&config), &modules())
        .unwrap();
    selected.into_iter().map(|module| module.path).collect()
}

#[test]
fn a_list_matches_by_suffix_at_a_dot() {
    assert_eq!(selected(r#"{"target_modules": ["q_proj"]}"#).len(), 3);
    assert_eq!(selected(r#"{"target_modules": null}"#).len(), 3);
    let only = selected(r#"{"target_modules": ["1.self_attn.q_proj"]}"#);
    assert_eq!(only, ["model.layers.1.self_attn.q_proj"]);
}

#[test]
fn a_string_must_match_the_whole_path() {
    assert_eq!(
        selected(r#"{"target_modules": ".*\\.(?!1\\.)\\d\\..*v_proj"}"#).len(),
        2
    );
    let config = config(r#"{"target_modules": "v_proj"}"#);
    let targets = Targets::read(&config, "llama", None).unwrap();
    let error = targets
        .select(&config, &mut fresh(&config), &modules())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("matches no module") && error.contains("up_proj"),
        "{error}"
    );
}

#[test]
fn all_linear_leaves_the_head_out() {
    assert_eq!(selected(r#"{"target_modules": "ALL-linear"}"#).len(), 9);
}

#[test]
fn layers_are_filtered_but_not_for_exact_paths() {
    let json = r#"{"target_modules": ["v_proj", "model.layers.0.self_attn.q_proj"],
                       "layers_to_transform": [2]}"#;
    assert_eq!(
        selected(json),
        [
            "model.layers.0.self_attn.q_proj",
            "model.layers.2.self_attn.v_proj"
        ]
    );
    let json = r#"{"target_modules": ["v_proj"], "layers_to_transform": 1,
                       "layers_pattern": ["blocks", "layers"]}"#;
    assert_eq!(selected(json), ["model.layers.1.self_attn.v_proj"]);
}

#[test]
fn layers_pattern_is_not_grouped_and_an_empty_one_is_ignored() {
    let json = |pattern: &str| {
        format!(
            r#"{{"target_modules": ["v_proj"], "layers_to_transform": 1, "layers_pattern": {pattern}}}"#
        )
    };
    let only = ["model.layers.1.self_attn.v_proj"];
    for pattern in [r#""""#, "[]", r#""(layers)""#, r#""blocks|.*layers""#] {
        assert_eq!(selected(&json(pattern)), only, "{pattern}");
    }
    // The first alternative is followed by no index.
    let config = config(&json(r#""layers|blocks""#));
    let targets = Targets::read(&config, "llama", None).unwrap();
    assert!(!targets.contains(&config, &modules()[4]).unwrap());
    let alone = selected(r#"{"target_modules": ["v_proj"], "layers_pattern": ""}"#);
    assert_eq!(alone.len(), 3);
}

#[test]
fn a_misspelt_name_is_an_error_even_next_to_a_valid_one() {
    let config = config(r#"{"target_modules": ["q_proj", "w_proj"]}"#);
    let targets = Targets::read(&config, "llama", None).unwrap();
    let error = targets
        .select(&config, &mut fresh(&config), &modules())
        .unwrap_err()
        .to_string();
    assert!(error.contains("w_proj"), "{error}");
}

#[test]
fn a_methods_own_names_may_match_nothing() {
    let own = ["gone", "q_proj"];
    let asked = |names: &str| {
        let config = config(&format!(r#"{{"target_modules": {names}}}"#));
        let targets = Targets::read(&config, "mixtral", Some(&own)).unwrap();
        targets
            .select(&config, &mut fresh(&config), &modules())
            .is_ok()
    };
    assert!(asked("null") && asked(r#"["q_proj", "gone"]"#));
    assert!(!asked(r#"["gone", "k_proj"]"#));
}

#[test]
fn patterns_take_the_first_key_that_matches() {
    let config = config(r#"{"rank_pattern": {"0.self_attn.q_proj": 3, "q_proj": 5, "_proj": 9}}"#);
    let ranks = ValuePattern::read(&config, "rank_pattern", "a rank", |_| true).unwrap();
    let rank = |path: &str| ranks.get(&config, path).unwrap();
    assert_eq!(rank("model.layers.0.self_attn.q_proj"), Some(3.0));
    assert_eq!(rank("model.layers.1.self_attn.q_proj"), Some(5.0));
    assert_eq!(rank("model.layers.1.self_attn.v_proj"), None);
}

#[test]
fn a_path_that_no_pattern_matches_may_itself_be_a_key() {
    let path = "model.layers.0.self_attn.q_proj";
    let value = |keys: &str, path: &str| {
        let config = config(&format!(r#"{{"block_size_pattern": {keys}}}"#));
        let sizes = ValuePattern::read_below(&config, "block_size_pattern", "a size", |_| true);
        sizes.unwrap().get(&config, path).unwrap()
    };
    let whole = format!(r#"{{"{path}": 8}}"#);
    assert_eq!(value(&whole, path), Some(8.0));
    // A matching key has priority over an equal one.
    let both = format!(r#"{{"{path}": 8, "q_proj": 4}}"#);
    assert_eq!(value(&both, path), Some(4.0));
    // A pattern for the whole path doesn't begin with a dot.
    assert_eq!(value(r#"{"model\\.layers\\.0.*": 8}"#, path), None);
}

#[test]
fn alternatives_after_a_dot_are_not_grouped() {
    let config = config(r#"{"n_frequency_pattern": {"q_proj|v_proj": 8}}"#);
    let read = [ValuePattern::read, ValuePattern::read_below]
        .map(|read| read(&config, "n_frequency_pattern", "a count", |_| true).unwrap());
    let values = |path: &str| {
        let of = |pattern: &ValuePattern| pattern.get(&config, path).unwrap();
        [of(&read[0]), of(&read[1])]
    };
    assert_eq!(values("layers.0.q_proj"), [Some(8.0), Some(8.0)]);
    assert_eq!(values("layers.0.v_proj"), [Some(8.0), None]);
    assert_eq!(values("layers.0.q_proj_b"), [None, Some(8.0)]);
}
