//! Conversions of the fixtures' adapters.

use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::arch::Stored;

/// The merged parameters of `adapter`, by name; `None` if it can't be merged.
fn merged(adapter: &Adapter, base: &BaseModel) -> BTreeMap<String, Vec<f32>> {
    let mut all = BTreeMap::new();
    for module in adapter.spec.modules() {
        for (name, _) in module.parameters() {
            let place = format!("{}.{name}", module.path);
            let values = match adapter.replaced().get(&place) {
                Some(replacement) => adapter.replacement_values(base, replacement),
                None => base
                    .values_of(&module.tensor(name))
                    .map_err(AdapterError::from),
            };
            all.insert(place, values.unwrap());
        }
        let Some(own) = adapter.module(&module.path) else {
            continue;
        };
        let mut weights = adapter.read_module(base, &module).unwrap();
        own.merge_into(&mut weights).unwrap();
        if module.is_stored_in_out() {
            weights.weight.swap_axes(0, 1);
        }
        let weight = weights.weight.iter().copied().collect();
        all.insert(format!("{}.weight", module.path), weight);
        if let Some(bias) = weights.bias {
            all.insert(format!("{}.bias", module.path), bias.to_vec());
        }
    }
    all
}

fn difference(a: &[f32], b: &[f32]) -> f32 {
    let largest = a
        .iter()
        .fold(0.0, |largest: f32, value| largest.max(value.abs()));
    let pairs = a.iter().zip(b);
    pairs.fold(0.0, |most: f32, (a, b)| most.max((a - b).abs())) / largest.max(1e-6)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// With every rank that a matrix can have, a conversion is the original: of all methods and
/// families, with biases, embeddings, whole modules, rows of tokens and replicated layers.
/// The conversion of a fixture with nothing else in its folder.
fn converted_alone(
    adapter: &Adapter,
    base: &BaseModel,
    rank: Rank,
    original: &Path,
    folder: &Path,
) -> Result<Conversion, ConvertError> {
    to_lora(
        adapter,
        base,
        rank,
        original,
        folder,
        "base",
        &|_, _| Ok(()),
    )
}

#[test]
fn a_conversion_of_full_rank_is_the_original() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut wrong = Vec::new();
    let mut refused: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut converted = 0;
    for model in names(&root.join("cases")) {
        let base = BaseModel::open_folder(&root.join("models").join(&model)).unwrap();
        for case in names(&root.join("cases").join(&model)) {
            let folder = root.join("cases").join(&model).join(&case);
            let Ok(adapter) = Adapter::load(&folder, &base, 0) else {
                continue;
            };
            let target = tempfile::tempdir().unwrap();
            let made = target.path().join("lora");
            let rank = Rank::Count(160);
            match converted_alone(&adapter, &base, rank, &folder, &made) {
                Ok(_) => {}
                Err(error) => {
                    let kind = match error {
                        ConvertError::NoDelta { .. } => "no change of weights",
                        ConvertError::NoMatrix { .. } => "no matrix",
                        ConvertError::Expert { .. } | ConvertError::NamedAsExperts { .. } => {
                            assert!(base.spec.has_experts(), "{model}/{case}");
                            "experts"
                        }
                        ConvertError::BiasBesideEmbedding { .. } => "bias",
                        other => panic!("{model}/{case}: {other}"),
                    };
                    refused
                        .entry(kind)
                        .or_default()
                        .push(format!("{model}/{case}"));
                    continue;
                }
            }
            converted += 1;
            let again = match Adapter::load(&made, &base, 0) {
                Ok(again) => again,
                Err(error) => {
                    wrong.push(format!("{model}/{case}: {error}"));
                    continue;
                }
            };
            assert_eq!(again.peft_type, "LORA");
            let expected = merged(&adapter, adapter.base(&base));
            let found = merged(&again, again.base(&base));
            for (name, expected) in &expected {
                let off = found.get(name).map(|found| difference(expected, found));
                if off.is_none_or(|off| off > 2e-5) {
                    wrong.push(format!("{model}/{case}: {name} is off by {off:?}"));
                    break;
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {converted}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(converted > 200, "{converted}; {refused:?}");
    assert!(!refused["experts"].is_empty());
    for name in ["llama-gqa/ln-tuning", "llama-gqa/trainable-tokens"] {
        assert!(
            refused["no matrix"].iter().any(|other| other == name),
            "{refused:?}"
        );
    }
    for name in [
        "llama-gqa/prefix-tuning",
        "llama-gqa/xlora",
        "llama-gqa/lora-alora",
    ] {
        assert!(
            refused["no change of weights"]
                .iter()
                .any(|other| other == name)
        );
    }
}

#[test]
fn a_share_gives_modules_ranks_of_their_own() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let base = BaseModel::open_folder(&root.join("models/llama-gqa")).unwrap();
    let folder = root.join("cases/llama-gqa/dora");
    let adapter = Adapter::load(&folder, &base, 0).unwrap();
    let target = tempfile::tempdir().unwrap();
    let made = target.path().join("lora");
    let conversion = converted_alone(&adapter, &base, Rank::Share(0.9), &folder, &made).unwrap();
    let ranks: Vec<usize> = conversion
        .modules
        .iter()
        .map(|module| module.rank)
        .collect();
    assert!(ranks.iter().any(|rank| *rank != ranks[0]), "{ranks:?}");
    for module in &conversion.modules {
        assert!(module.energy_kept >= 0.9, "{module:?}");
        assert!((module.relative_error.powi(2) - (1.0 - module.energy_kept)).abs() < 1e-9);
    }
    let again = Adapter::load(&made, &base, 0).unwrap();
    assert_eq!(again.modules().count(), conversion.modules.len());
    let text = fs::read_to_string(made.join(CONFIG)).unwrap();
    let config: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(config["rank_pattern"], config["alpha_pattern"]);
    assert_eq!(config["r"], *ranks.iter().max().unwrap());
    assert_eq!(config["use_dora"], false);
    // An existing folder stays as it is.
    let error = converted_alone(&adapter, &base, Rank::Count(2), &folder, &made).unwrap_err();
    assert!(matches!(error, ConvertError::Exists(path) if path == made));
}

#[test]
fn a_transposed_layer_s_pair_has_the_usual_sides() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let base = BaseModel::open_folder(&root.join("models/gpt2")).unwrap();
    assert!(
        base.spec
            .linears()
            .any(|linear| linear.stored == Stored::InOut)
    );
    let folder = root.join("cases/gpt2/dora");
    let adapter = Adapter::load(&folder, &base, 0).unwrap();
    let target = tempfile::tempdir().unwrap();
    let made = target.path().join("lora");
    converted_alone(&adapter, &base, Rank::Count(3), &folder, &made).unwrap();
    let text = fs::read_to_string(made.join(CONFIG)).unwrap();
    let config: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(config["fan_in_fan_out"], true);
}
