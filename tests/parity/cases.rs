//! Every case, merged and unmerged, as the reference gave it.

use std::collections::BTreeSet;
use std::process::Command;

use peft_bench::adapter::PEFT_TYPES;

use crate::common::reference::{Case, check_counts, check_variant, peft_type};
use crate::common::{case, model, names, run};

/// Cases that no program could give without what PEFT leaves out of the files, and the option that says so.
const REFUSED: &[(&str, &str)] = &[
    ("llama-bias/frod-unsaved", "save_projection"),
    ("llama-bias/psoft-full-matrix", "psoft_R.weight"),
    ("llama-gqa/psoft", "psoft_R.weight"),
    ("llama-gqa/psoft-cayley-neumann", "psoft_R.weight"),
    ("opt-nobias/psoft-no-diagonals", "psoft_R.weight"),
    ("opt-pre/psoft", "psoft_R.weight"),
    ("opt-pre/psoft-cayley-neumann-eps", "psoft_R.weight"),
    ("opt-pre/psoft-pissa", "psoft_R.weight"),
];

fn check_refusal(command: &mut Command) -> Result<(), String> {
    let outcome = run(command);
    let why = outcome.stderr.contains("`merged`") && outcome.stderr.contains("can't be merged");
    match outcome.code {
        Some(1) if why && outcome.stdout.is_empty() => Ok(()),
        _ => Err(format!(
            "expected a refusal that says why, found {outcome:?}"
        )),
    }
}

/// An option or a tensor has to be refused by its name.
fn check_refused_by(name: &str, command: &mut Command) -> Result<(), String> {
    let outcome = run(command);
    let by_name = outcome.stderr.contains(&format!("`{name}`"));
    match outcome.code {
        Some(1) if by_name && outcome.stdout.is_empty() => Ok(()),
        _ => Err(format!("expected a refusal by name, found {outcome:?}")),
    }
}

/// Runs all variants of a case; a message for each that fails.
fn check_case(model_name: &str, case_name: &str) -> Vec<String> {
    let folder = case(model_name, case_name);
    let case = Case::read(&folder);
    let mut failures = Vec::new();
    let mut note = |variant: &str, result: Result<(), String>| {
        if let Err(message) = result {
            failures.push(format!("{model_name}/{case_name} {variant}: {message}"));
        }
    };
    let export_dir = tempfile::tempdir().unwrap();
    if case_name == "base" {
        let mut command = case.generate(&model(model_name), "base", export_dir.path());
        note("base", check_variant(&case, &folder, "base", &mut command));
        return failures;
    }
    let label = format!("{model_name}/{case_name}");
    let refused = REFUSED.iter().find(|(refused, _)| *refused == label);
    for variant in ["unmerged", "merged"] {
        let mut command = case.generate(&folder, variant, export_dir.path());
        command.arg("--model").arg(model(model_name));
        let result = if let Some((_, option)) = refused {
            check_refused_by(option, &mut command)
        } else if variant == "merged" && !case.merged {
            check_refusal(&mut command)
        } else {
            check_variant(&case, &folder, variant, &mut command)
                .and_then(|()| check_counts(&case, export_dir.path(), variant))
        };
        note(variant, result);
    }
    failures
}

/// Runs every case of a model; one message for all that fail.
fn check_model(name: &str) {
    let mut failures = Vec::new();
    let cases = names(&case(name, ""));
    assert!(cases.len() > 1, "{cases:?}");
    for case_name in &cases {
        failures.extend(check_case(name, case_name));
    }
    assert!(
        failures.is_empty(),
        "{} failed:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

#[test]
fn every_supported_method_has_a_case() {
    let folders = names(&case("", "")).into_iter().flat_map(|model| {
        names(&case(&model, ""))
            .into_iter()
            .map(move |name| (model.clone(), name))
    });
    let found: BTreeSet<String> = folders
        .filter(|(_, name)| name != "base")
        .map(|(model, name)| peft_type(&case(&model, &name)))
        .collect();
    for supported in PEFT_TYPES {
        assert!(found.contains(supported), "{supported}");
    }
}

#[test]
fn what_is_refused_exists() {
    for (label, _) in REFUSED {
        let (model, name) = label.split_once('/').unwrap();
        assert!(case(model, name).is_dir(), "{label}");
    }
}

macro_rules! models {
    ($($test:ident: $folder:literal,)*) => {
        $(
            #[test]
            fn $test() {
                check_model($folder);
            }
        )*

        #[test]
        fn every_model_is_tested() {
            assert_eq!(names(&case("", "")), [$($folder),*]);
        }
    };
}

models! {
    bloom_is_as_the_reference: "bloom",
    bloom_with_normed_residuals_is_as_the_reference: "bloom-normed",
    cohere_is_as_the_reference: "cohere",
    cohere_with_query_and_key_norms_is_as_the_reference: "cohere-norms",
    falcon_is_as_the_reference: "falcon",
    falcon_with_groups_is_as_the_reference: "falcon-groups",
    falcon_with_heads_is_as_the_reference: "falcon-heads",
    gemma_is_as_the_reference: "gemma",
    gemma2_is_as_the_reference: "gemma2",
    gemma3_is_as_the_reference: "gemma3",
    gpt_neox_is_as_the_reference: "gpt-neox",
    gpt_neox_one_after_the_other_is_as_the_reference: "gpt-neox-serial",
    gpt2_is_as_the_reference: "gpt2",
    gptj_is_as_the_reference: "gptj",
    gptj_with_a_tied_head_is_as_the_reference: "gptj-tied",
    granite_is_as_the_reference: "granite",
    llama_with_biases_is_as_the_reference: "llama-bias",
    llama_with_biases_as_wide_as_its_heads_is_as_the_reference: "llama-bias-even",
    llama_with_grouped_queries_is_as_the_reference: "llama-gqa",
    llama_with_linear_scaling_in_shards_is_as_the_reference: "llama-linear",
    llama_with_llama3_scaling_is_as_the_reference: "llama-rope3",
    llama_with_a_tied_head_is_as_the_reference: "llama-tied",
    mistral_is_as_the_reference: "mistral",
    mixtral_is_as_the_reference: "mixtral",
    mpt_is_as_the_reference: "mpt",
    olmo_is_as_the_reference: "olmo",
    olmo2_is_as_the_reference: "olmo2",
    olmoe_is_as_the_reference: "olmoe",
    olmoe_of_two_blocks_is_as_the_reference: "olmoe-wide",
    opt_without_key_prefix_is_as_the_reference: "opt-bare",
    opt_without_biases_is_as_the_reference: "opt-nobias",
    opt_without_final_norm_is_as_the_reference: "opt-nonorm",
    opt_with_norms_behind_is_as_the_reference: "opt-post",
    opt_with_norms_before_is_as_the_reference: "opt-pre",
    phi_is_as_the_reference: "phi",
    phi_with_query_and_key_norms_is_as_the_reference: "phi-norms",
    phi_with_a_tied_head_is_as_the_reference: "phi-tied",
    phi3_with_longrope_is_as_the_reference: "phi3",
    phi3_is_as_the_reference: "phi3-plain",
    qwen2_with_yarn_is_as_the_reference: "qwen2",
    qwen3_is_as_the_reference: "qwen3",
    qwen3_with_experts_is_as_the_reference: "qwen3-moe",
    smollm3_is_as_the_reference: "smollm3",
    stablelm_is_as_the_reference: "stablelm",
    stablelm_with_parallel_residual_is_as_the_reference: "stablelm-parallel",
    starcoder2_is_as_the_reference: "starcoder2",
}
