//! Adapters that consist of a configuration only: they are initialised as in PEFT.

use std::collections::BTreeSet;
use std::fs;

use crate::common::reference::{Bench, Case, check_counts, generate, peft_type, try_generate};
use crate::common::trial::{PROMPT, Trial};
use crate::common::{
    TOLERANCE, case, make_fresh, model, names, read_json, read_tensors, relative_difference,
};

#[test]
fn a_configuration_alone_gives_an_adapter_that_merges_to_the_same() {
    let mut failures = Vec::new();
    for model_name in ["llama-gqa", "opt-pre"] {
        let mut seen = BTreeSet::new();
        for case_name in names(&case(model_name, "")) {
            let folder = case(model_name, &case_name);
            let label = format!("{model_name}/{case_name}");
            if case_name == "base" {
                continue;
            }
            let (peft_type, case) = (peft_type(&folder), Case::read(&folder));
            // One case of each method: the one with the fewest options.
            if !case.merged || !seen.insert(peft_type) {
                continue;
            }
            let fresh = tempfile::tempdir().unwrap();
            let config = "adapter_config.json";
            fs::copy(folder.join(config), fresh.path().join(config)).unwrap();
            make_fresh(fresh.path());
            let exported = tempfile::tempdir().unwrap();
            let run = |variant: &str| {
                let mut command = case.generate(fresh.path(), variant, exported.path());
                try_generate(command.arg("--model").arg(model(model_name)))
            };
            let counts = run("unmerged").and_then(|unmerged| {
                let merged = run("merged")?;
                let difference =
                    relative_difference(&merged.logits.values, &unmerged.logits.values);
                match difference <= TOLERANCE {
                    true => check_counts(&case, exported.path(), "merged"),
                    false => Err(format!("off by {difference:e}")),
                }
            });
            if let Err(message) = counts {
                failures.push(format!("{label}: {message}"));
            }
        }
    }
    let failures = failures.join("\n");
    assert!(failures.is_empty(), "{failures}");
}

/// Fresh adapters that don't change the base's output in PEFT, even if they take a part out of the
/// weight, or are computed from it.
#[test]
fn fresh_adapters_that_do_not_change_the_base_give_its_logits() {
    for (model_name, case_name) in [
        ("llama-gqa", "frod"),
        ("llama-gqa", "lora-blocks"),
        ("llama-gqa", "lora-mica"),
        ("llama-gqa", "lora-olora"),
        ("llama-gqa", "lora-pissa"),
        ("llama-bias", "dora-pissa"),
        ("llama-gqa", "osf"),
        ("llama-gqa", "psoft"),
        ("llama-gqa", "pvera"),
        ("llama-gqa", "randlora-unsaved"),
        ("llama-gqa", "shira"),
        ("llama-gqa", "supertuning-lora"),
        ("llama-gqa", "tinylora-embed"),
        ("llama-gqa", "waveft-db2"),
        ("llama-rope3", "lora-mica-embedding"),
        ("llama-rope3", "lora-olora-embedding"),
        ("llama-rope3", "lora-pissa-embedding"),
        ("opt-pre", "frod"),
        ("opt-pre", "lora-mica"),
        ("opt-pre", "lora-olora"),
        ("opt-pre", "lora-pissa"),
        ("opt-pre", "psoft-pissa"),
        ("opt-pre", "tinylora"),
        ("opt-pre", "vera"),
    ] {
        let bench = Bench::new(model_name, case_name);
        let fresh = tempfile::tempdir().unwrap();
        let config = "adapter_config.json";
        fs::copy(bench.folder.join(config), fresh.path().join(config)).unwrap();
        make_fresh(fresh.path());
        let run = |variant: &str| {
            let exported = bench.exported.path();
            let mut command = bench.case.generate(fresh.path(), variant, exported);
            generate(command.arg("--model").arg(&bench.model))
        };
        let base = run("base");
        for variant in ["unmerged", "merged"] {
            let difference = relative_difference(&run(variant).logits.values, &base.logits.values);
            assert!(
                difference <= TOLERANCE,
                "{model_name}/{case_name} {variant}: off by {difference:e}"
            );
        }
    }
}

