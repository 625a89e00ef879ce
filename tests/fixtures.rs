//! The built program against `transformers` and `peft`: every case of `tests/fixtures/cases`, its logits,
//! tokens and parameter counts; and what must leave logits as they are.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::*;
use peft_bench::adapter::PEFT_TYPES;
use peft_bench::weights::Dtype;
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

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

/// `case.json`
#[derive(Debug, Deserialize)]
struct Case {
    prompt_ids: Vec<u32>,
    max_new_tokens: usize,
    token_ids: Vec<u32>,
    #[serde(default)]
    merged: bool,
    trainable_params: Option<u64>,
    total_params: Option<u64>,
    task_id: Option<u32>,
}

impl Case {
    fn read(folder: &Path) -> Self {
        serde_json::from_value(read_json(&folder.join("case.json"))).unwrap()
    }

    /// `generate` of its prompt, without a target's own options.
    fn generate(&self, target: &Path, variant: &str, export_dir: &Path) -> Command {
        let mut command = program(["generate", "--ep", "cpu", "--threads", "1", "--json"]);
        command.arg(target).args([
            "--variant",
            variant,
            "--prompt-ids",
            &join(&self.prompt_ids),
        ]);
        command.args(["--max-new-tokens", &self.max_new_tokens.to_string()]);
        command.arg("--export-dir").arg(export_dir);
        if let Some(task) = self.task_id.filter(|_| variant != "base") {
            command.args(["--task-id", &task.to_string()]);
        }
        command
    }
}

fn join(ids: &[u32]) -> String {
    let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
    ids.join(",")
}

/// What `generate --json --logits` gives.
#[derive(Debug, PartialEq)]
struct Generated {
    prompt_ids: Vec<u32>,
    token_ids: Vec<u32>,
    text: Option<String>,
    logits: Tensor,
}

/// Runs a `generate` command; its error message where it fails.
fn try_generate(command: &mut Command) -> Result<Generated, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("logits.safetensors");
    let outcome = run(command.arg("--logits").arg(&path));
    if outcome.code != Some(0) {
        return Err(format!(
            "exit code {:?}: {}",
            outcome.code,
            outcome.stderr.trim()
        ));
    }
    #[derive(Deserialize)]
    struct Printed {
        prompt_ids: Vec<u32>,
        token_ids: Vec<u32>,
        text: Option<String>,
    }
    let printed: Printed = serde_json::from_str(&outcome.stdout)
        .map_err(|error| format!("stdout is `{}`: {error}", outcome.stdout))?;
    Ok(Generated {
        prompt_ids: printed.prompt_ids,
        token_ids: printed.token_ids,
        text: printed.text,
        logits: read_tensors(&path)
            .remove("logits")
            .ok_or("no tensor `logits`")?,
    })
}

#[track_caller]
fn generate(command: &mut Command) -> Generated {
    try_generate(command).unwrap_or_else(|message| panic!("{command:?}: {message}"))
}

/// Compares a run with what the reference gave.
fn check_variant(
    case: &Case,
    folder: &Path,
    variant: &str,
    command: &mut Command,
) -> Result<(), String> {
    let generated = try_generate(command)?;
    let expected = read_tensors(&folder.join("expected.safetensors"));
    let expected = expected
        .get(variant)
        .ok_or("the case expects no such variant")?;
    if generated.logits.shape != expected.shape {
        return Err(format!(
            "shape {:?}, not {:?}",
            generated.logits.shape, expected.shape
        ));
    }
    let difference = relative_difference(&generated.logits.values, &expected.values);
    if difference > TOLERANCE {
        return Err(format!("logits are off by {difference:e} of the largest"));
    }
    if generated.token_ids != case.token_ids {
        return Err(format!(
            "tokens {:?}, not {:?}",
            generated.token_ids, case.token_ids
        ));
    }
    if generated.prompt_ids != case.prompt_ids {
        return Err(format!(
            "prompt {:?}, not {:?}",
            generated.prompt_ids, case.prompt_ids
        ));
    }
    Ok(())
}

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

/// `<export_dir>/<model>/<experiment>`, the one that was prepared there.
fn prepared_folder(export_dir: &Path) -> PathBuf {
    let models = names(export_dir);
    assert_eq!(models.len(), 1, "{models:?}");
    let folder = export_dir.join(&models[0]);
    let experiments: Vec<_> = names(&folder)
        .into_iter()
        .filter(|name| name != "base" && folder.join(name).is_dir())
        .collect();
    assert_eq!(experiments.len(), 1, "{experiments:?}");
    folder.join(&experiments[0])
}

fn check_counts(case: &Case, export_dir: &Path, variant: &str) -> Result<(), String> {
    let manifest = read_json(
        &prepared_folder(export_dir)
            .join(variant)
            .join("manifest.json"),
    );
    let count = |key: &str| manifest["adapter"][key].as_u64();
    for (key, expected) in [
        ("trainable_params", case.trainable_params),
        ("total_params", case.total_params),
    ] {
        if expected.is_none() || count(key) != expected {
            return Err(format!("`{key}` is {:?}, not {expected:?}", count(key)));
        }
    }
    Ok(())
}

/// The method of an experiment.
fn peft_type(folder: &Path) -> String {
    let config = read_json(&folder.join("adapter_config.json"));
    config["peft_type"].as_str().unwrap().to_owned()
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

/// Methods whose own computation is implemented.
const NATIVE: &[&str] = &[
    "ADALORA", "BOFT", "C3A", "DELORA", "GRALORA", "HIRA", "HRA", "IA3", "LILY", "LOHA", "LOKR",
    "LORA", "MISS", "OFT", "PVERA", "RANDLORA", "ROAD", "VERA",
];

/// What of them has none.
fn lacks_native(label: &str) -> bool {
    let parts = [
        "miss-bat",
        "dora-embed",
        "dora-pissa",
        "oft-coft",
        "exact",
        "oft-embed",
        "gram-schmidt",
        "lora-parameters",
    ];
    parts.iter().any(|part| label.contains(part))
}

#[test]
fn what_methods_compute_themselves_is_as_the_reference() {
    let mut failures = Vec::new();
    let mut checked = BTreeSet::new();
    for model_name in ["llama-bias", "llama-gqa", "opt-pre"] {
        for case_name in names(&case(model_name, "")) {
            let folder = case(model_name, &case_name);
            if case_name == "base" || !NATIVE.contains(&peft_type(&folder).as_str()) {
                continue;
            }
            let label = format!("{model_name}/{case_name}");
            let case = Case::read(&folder);
            let export_dir = tempfile::tempdir().unwrap();
            let mut command = case.generate(&folder, "unmerged", export_dir.path());
            command.arg("--model").arg(model(model_name));
            command.args(["--adapter-form", "native"]);
            let outcome = check_variant(&case, &folder, "unmerged", &mut command);
            match outcome {
                Ok(()) => {
                    checked.insert(peft_type(&folder));
                }
                Err(message) if message.contains("--adapter-form native") => {
                    if !lacks_native(&label) {
                        failures.push(format!("{label}: {message}"));
                    }
                }
                Err(message) => failures.push(format!("{label}: {message}")),
            }
        }
    }
    let failures = failures.join("\n");
    assert!(failures.is_empty(), "{failures}");
    assert_eq!(checked.len(), NATIVE.len(), "{checked:?}");
}

/// Ways of a method's own computation that no reference case takes: a merge takes another way, and must agree.
#[test]
fn what_methods_compute_themselves_is_as_the_merged_model() {
    for (method, config) in [
        // Sizes that aren't powers of two; tied weights are 48, 72 and 24 wide.
        (
            "c3a",
            json!({ "peft_type": "C3A", "block_size": 24, "init_weights": "gaussian" }),
        ),
        (
            "c3a",
            json!({ "peft_type": "C3A", "block_size": 3, "init_weights": "gaussian" }),
        ),
        (
            "boft",
            json!({ "peft_type": "BOFT", "boft_n_butterfly_factor": 3, "init_weights": false }),
        ),
    ] {
        let bench = Bench::new("llama-tied", "lora");
        let fresh = tempfile::tempdir().unwrap();
        let experiment = fresh.path().join(method);
        fs::create_dir(&experiment).unwrap();
        let mut config = config;
        config["target_modules"] = json!(["q_proj", "v_proj", "up_proj"]);
        fs::write(experiment.join("adapter_config.json"), config.to_string()).unwrap();
        let run = |variant: &str, options: &[&str]| {
            let exported = bench.exported.path();
            let mut command = bench.case.generate(&experiment, variant, exported);
            generate(command.arg("--model").arg(&bench.model).args(options))
        };
        let merged = run("merged", &[]);
        assert_close(&run("unmerged", &["--adapter-form", "native"]), &merged);
        assert_apart(&merged, &run("base", &[]));
    }
}

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
            // One of each method, and that one with the least options.
            if !case.merged || !seen.insert(peft_type) {
                continue;
            }
            let fresh = tempfile::tempdir().unwrap();
            let config = "adapter_config.json";
            fs::copy(folder.join(config), fresh.path().join(config)).unwrap();
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

/// Fresh adapters that PEFT starts so that the base's output stays as it is, with whatever they take out of the
/// weight or are made of.
#[test]
fn what_starts_as_the_base_gives_what_the_base_gives() {
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

/// A case, run where nothing else is.
struct Bench {
    case: Case,
    folder: PathBuf,
    model: PathBuf,
    exported: TempDir,
}

impl Bench {
    fn new(model_name: &str, case_name: &str) -> Self {
        let folder = case(model_name, case_name);
        Self {
            case: Case::read(&folder),
            folder,
            model: model(model_name),
            exported: tempfile::tempdir().unwrap(),
        }
    }

    /// `generate` of a variant, with more options.
    #[track_caller]
    fn generate(&self, variant: &str, options: &[&str]) -> Generated {
        let mut command = self
            .case
            .generate(&self.folder, variant, self.exported.path());
        generate(command.arg("--model").arg(&self.model).args(options))
    }

    /// `generate` of a prepared folder.
    #[track_caller]
    fn generate_prepared(&self, folder: &Path, variant: &str) -> Generated {
        let elsewhere = tempfile::tempdir().unwrap();
        let generated = generate(&mut self.case.generate(folder, variant, elsewhere.path()));
        assert!(
            names(elsewhere.path()).is_empty(),
            "nothing is prepared again"
        );
        generated
    }

    /// Runs `prepare`; gives what it says.
    #[track_caller]
    fn prepare(&self) -> String {
        let mut command = program(["prepare", "--ep", "cpu"]);
        command.arg(&self.folder).arg("--model").arg(&self.model);
        let outcome = run(command.arg("--export-dir").arg(self.exported.path()));
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        outcome.stderr
    }

    /// A copy of a model with all tensors rounded to `dtype`, and stored so.
    fn rounded_model(&self, tensors: &Tensors, dtype: Dtype) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::copy(
            self.model.join("config.json"),
            folder.path().join("config.json"),
        )
        .unwrap();
        write_tensors(&folder.path().join("model.safetensors"), tensors, dtype);
        folder
    }
}

#[track_caller]
fn assert_close(actual: &Generated, expected: &Generated) {
    let difference = relative_difference(&actual.logits.values, &expected.logits.values);
    assert!(difference <= TOLERANCE, "off by {difference:e}");
    assert_eq!(actual.token_ids, expected.token_ids);
}

#[track_caller]
fn assert_apart(actual: &Generated, expected: &Generated) {
    let first =
        |generated: &Generated| generated.logits.values[..generated.logits.shape[1]].to_vec();
    let difference = relative_difference(&first(actual), &first(expected));
    assert!(difference > TOLERANCE, "off by {difference:e} only");
}

/// Weights in half precision are rounded, whatever the arithmetic: were the casts that do it on a CPU
/// optimised away, the logits would be those of the unrounded checkpoint.
fn check_rounding(model_name: &str, dtype: Dtype) {
    let bench = Bench::new(model_name, "lora");
    let options = ["--dtype", dtype.name()];
    let tensors = read_checkpoint(&bench.model);
    let rounded = bench.rounded_model(&tensors, dtype);

    let mut command = bench
        .case
        .generate(rounded.path(), "base", bench.exported.path());
    let expected = generate(&mut command);
    for weights in ["mapped", "resident"] {
        let actual = bench.generate("base", &["--dtype", dtype.name(), "--weights", weights]);
        assert_close(&actual, &expected);
        assert_apart(&actual, &bench.generate("base", &[]));
    }

    let mut command = bench
        .case
        .generate(&bench.folder, "unmerged", bench.exported.path());
    let expected = generate(command.arg("--model").arg(rounded.path()));
    let actual = bench.generate("unmerged", &options);
    assert_close(&actual, &expected);
    assert_apart(&actual, &bench.generate("unmerged", &[]));

    // Merged in float32, and rounded once.
    let exact = Bench::new(model_name, "lora");
    exact.prepare();
    let overlay = prepared_folder(exact.exported.path()).join("merged/overlay.safetensors");
    let mut merged = tensors;
    merged.extend(read_tensors(&overlay));
    let merged = bench.rounded_model(&merged, dtype);
    let mut command = bench
        .case
        .generate(merged.path(), "base", bench.exported.path());
    let expected = generate(&mut command);
    let actual = bench.generate("merged", &options);
    assert_close(&actual, &expected);
    assert_apart(&actual, &bench.generate("merged", &[]));
}

#[test]
fn float16_rounds_the_weights_on_a_cpu() {
    for model in ["llama-gqa", "opt-pre"] {
        check_rounding(model, Dtype::Float16);
    }
}

#[test]
fn bfloat16_rounds_the_weights_on_a_cpu() {
    for model in ["llama-tied", "opt-post"] {
        check_rounding(model, Dtype::BFloat16);
    }
}

/// Each arrangement of products, laid out as measurements hold it.
#[test]
fn every_family_gives_what_the_reference_gives_however_weights_are_held() {
    let mut failures = Vec::new();
    for model_name in [
        "bloom",
        "cohere",
        "falcon",
        "falcon-groups",
        "gemma2",
        "gemma3",
        "gpt-neox",
        "gpt2",
        "gptj",
        "granite",
        "mistral",
        "mixtral",
        "mpt",
        "olmo2",
        "phi",
        "phi3",
        "qwen3",
        "qwen3-moe",
        "stablelm-parallel",
        "starcoder2",
    ] {
        let mut cases = vec![("base", "base"), ("lora", "unmerged")];
        cases.extend(match model_name {
            "mixtral" => vec![("lora-experts", "unmerged"), ("lora-experts", "merged")],
            "qwen3-moe" => vec![
                ("lora-experts-up", "unmerged"),
                ("lora-experts-up", "merged"),
            ],
            "gpt2" => vec![("lora-parameters", "unmerged")],
            _ => vec![],
        });
        for weights in ["mapped", "resident"] {
            for &(case_name, variant) in &cases {
                let folder = case(model_name, case_name);
                let case = Case::read(&folder);
                let exported = tempfile::tempdir().unwrap();
                let target = match variant {
                    "base" => model(model_name),
                    _ => folder.clone(),
                };
                let mut command = case.generate(&target, variant, exported.path());
                command.args(["--weights", weights]);
                if variant != "base" {
                    command.arg("--model").arg(model(model_name));
                }
                if let Err(message) = check_variant(&case, &folder, variant, &mut command) {
                    failures.push(format!("{model_name}/{case_name} {weights}: {message}"));
                }
            }
        }
    }
    let failures = failures.join("\n");
    assert!(failures.is_empty(), "{failures}");
}

#[test]
fn resident_weights_give_the_same_logits_as_mapped_ones() {
    for (model, case) in [
        ("llama-gqa", "dora-embed"),
        ("opt-post", "lora"),
        ("llama-linear", "lora"),
    ] {
        let bench = Bench::new(model, case);
        for variant in ["base", "unmerged", "merged"] {
            let mapped = bench.generate(variant, &["--weights", "mapped"]);
            let resident = bench.generate(variant, &["--weights", "resident"]);
            assert_close(&resident, &mapped);
        }
    }
}

#[test]
fn several_threads_give_the_same_logits() {
    let bench = Bench::new("llama-gqa", "lora");
    let one = bench.generate("unmerged", &[]);
    let mut command = program(["generate", "--ep", "cpu", "--threads", "3", "--json"]);
    command.arg(&bench.folder).arg("--model").arg(&bench.model);
    command.args([
        "--prompt-ids",
        &join(&bench.case.prompt_ids),
        "--max-new-tokens",
        "8",
    ]);
    let three = generate(command.arg("--export-dir").arg(bench.exported.path()));
    assert_close(&three, &one);
}

#[test]
fn a_text_is_encoded_and_what_follows_is_decoded() {
    let bench = Bench::new("llama-gqa", "lora");
    let prompt = "The adapter changes the answer.";
    let tokenizer = tokenizers::Tokenizer::from_file(bench.model.join("tokenizer.json")).unwrap();
    let ids = tokenizer.encode(prompt, true).unwrap().get_ids().to_vec();
    assert!(ids.len() > 5 && ids[0] == 1, "{ids:?}");

    let base = |options: &[&str]| {
        let mut command = program(["generate", "--ep", "cpu", "--json", "--max-new-tokens", "9"]);
        command.arg(&bench.model).args(options);
        generate(command.arg("--export-dir").arg(bench.exported.path()))
    };
    let from_text = base(&["--prompt", prompt]);
    let from_ids = base(&["--prompt-ids", &join(&ids)]);
    assert_eq!(from_text, from_ids);
    assert_eq!(from_text.prompt_ids, ids);
    let text = tokenizer.decode(&from_text.token_ids, true).unwrap();
    assert_eq!(from_text.text, Some(text.clone()));

    let mut command = program(["generate", "--ep", "cpu", "--max-new-tokens", "9"]);
    command.arg(&bench.model).args(["--prompt", prompt]);
    let plain = run(command.arg("--export-dir").arg(bench.exported.path()));
    assert_eq!(plain.stdout, format!("{text}\n"));
}

#[test]
fn without_a_tokenizer_ids_are_generated_and_a_text_is_refused() {
    let bench = Bench::new("llama-bias", "lora");
    assert_eq!(bench.generate("base", &[]).text, None);
    let mut command = program(["generate", "--ep", "cpu", "--prompt", "hello"]);
    command.arg(&bench.model);
    let outcome = run(command.arg("--export-dir").arg(bench.exported.path()));
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stderr.contains("tokenizer.json"), "{outcome:?}");
}