#[test]
fn fresh_adapters_on_parameters_start_as_peft_s_do() {
    for (model_name, case_name, is_base) in [
        ("mixtral", "lora-experts", true),
        ("mixtral", "lora-single-experts", true),
        ("gpt2", "lora-parameters", true),
        // `init_lora_weights` is false.
        ("olmoe", "lora-experts", false),
    ] {
        let trial = Trial::fresh(model_name, case_name);
        let base = trial.logits(&[&PROMPT[..], &["--variant", "base"]].concat());
        let logits = ["unmerged", "merged"]
            .map(|variant| trial.logits(&[&PROMPT[..], &["--variant", variant]].concat()));
        for own in &logits {
            let difference = relative_difference(own, &base);
            assert_eq!(
                difference < 1e-6,
                is_base,
                "{model_name}/{case_name}: {difference}"
            );
        }
        let difference = relative_difference(&logits[0], &logits[1]);
        assert!(difference < 1e-4, "{model_name}/{case_name}: {difference}");
        let counted = read_json(&case(model_name, case_name).join("case.json"));
        let adapter = &trial.manifest("unmerged")["adapter"];
        for key in ["trainable_params", "total_params"] {
            assert_eq!(
                adapter[key], counted[key],
                "{model_name}/{case_name}: {key}"
            );
        }
        let tensors = read_tensors(&trial.prepared("unmerged").join("adapter.safetensors"));
        let largest = |name: &str| -> f32 {
            let own = tensors.iter().filter(|(key, _)| key.contains(name));
            own.flat_map(|(_, tensor)| &tensor.values)
                .fold(0.0, |most, value| value.abs().max(most))
        };
        // The values of `unmerged-empty`.
        let neutral = adapter["neutral"].as_object().unwrap();
        assert_eq!(neutral.len(), tensors.len(), "{model_name}/{case_name}");
        assert!(neutral.values().all(|value| value == 0.0));
        if model_name == "olmoe" {
            // `1 / sqrt(fan_in)`: for `A` at least 16, for `B` 5 experts of rank 2, times the
            // scaling of 2.5.
            let expected = [(".lora_A.", 0.25), (".lora_B.", 2.5 / f32::sqrt(10.0))];
            for (name, bound) in expected {
                let found = largest(name);
                assert!(found <= bound && found > 0.95 * bound, "{name}: {found}");
            }
        }
    }
}

#[test]
fn a_fresh_context_aware_prompt_is_its_tokens() {
    for model_name in ["llama-gqa", "opt-pre"] {
        let trial = Trial::fresh(model_name, "cpt");
        let prompt = trial.logits(&PROMPT);
        let written = ["--variant", "base", "--prompt-ids", "9,4,71,33,3,1,4,1,5,9"];
        let difference = relative_difference(&prompt, &trial.logits(&written));
        assert!(difference < 1e-6, "{model_name}: {difference}");
    }
}

#[test]
fn a_fresh_adaption_prompt_is_the_base_and_its_gate_opens_it() {
    let trial = Trial::fresh("llama-gqa", "adaption-prompt");
    let (fresh, base) = (
        trial.logits(&PROMPT),
        trial.logits(&[&PROMPT[..], &["--variant", "base"]].concat()),
    );
    assert!(relative_difference(&fresh, &base) < 1e-6);
    let trained = Trial::new("llama-gqa", "adaption-prompt");
    assert!(relative_difference(&trained.logits(&PROMPT), &base) > 1e-2);
}

#[test]
fn fresh_prompts_depend_on_the_seed_and_count_as_trained_ones() {
    for name in [
        "cartridge",
        "multitask-prompt-tuning",
        "p-tuning-lstm",
        "p-tuning-mlp",
        "prefix-tuning-projection",
    ] {
        for model_name in ["llama-gqa", "opt-pre"] {
            let trial = Trial::fresh(model_name, name);
            let first = trial.logits(&PROMPT);
            assert!(first.iter().all(|logit| logit.is_finite()));
            let manifest = trial.manifest("unmerged");
            let expected = read_json(&case(model_name, name).join("case.json"));
            for key in ["trainable_params", "total_params"] {
                assert_eq!(
                    manifest["adapter"][key], expected[key],
                    "{model_name}/{name}"
                );
            }
            fs::write(
                trial.experiment.join("benchmark_params.json"),
                r#"{"seed": 7}"#,
            )
            .unwrap();
            let second = trial.logits(&PROMPT);
            assert!(
                relative_difference(&first, &second) > 1e-4,
                "{model_name}/{name}"
            );
        }
    }
}