#[test]
fn a_prepared_folder_runs_without_the_experiment() {
    let bench = Bench::new("llama-gqa", "lora-patterns");
    bench.prepare();
    let prepared = prepared_folder(bench.exported.path());
    let expected = read_tensors(&bench.folder.join("expected.safetensors"));
    for variant in ["unmerged", "merged"] {
        for folder in [prepared.clone(), prepared.join(variant)] {
            let generated = bench.generate_prepared(&folder, variant);
            let difference =
                relative_difference(&generated.logits.values, &expected[variant].values);
            assert!(difference <= TOLERANCE, "{variant}: off by {difference:e}");
        }
    }
    let base = bench.generate_prepared(&prepared, "base");
    assert_eq!(base, bench.generate("base", &[]));
    assert_apart(&base, &bench.generate("unmerged", &[]));

    let elsewhere = tempfile::tempdir().unwrap();
    let mut command = bench
        .case
        .generate(&prepared.join("merged"), "unmerged", elsewhere.path());
    let message = try_generate(&mut command).unwrap_err();
    assert!(
        message.contains("holds the variant `merged`, not `unmerged`"),
        "{message}"
    );
}

/// Each file below `folder` with its time of modification and its inode, by its path.
fn stamps(folder: &Path) -> Vec<(PathBuf, std::time::SystemTime, u64)> {
    use std::os::unix::fs::MetadataExt;
    let stamp = |path: PathBuf| {
        let metadata = fs::metadata(&path).unwrap();
        (path, metadata.modified().unwrap(), metadata.ino())
    };
    files_below(folder).into_iter().map(stamp).collect()
}

#[test]
fn what_is_up_to_date_is_not_touched() {
    let bench = Bench::new("llama-tied", "lora");
    let first = bench.prepare();
    assert!(!first.contains("up to date"), "{first}");
    let before = stamps(bench.exported.path());
    let second = bench.prepare();
    assert_eq!(second.matches("up to date").count(), 3, "{second}");
    bench.generate("merged", &[]);
    assert_eq!(stamps(bench.exported.path()), before);
    // And the stamp beside the three folders.
    assert_eq!(before.len(), 2 + 3 + 3 + 1, "{before:?}");
}

#[test]
fn a_changed_adapter_is_prepared_again() {
    let mut bench = Bench::new("llama-gqa", "lora");
    let copy = tempfile::tempdir().unwrap();
    bench.folder = copy_folder(&bench.folder, &copy.path().join("changed"));
    bench.prepare();
    let variants = ["unmerged", "merged"];
    let before = variants.map(|variant| bench.generate(variant, &[]));

    edit_tensors(&bench.folder.join("adapter_model.safetensors"), |tensors| {
        for (name, tensor) in tensors {
            if name.contains("lora_B") {
                tensor.values.iter_mut().for_each(|value| *value *= -1.5);
            }
        }
    });
    let said = bench.prepare();
    let up_to_date: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("up to date"))
        .collect();
    assert_eq!(up_to_date.len(), 1, "{said}");
    assert!(up_to_date[0].starts_with("base"), "{said}");
    let [unmerged, merged] = variants.map(|variant| bench.generate(variant, &[]));
    assert_apart(&unmerged, &before[0]);
    assert_apart(&merged, &before[1]);
    assert_close(&merged, &unmerged);

    set_key(
        &bench.folder.join("adapter_config.json"),
        "lora_alpha",
        1.into(),
    );
    assert_apart(&bench.generate("merged", &[]), &merged);
}

#[test]
fn a_changed_base_is_prepared_again() {
    let mut bench = Bench::new("llama-gqa", "lora");
    let copy = tempfile::tempdir().unwrap();
    bench.model = copy_folder(&bench.model, &copy.path().join("changed"));
    let variants = ["base", "unmerged", "merged"];
    let before = variants.map(|variant| bench.generate(variant, &[]));
    edit_tensors(&bench.model.join("model.safetensors"), |tensors| {
        let weight = tensors
            .get_mut("model.layers.1.mlp.down_proj.weight")
            .unwrap();
        weight.values.iter_mut().for_each(|value| *value *= 0.5);
    });
    for (variant, before) in variants.into_iter().zip(before) {
        assert_apart(&bench.generate(variant, &[]), &before);
    }
    set_key(
        &bench.model.join("config.json"),
        "rms_norm_eps",
        Value::from(0.5),
    );
    let said = bench.prepare();
    assert!(!said.contains("up to date"), "{said}");
}

#[test]
fn paths_mean_the_same_from_any_working_directory() {
    let bench = Bench::new("llama-linear", "lora");
    let expected = bench.generate("merged", &[]);
    let elsewhere = tempfile::tempdir().unwrap();
    let mut command = bench
        .case
        .generate(&bench.folder, "merged", bench.exported.path());
    command
        .arg("--model")
        .arg(&bench.model)
        .current_dir(elsewhere.path());
    assert_eq!(generate(&mut command), expected);

    // Relative to the working directory, and then run from another one.
    let here = elsewhere.path();
    copy_folder(&bench.model, &here.join("a/base"));
    copy_folder(&bench.folder, &here.join("b/lora"));
    let (experiment, exported) = (Path::new("../b/lora"), Path::new("../c/exported"));
    let mut command = bench.case.generate(experiment, "merged", exported);
    command
        .args(["--model", "base"])
        .current_dir(here.join("a"));
    assert_eq!(generate(&mut command), expected);
    let prepared = prepared_folder(&here.join("c/exported"));
    let other = Case::read(&bench.folder);
    let mut command = other.generate(&prepared, "merged", Path::new("unused"));
    assert_eq!(generate(command.current_dir("/")), expected);

    let mut command = bench.case.generate(Path::new("base"), "base", exported);
    let relative = generate(command.current_dir(here.join("a")));
    assert_eq!(relative, bench.generate("base", &[]));
    let mut command = bench.case.generate(Path::new("."), "base", exported);
    assert_eq!(generate(command.current_dir(here.join("a/base"))), relative);
}

#[test]
fn several_can_prepare_the_same_at_once() {
    let bench = Bench::new("llama-gqa", "lora");
    for alpha in 1..9 {
        let copy = tempfile::tempdir().unwrap();
        let experiment = copy_folder(&bench.folder, &copy.path().join("lora"));
        set_key(
            &experiment.join("adapter_config.json"),
            "lora_alpha",
            alpha.into(),
        );
        let started: Vec<_> = (0..8)
            .map(|_| {
                let mut command = program(["prepare", "--ep", "cpu"]);
                command.arg(&experiment).arg("--model").arg(&bench.model);
                command.arg("--export-dir").arg(bench.exported.path());
                std::thread::spawn(move || run(&mut command))
            })
            .collect();
        for thread in started {
            let outcome = thread.join().unwrap();
            assert_eq!(outcome.code, Some(0), "{outcome:?}");
        }
        let prepared = prepared_folder(bench.exported.path());
        assert_eq!(names(&prepared), ["merged", "unmerged"]);
        let all = names(prepared.parent().unwrap());
        assert_eq!(all, ["base", "finite-weights", "lora--lora"]);
        let unmerged = bench.generate_prepared(&prepared, "unmerged");
        assert_close(&bench.generate_prepared(&prepared, "merged"), &unmerged);
    }
}
