//! Files and options that can't be used: one line on stderr that names the file and what was expected, exit
//! code 1 or 2, and what was prepared before stays as it was.

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::SystemTime;

use common::*;
use peft_bench::system::Hardware;
use serde_json::{Value, json};
use tempfile::TempDir;

/// KiB of address space that a run may take: a size from a file must not be allocated unseen. A run takes a
/// fraction of it.
const ADDRESS_SPACE: u32 = 8 << 20;

/// A base model and an experiment, whole and prepared, to be spoiled by a test.
struct Trial {
    root: TempDir,
    /// The base model's folder.
    base: PathBuf,
    /// The experiment's folder.
    experiment: PathBuf,
    exported: PathBuf,
    /// Files that were prepared before, with their times of modification.
    before: Vec<(PathBuf, Option<SystemTime>)>,
}

impl Trial {
    fn new(model_name: &str, case_name: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut trial = Self {
            base: copy_folder(&model(model_name), &root.path().join("base-model")),
            experiment: copy_folder(&case(model_name, case_name), &root.path().join("trial")),
            exported: root.path().join("exported"),
            before: Vec::new(),
            root,
        };
        let outcome = trial.prepare(&[]);
        assert_eq!(outcome.code, Some(0), "before it is spoiled: {outcome:?}");
        trial.before = trial.stamps();
        assert!(trial.before.len() >= 5, "{:?}", trial.before);
        trial
    }

    /// A trial whose adapter is drawn fresh from `config`.
    fn fresh(model_name: &str, config: Value) -> Self {
        let trial = Self::new(model_name, "lora");
        fs::remove_file(trial.weights()).unwrap();
        fs::write(trial.adapter_config(), config.to_string()).unwrap();
        trial
    }

    fn adapter_config(&self) -> PathBuf {
        self.experiment.join("adapter_config.json")
    }

    fn weights(&self) -> PathBuf {
        self.experiment.join("adapter_model.safetensors")
    }

    fn base_config(&self) -> PathBuf {
        self.base.join("config.json")
    }

    fn base_weights(&self) -> PathBuf {
        self.base.join("model.safetensors")
    }

    /// Sets a key of `adapter_config.json`.
    fn set(&self, key: &str, value: Value) -> &Self {
        set_key(&self.adapter_config(), key, value);
        self
    }

    /// Everything in the folder of prepared variants; files with their times of modification.
    fn stamps(&self) -> Vec<(PathBuf, Option<SystemTime>)> {
        let stamp = |path: PathBuf| {
            let metadata = fs::metadata(&path).unwrap();
            let modified = metadata.is_file().then(|| metadata.modified().unwrap());
            (path, modified)
        };
        all_below(&self.exported).into_iter().map(stamp).collect()
    }

    fn command(&self, args: &[&str]) -> Command {
        let limited = format!("ulimit -v {ADDRESS_SPACE}; exec \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        command
            .env("MALLOC_ARENA_MAX", "2")
            .args(["-c", &limited, PROGRAM]);
        command.args(args).args(["--ep", "cpu"]);
        command.arg("--export-dir").arg(&self.exported);
        command
    }

    /// `prepare`, of all variants unless `options` say otherwise.
    fn prepare(&self, options: &[&str]) -> Outcome {
        let mut command = self.command(&["prepare"]);
        run(command
            .arg(&self.experiment)
            .args(options)
            .arg("--model")
            .arg(&self.base))
    }

    /// `generate` with the experiment, which says what to run by itself.
    fn generate(&self, options: &[&str]) -> Outcome {
        let mut command = self.command(&["generate", "--threads", "1"]);
        run(command
            .arg(&self.experiment)
            .args(options)
            .arg("--model")
            .arg(&self.base))
    }

    /// `generate` with the base alone.
    fn generate_base(&self) -> Outcome {
        let mut command = self.command(&["generate", "--threads", "1", "--prompt-ids", "1,2"]);
        run(command.arg(&self.base))
    }

    /// Checks that a run was refused in words that hold `words`, and changed nothing.
    #[track_caller]
    fn refused(&self, outcome: &Outcome, words: &[&str]) {
        assert_refused(outcome, words);
        assert_eq!(self.stamps(), self.before, "after {outcome:?}");
    }

    /// Checks that the adapter is refused, with either variant.
    #[track_caller]
    fn adapter_refused(&self, words: &[&str]) {
        for variant in ["unmerged", "merged"] {
            self.refused(&self.prepare(&["--variant", variant]), words);
        }
    }

    /// Checks that the base is refused, alone and with an adapter.
    #[track_caller]
    fn base_refused(&self, words: &[&str]) {
        self.refused(&self.generate_base(), words);
        self.refused(&self.prepare(&[]), words);
    }
}

#[track_caller]
fn assert_refused(outcome: &Outcome, words: &[&str]) {
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert_eq!(outcome.stdout, "", "{outcome:?}");
    let error = outcome
        .error()
        .unwrap_or_else(|| panic!("not an error in one line: {outcome:?}"));
    for word in words {
        assert!(error.contains(word), "`{word}` is not in `{error}`");
    }
}

// Adapters.

#[test]
fn an_unknown_key_of_an_experiments_parameters_is_refused() {
    let trial = Trial::new("llama-gqa", "lora");
    let path = trial.experiment.join("benchmark_params.json");
    fs::write(&path, r#"{"num_inferance_runs": 3}"#).unwrap();
    trial.adapter_refused(&[
        "benchmark_params.json",
        "`num_inferance_runs`",
        "did you mean `num_inference_runs`",
    ]);
    fs::write(&path, r#"{"max_new_tokens": "many"}"#).unwrap();
    trial.adapter_refused(&[
        "benchmark_params.json",
        "`max_new_tokens`",
        "an integer from 1",
    ]);
    fs::write(&path, r#"{"dtype": "float64"}"#).unwrap();
    trial.adapter_refused(&["benchmark_params.json", "`dtype`", "`bfloat16`"]);
    fs::write(&path, "{").unwrap();
    trial.adapter_refused(&["benchmark_params.json", "JSON"]);
}

#[test]
fn targets_that_match_nothing_are_refused() {
    for names in [
        json!(["w_proj"]),
        json!("w_proj"),
        json!([]),
        json!([""]),
        json!(".*\\.W"),
    ] {
        let trial = Trial::new("llama-gqa", "lora");
        trial.set("target_modules", names.clone());
        let words = [
            "adapter_config.json",
            "`target_modules`",
            "matches no module",
            "q_proj",
        ];
        trial.adapter_refused(&words);
        fs::remove_file(trial.weights()).unwrap();
        trial.adapter_refused(&words);
    }
}

#[test]
fn one_misspelt_target_of_several_is_refused() {
    let trial = Trial::new("llama-gqa", "lora");
    trial.set("target_modules", json!(["q_proj", "v_proj", "v_porj"]));
    let words = [
        "adapter_config.json",
        "`v_porj`",
        "`target_modules`",
        "v_proj",
    ];
    trial.adapter_refused(&words);
    fs::remove_file(trial.weights()).unwrap();
    trial.adapter_refused(&words);

    let trial = Trial::new("llama-gqa", "lora");
    trial.set("modules_to_save", json!(["lm_haed"]));
    trial.adapter_refused(&[
        "adapter_config.json",
        "`lm_haed`",
        "`modules_to_save`",
        "lm_head",
    ]);
}

#[test]
fn layers_that_do_not_exist_are_refused() {
    for layers in [
        json!(2),
        json!([0, 2]),
        json!([u64::MAX]),
        json!([0, 1_000_000_000_000_u64]),
    ] {
        let trial = Trial::fresh(
            "llama-gqa",
            json!({"peft_type": "LORA", "target_modules": ["q_proj"]}),
        );
        trial.set("layers_to_transform", layers);
        trial.adapter_refused(&["adapter_config.json", "`layers_to_transform`", "0 to 1"]);
    }
    for layers in [json!(-1), json!(["0"]), json!(0.5), json!({})] {
        let trial = Trial::new("llama-gqa", "lora");
        trial.set("layers_to_transform", layers);
        trial.adapter_refused(&["adapter_config.json", "`layers_to_transform`", "index"]);
    }
}

#[test]
fn a_tensor_of_the_wrong_shape_is_refused() {
    const NAME: &str = "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight";
    let trial = Trial::new("llama-gqa", "lora");
    edit_tensors(&trial.weights(), |tensors| {
        tensors.get_mut(NAME).unwrap().shape.swap(0, 1);
    });
    trial.adapter_refused(&[
        "adapter_model.safetensors",
        NAME,
        "[4, 32]",
        "expected [32, 4]",
    ]);

    let trial = Trial::new("llama-gqa", "lora");
    trial.set("r", json!(5));
    trial.adapter_refused(&[
        "adapter_model.safetensors",
        "lora_A.weight",
        "expected [5, 64]",
    ]);
}

#[test]
fn a_missing_tensor_is_refused() {
    const NAME: &str = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
    let trial = Trial::new("llama-gqa", "lora");
    edit_tensors(&trial.weights(), |tensors| {
        tensors.remove(NAME).unwrap();
    });
    trial.adapter_refused(&["adapter_model.safetensors", NAME, "missing"]);
}

#[test]
fn a_head_of_another_base_is_refused_where_a_method_works_with_the_bases_own() {
    let trial = Trial::new("llama-gqa", "osf");
    trial.set(
        "target_modules",
        json!(["lm_head", "q_proj", "k_proj", "down_proj"]),
    );
    let mut head = read_tensors(&trial.base_weights())["lm_head.weight"].clone();
    head.values[0] += 1.0;
    edit_tensors(&trial.weights(), |tensors| {
        let name = "base_model.model.lm_head.base_layer.weight";
        tensors.insert(name.to_owned(), head);
    });
    trial.adapter_refused(&["adapter_model.safetensors", "`lm_head.base_layer.weight`"]);
}

#[test]
fn a_tensor_that_nothing_uses_is_refused() {
    let trial = Trial::new("llama-gqa", "lora");
    edit_tensors(&trial.weights(), |tensors| {
        let extra = tensors.values().next().unwrap().clone();
        tensors.insert("base_model.model.extra.lora_A.weight".to_owned(), extra);
    });
    trial.adapter_refused(&[
        "adapter_model.safetensors",
        "`base_model.model.extra.lora_A.weight`",
        "nothing in this model uses",
    ]);

    // Trained for two kinds of modules, and asked for one.
    let trial = Trial::new("llama-gqa", "lora");
    trial.set("target_modules", json!(["q_proj"]));
    trial.adapter_refused(&["adapter_model.safetensors", "v_proj.lora_A", "4 in all"]);
}

#[test]
fn a_tied_head_that_peft_would_lose_is_refused() {
    let trial = Trial::new("gpt2", "lora-tie-embed");
    edit_tensors(&trial.weights(), |tensors| {
        let extra = tensors.values().next().unwrap().clone();
        tensors.insert("base_model.model.lm_head.lora_A.weight".to_owned(), extra);
    });
    trial.adapter_refused(&["`ensure_weight_tying`", "`lm_head.lora_A.weight`"]);

    let trial = Trial::new("llama-tied", "lora-tokens-apart");
    trial.set("ensure_weight_tying", json!(true));
    trial.adapter_refused(&["`ensure_weight_tying`", "lists"]);

    // What PEFT leaves of the head's weight, and of the embedding's with it, would be in the file.
    let config =
        json!({"peft_type": "LORA", "target_modules": ["lm_head"], "init_lora_weights": "olora"});
    let trial = Trial::fresh("llama-tied", config);
    trial.adapter_refused(&["`init_lora_weights`", "`lm_head`", "tied"]);

    let trial = Trial::new("llama-tied", "lora-tie-save-embed");
    trial.set("target_modules", json!(["q_proj", "lm_head"]));
    trial.adapter_refused(&["`ensure_weight_tying`", "`lm_head` is saved"]);
}

#[test]
fn an_adapter_of_integers_is_refused() {
    let trial = Trial::new("llama-gqa", "lora");
    let bytes = fs::read(trial.weights()).unwrap();
    let header = header_of(&bytes).replacen("\"F32\"", "\"I32\"", 1);
    fs::write(trial.weights(), with_header(&header, &bytes)).unwrap();
    trial.adapter_refused(&[
        "adapter_model.safetensors",
        "lora_",
        "I32",
        "supported: F32",
    ]);
}

#[test]
fn a_basis_that_has_been_rounded_is_refused() {
    const NAME: &str = "base_model.frod_V.self_attn_q_proj";
    let trial = Trial::new("llama-gqa", "frod");
    let bytes = fs::read(trial.weights()).unwrap();
    let mut header: Value = serde_json::from_str(&header_of(&bytes)).unwrap();
    let columns = header[NAME]["shape"][1].as_u64().unwrap();
    // As many bytes
    header[NAME]["dtype"] = json!("F16");
    header[NAME]["shape"][1] = json!(2 * columns);
    fs::write(trial.weights(), with_header(&header.to_string(), &bytes)).unwrap();
    trial.adapter_refused(&["adapter_model.safetensors", NAME, "F16", "expected F32"]);
}

#[test]
fn an_adapter_made_for_another_base_is_refused_and_its_base_named() {
    let trial = Trial::new("llama-tied", "lora");
    let other = case("llama-gqa", "lora");
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(other.join(file), trial.experiment.join(file)).unwrap();
    }
    trial.adapter_refused(&[
        "adapter_model.safetensors",
        "q_proj.lora_A.weight",
        "[4, 64]",
        "expected [4, 48]",
        "made for this base model",
        "`models/llama-gqa`",
    ]);
    for prompt_learning in ["prompt-tuning", "prefix-tuning"] {
        let trial = Trial::new("llama-rope3", "lora");
        let other = case("llama-gqa", prompt_learning);
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            fs::copy(other.join(file), trial.experiment.join(file)).unwrap();
        }
        trial.adapter_refused(&["adapter_config.json", "token_dim", "expected"]);
    }
}

#[test]
fn a_pickled_adapter_is_refused() {
    let trial = Trial::new("llama-gqa", "lora");
    fs::rename(trial.weights(), trial.experiment.join("adapter_model.bin")).unwrap();
    trial.adapter_refused(&["adapter_model.bin", "pickle", "adapter_model.safetensors"]);
}

#[test]
fn an_unsupported_method_is_refused_and_the_supported_ones_listed() {
    for name in ["BONE", "lora", "../../LORA", ""] {
        let trial = Trial::new("llama-gqa", "lora");
        trial.set("peft_type", json!(name));
        let words = ["adapter_config.json", "peft_type", name, "LOKR, LORA, "];
        trial.adapter_refused(&words);
    }
    let trial = Trial::new("llama-gqa", "lora");
    remove_key(&trial.adapter_config(), "peft_type");
    trial.adapter_refused(&["adapter_config.json", "`peft_type` is missing", "LORA"]);
    let trial = Trial::new("llama-gqa", "lora");
    trial.set("peft_type", json!(["LORA"]));
    trial.adapter_refused(&["adapter_config.json", "`peft_type`", "a string"]);
}

#[test]
fn options_that_change_the_arithmetic_and_are_not_implemented_are_refused() {
    for (key, value) in [
        ("use_bdlora", json!(true)),
        (
            "use_bdlora",
            json!({"target_modules_bd_a": ["x_proj"], "nblocks": 2}),
        ),
        ("alora_invocation_tokens", json!([1, 100_000])),
        ("arrow_config", json!(["task_0"])),
        ("target_parameters", json!(["experts.gate_up_proj"])),
        ("init_lora_weights", json!("pissa_niter_4")),
        ("init_lora_weights", json!("loftq")),
        ("init_lora_weights", json!("corda")),
        ("init_lora_weights", json!("lora_ga")),
        ("init_lora_weights", json!(3)),
        ("bias", json!("some")),
        ("task_type", json!("SEQ_CLS")),
    ] {
        let trial = Trial::new("llama-gqa", "lora");
        trial.set(key, value);
        trial.adapter_refused(&["adapter_config.json", &format!("`{key}`")]);
    }
}

#[test]
fn variants_of_lora_that_peft_allows_one_at_a_time_are_refused_together() {
    for (first, key) in [
        ("use_dora", "kasa_config"),
        ("velora_config", "monteclora_config"),
    ] {
        let trial = Trial::new("llama-gqa", "lora");
        let value = |key: &str| match key {
            "use_dora" => json!(true),
            _ => json!({}),
        };
        trial.set(first, value(first)).set(key, value(key));
        trial.adapter_refused(&["adapter_config.json", &format!("`{key}`"), first]);
    }
}

#[test]
fn options_of_other_methods_are_refused_by_name() {
    for (case_name, key, value) in [
        ("fourierft", "scaling", json!(1e300)),
        ("fourierft", "n_frequency", json!(1_000_000)),
        ("frod", "sparse_rate", json!(2)),
        ("osf", "effective_rank", json!(-3)),
        ("osf", "effective_rank", json!(0.001)),
        ("psoft-diagonal", "ab_svd_init", json!("other")),
        ("psoft-diagonal", "psoft_svd", json!("lowrank")),
        ("psoft-diagonal", "r", json!(1000)),
        ("pvera", "sample_at_inference", json!(true)),
        ("shira", "r", json!(1000)),
        ("supertuning", "sparsity", json!(1.0)),
        ("supertuning", "sparsity", json!(0.999_999)),
        ("tinylora", "weight_tying", json!(1.5)),
        ("unilora", "proj_seed", json!(-1)),
        ("vera", "projection_prng_key", json!(0.5)),
        ("waveft", "wavelet_family", json!("coif4")),
        ("waveft", "n_frequency", json!(1_000_000)),
    ] {
        let trial = Trial::new("llama-gqa", case_name);
        trial.set(key, value);
        trial.adapter_refused(&["adapter_config.json", &format!("`{key}`")]);
    }
}

#[test]
fn a_fresh_adapter_that_would_be_noise_is_refused() {
    let config = |r: usize| {
        let config =
            json!({"peft_type": "HRA", "r": r, "apply_GS": true, "target_modules": ["q_proj"]});
        Trial::fresh("llama-gqa", config)
    };
    config(4).adapter_refused(&["adapter_config.json", "`apply_GS`", "fresh"]);
    let odd = config(3).prepare(&[]);
    assert_eq!(odd.code, Some(0), "{odd:?}");
}

#[test]
fn what_a_seed_could_make_again_is_missed_where_it_should_be_saved() {
    for (case_name, tensor) in [
        ("vera", "base_model.vera_A"),
        ("pvera", "base_model.pvera_B"),
        ("randlora", "base_model.randlora_A"),
        (
            "tinylora",
            "base_model.model.model.layers.0.self_attn.q_proj.tinylora_P",
        ),
    ] {
        let trial = Trial::new("llama-gqa", case_name);
        edit_tensors(&trial.weights(), |tensors| {
            assert!(tensors.remove(tensor).is_some());
        });
        trial.adapter_refused(&[
            "adapter_model.safetensors",
            &format!("`{tensor}`"),
            "missing",
        ]);
    }
}

#[test]
fn tensors_of_another_shape_are_refused_whatever_the_method() {
    let layer = "base_model.model.model.layers.0.self_attn.q_proj";
    for (case_name, tensor) in [
        ("vera", format!("{layer}.vera_lambda_b")),
        ("vera", "base_model.vera_B".to_owned()),
        ("randlora", format!("{layer}.randlora_gamma")),
        ("fourierft", format!("{layer}.fourierft_spectrum")),
        ("waveft", format!("{layer}.waveft_spectrum")),
        ("tinylora", "base_model.tinylora_v.0".to_owned()),
        ("unilora", "base_model.unilora_theta_d".to_owned()),
        ("osf", format!("{layer}.osf_svd_params.U_low")),
        ("psoft-diagonal", format!("{layer}.psoft_R.vector_a")),
        ("lora-kasa", format!("{layer}.lora_diag")),
        ("lora-blocks", format!("{layer}.lora_B.weight")),
        ("lora-qalora", format!("{layer}.lora_A.weight")),
    ] {
        let trial = Trial::new("llama-gqa", case_name);
        edit_tensors(&trial.weights(), |tensors| {
            let tensor = tensors.get_mut(&tensor).unwrap();
            tensor.shape.push(1);
        });
        let named = format!("`{tensor}`");
        trial.adapter_refused(&["adapter_model.safetensors", &named, "expected"]);
    }
}

#[test]
fn hostile_values_of_an_adapters_configuration_are_refused_by_name() {
    let lora = json!({"peft_type": "LORA", "target_modules": ["q_proj"], "r": 4, "lora_alpha": 8});
    for (key, value) in [
        ("r", json!(0)),
        ("r", json!(-4)),
        ("r", json!(4.5)),
        ("r", json!("4")),
        ("r", json!(1_u64 << 30)),
        ("r", json!(1_u64 << 31)),
        ("r", json!(u64::MAX)),
        ("lora_alpha", json!("8")),
        ("lora_alpha", json!(1e300)),
        ("use_dora", json!("yes")),
        ("use_rslora", json!(1)),
        ("rank_pattern", json!({"q_proj": 0})),
        ("rank_pattern", json!({"q_proj": 0.5})),
        ("rank_pattern", json!({"q_proj": 1e18})),
        ("rank_pattern", json!({"q_proj": "4"})),
        ("rank_pattern", json!({"(": 4})),
        ("rank_pattern", json!(["q_proj"])),
        ("alpha_pattern", json!({"q_proj": 1e300})),
        ("alpha_pattern", json!({"q_proj": null})),
        ("target_modules", json!(7)),
        ("target_modules", json!([7])),
        ("target_modules", json!("(q_proj")),
        ("target_modules", json!("(?P<a>q_proj)(?P<a>x)")),
        (
            "target_modules",
            json!("((((x{100}){100}){100}){100}){100}"),
        ),
        (
            "target_modules",
            json!(format!("{}x{}", "(".repeat(100_000), ")".repeat(100_000))),
        ),
        ("exclude_modules", json!("[")),
        ("exclude_modules", json!(false)),
        ("layers_pattern", json!("layers")),
        ("layer_replication", json!([[0, 3]])),
        ("layer_replication", json!([[1, 1]])),
        ("layer_replication", json!([[0, 1, 2]])),
        ("layer_replication", json!([])),
        ("layer_replication", json!("twice")),
        ("modules_to_save", json!("lm_head")),
        ("trainable_token_indices", json!([-1])),
        ("trainable_token_indices", json!([140])),
        ("trainable_token_indices", json!({"lm_haed": [1]})),
        ("trainable_token_indices", json!("all")),
        ("trainable_token_indices", json!([])),
        ("trainable_token_indices", json!([3, 3])),
    ] {
        let trial = Trial::fresh("llama-gqa", lora.clone());
        trial.set(key, value.clone());
        for variant in ["unmerged", "merged"] {
            let outcome = trial.prepare(&["--variant", variant]);
            assert_eq!(outcome.code, Some(1), "{key} {value:.60}: {outcome:.300?}");
            trial.refused(&outcome, &["adapter_config.json", key]);
        }
    }
}

#[test]
fn prompt_learning_with_absurd_sizes_is_refused_without_allocating_them() {
    for (peft_type, key, value) in [
        ("PROMPT_TUNING", "num_virtual_tokens", json!(1_000_000_000)),
        ("PROMPT_TUNING", "num_virtual_tokens", json!(u64::MAX)),
        ("PROMPT_TUNING", "num_virtual_tokens", json!(129)),
        ("PROMPT_TUNING", "num_virtual_tokens", json!(0)),
        ("PROMPT_TUNING", "num_virtual_tokens", json!(null)),
        ("PROMPT_TUNING", "token_dim", json!(65)),
        ("PROMPT_TUNING", "prompt_tuning_init", json!("LAZY")),
        ("PREFIX_TUNING", "num_virtual_tokens", json!(1_000_000_000)),
        ("PREFIX_TUNING", "num_virtual_tokens", json!(129)),
        ("PREFIX_TUNING", "num_virtual_tokens", json!(-1)),
        ("PREFIX_TUNING", "encoder_hidden_size", json!(1_000_000_000)),
        ("PREFIX_TUNING", "num_layers", json!(3)),
    ] {
        let config = json!({
            "peft_type": peft_type, "num_virtual_tokens": 4, "prefix_projection": true,
        });
        let trial = Trial::fresh("llama-gqa", config);
        trial.set(key, value.clone());
        let outcome = trial.prepare(&["--variant", "unmerged"]);
        assert_eq!(outcome.code, Some(1), "{key} {value}: {outcome:?}");
        trial.refused(
            &outcome,
            &["adapter_config.json", &format!("`{key}`"), "expected"],
        );
    }
}

#[test]
fn a_prompts_text_with_tokens_beyond_the_vocabulary_is_refused() {
    let config = json!({
        "peft_type": "PROMPT_TUNING", "num_virtual_tokens": 30,
        "prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "zebra ~ zebra",
    });
    let trial = Trial::fresh("llama-rope3", config);
    let unmerged = ["--variant", "unmerged"];
    trial.refused(
        &trial.prepare(&unmerged),
        &["adapter_config.json", "tokenizer"],
    );
    // A tokenizer of 136 tokens, and an embedding of 96 rows.
    fs::copy(
        model("llama-gqa").join("tokenizer.json"),
        trial.base.join("tokenizer.json"),
    )
    .unwrap();
    trial.refused(
        &trial.prepare(&unmerged),
        &["adapter_config.json", "token id", "96"],
    );
}

#[test]
fn a_regular_expression_that_backtracks_without_end_is_refused() {
    // Nothing fits at the end, which is found out after 2^n ways; the look-around asks for backtracking.
    let trial = Trial::fresh("llama-gqa", json!({"peft_type": "LORA"}));
    trial.set("target_modules", json!(r"(\w|\.|\w\w|\w\.)*(?=!)!"));
    trial.adapter_refused(&["adapter_config.json", "target_modules", "backtrack"]);
    // The same, beside a target that is found at once: the rest must not be passed over.
    trial.set("target_modules", json!(r"lm_head|(\w|\.|\w\w|\w\.)*(?=!)!"));
    trial.adapter_refused(&["adapter_config.json", "target_modules", "backtrack"]);
}

#[test]
fn deeply_nested_and_repeated_keys_are_no_trouble() {
    let trial = Trial::new("llama-gqa", "lora");
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    fs::write(
        trial.adapter_config(),
        format!(r#"{{"peft_type": {deep}}}"#),
    )
    .unwrap();
    trial.adapter_refused(&["adapter_config.json", "recursion limit"]);
    for broken in [
        "",
        "{",
        "[]",
        "null",
        "{\"peft_type\": \"LORA\",}",
        "\u{feff}{}",
        "\0",
    ] {
        fs::write(trial.adapter_config(), broken).unwrap();
        trial.adapter_refused(&["adapter_config.json"]);
    }
    fs::write(
        trial.adapter_config(),
        [b'{', b'"', 0xff, b'"', b':', b'1', b'}'],
    )
    .unwrap();
    trial.adapter_refused(&["adapter_config.json"]);
    // As Python reads it: the last one counts.
    let twice = r#"{"peft_type": "LORA", "r": 4, "r": 0, "target_modules": ["q_proj", "v_proj"]}"#;
    fs::write(trial.adapter_config(), twice).unwrap();
    trial.adapter_refused(&["adapter_config.json", "`r`", "positive integer"]);
}

#[test]
fn values_that_are_not_finite_are_refused() {
    // What DEFT's is for, an orthonormal factor, would be finite again.
    for (case, name, values) in [
        (
            "lora",
            "lora_B.weight",
            &[f32::NAN, f32::INFINITY, f32::NEG_INFINITY][..],
        ),
        ("deft-para-qr", "deft_P", &[f32::NAN]),
    ] {
        let name = format!("base_model.model.model.layers.0.self_attn.q_proj.{name}");
        for value in values {
            let trial = Trial::new("llama-gqa", case);
            let mut spoilt = fs::read(trial.weights()).unwrap();
            let data = data_of(&spoilt, &name);
            for element in spoilt[data].chunks_exact_mut(4) {
                element.copy_from_slice(&value.to_le_bytes());
            }
            fs::write(trial.weights(), spoilt).unwrap();
            let merged = trial.prepare(&["--variant", "merged"]);
            trial.refused(
                &merged,
                &[&name, "adapter_model", "not finite", "element 0"],
            );
            let unmerged = trial.prepare(&["--variant", "unmerged"]);
            trial.refused(
                &unmerged,
                &[&name, "adapter_model", "not finite", "element 0"],
            );
        }
    }
}

#[test]
fn a_merged_value_that_overflows_float16_is_refused() {
    let trial = Trial::new("llama-gqa", "lora");
    let half = trial.prepare(&["--dtype", "float16"]);
    assert_eq!(half.code, Some(0), "{half:?}");
    let before = trial.stamps();
    edit_tensors(&trial.weights(), |tensors| {
        for tensor in tensors.values_mut() {
            tensor.values.iter_mut().for_each(|value| *value *= 1e3);
        }
    });
    let outcome = trial.prepare(&["--dtype", "float16", "--variant", "merged"]);
    assert_refused(
        &outcome,
        &["overlay.safetensors", "_proj.weight", "rounding to float16"],
    );
    assert_eq!(trial.stamps(), before);
    let outcome = trial.prepare(&["--dtype", "bfloat16", "--variant", "merged"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
}

/// Overwrites the first element of the base's `name`.
fn spoil_base(trial: &Trial, name: &str, value: f32) {
    let mut bytes = fs::read(trial.base_weights()).unwrap();
    let at = data_of(&bytes, name).start;
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    fs::write(trial.base_weights(), bytes).unwrap();
}

#[test]
fn a_weight_of_the_base_that_is_not_finite_is_refused() {
    for (name, value, found) in [
        ("model.layers.0.mlp.up_proj.weight", f32::NAN, "NaN"),
        ("model.norm.weight", f32::NEG_INFINITY, "-inf"),
    ] {
        let trial = Trial::new("llama-gqa", "lora");
        spoil_base(&trial, name, value);
        let words = [
            "model.safetensors",
            &format!("`{name}`"),
            found,
            "element 0",
        ];
        for variant in ["base", "merged", "unmerged"] {
            trial.refused(&trial.prepare(&["--variant", variant]), &words);
        }
        trial.base_refused(&words);
        // It counts once it's mended.
        spoil_base(&trial, name, 0.5);
        assert_eq!(trial.prepare(&[]).code, Some(0));
    }
}

#[test]
fn logits_that_are_not_finite_are_refused() {
    let trial = Trial::new("llama-gqa", "lora");
    // Finite in float32, and not in the dtype that's asked for.
    spoil_base(&trial, "model.layers.0.mlp.up_proj.weight", 1e5);
    for variant in ["base", "unmerged"] {
        let options = [
            "--prompt-ids",
            "1,2,3",
            "--dtype",
            "float16",
            "--variant",
            variant,
        ];
        let outcome = trial.generate(&options);
        assert_refused(&outcome, &["logits", variant, "not finite", "float16"]);
    }
}

#[test]
fn an_experiment_that_is_not_there_is_refused() {
    let trial = Trial::new("llama-gqa", "lora");
    let missing = trial.root.path().join("lora/nothing");
    let mut command = trial.command(&["prepare"]);
    trial.refused(
        &run(command.arg(&missing)),
        &["no experiment folder", "lora/nothing"],
    );
    let mut command = trial.command(&["generate", "--prompt-ids", "1"]);
    trial.refused(
        &run(command.arg(&missing)),
        &["no experiment folder", "lora/nothing"],
    );

    fs::create_dir_all(&missing).unwrap();
    let mut command = trial.command(&["prepare"]);
    trial.refused(
        &run(command.arg(&missing)),
        &["lora/nothing", "adapter_config.json"],
    );
    let mut command = trial.command(&["prepare"]);
    trial.refused(
        &run(command.arg(&trial.base)),
        &["base-model", "adapter_config.json"],
    );
}

// Safetensors files, as an adapter and as a base.

/// The JSON of a safetensors file.
fn header_of(bytes: &[u8]) -> String {
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    String::from_utf8(bytes[8..8 + length].to_vec()).unwrap()
}

/// The file with another header before its data.
fn with_header(header: &str, bytes: &[u8]) -> Vec<u8> {
    let old = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut all = (header.len() as u64).to_le_bytes().to_vec();
    all.extend_from_slice(header.as_bytes());
    all.extend_from_slice(&bytes[8 + old..]);
    all
}

/// Where the data of the tensor `name` is in its file.
fn data_of(bytes: &[u8], name: &str) -> std::ops::Range<usize> {
    let header = header_of(bytes);
    let json: Value = serde_json::from_str(&header).unwrap();
    let place = |number: usize| {
        let offset = json[name]["data_offsets"][number].as_u64().unwrap();
        8 + header.len() + offset as usize
    };
    place(0)..place(1)
}

/// Ways to spoil a safetensors file, with what the message must name beside the file.
fn spoilt_files(whole: &[u8]) -> Vec<(&'static str, String, Vec<u8>)> {
    let header: Value = serde_json::from_str(&header_of(whole)).unwrap();
    let name = header
        .as_object()
        .unwrap()
        .keys()
        .find(|key| *key != "__metadata__")
        .unwrap();
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut header = header.clone();
        change(&mut header[name]);
        with_header(&header.to_string(), whole)
    };
    let offsets = |add: [i64; 2]| {
        changed(&|tensor| {
            for (number, add) in add.into_iter().enumerate() {
                let offset = tensor["data_offsets"][number].as_i64().unwrap();
                tensor["data_offsets"][number] = json!(offset + add);
            }
        })
    };
    let sized = |length: u64| [&length.to_le_bytes()[..], &whole[8..]].concat();
    let too_long = format!("{} bytes, the file has {}", whole.len(), whole.len() + 1);
    let all: Vec<(&str, &str, Vec<u8>)> = vec![
        ("empty", "0 bytes", Vec::new()),
        ("cut in the length", "5 bytes", whole[..5].to_vec()),
        ("cut in the header", "100", whole[..100].to_vec()),
        (
            "cut in the data",
            "cut off",
            whole[..whole.len() - 1].to_vec(),
        ),
        ("too long", &too_long, [whole, &[0]].concat()),
        ("overlapping offsets", name, offsets([4, 4])),
        ("offsets out of range", "begin", offsets([1 << 40, 1 << 40])),
        (
            "offsets in the wrong order",
            "8 to 0",
            changed(&|t| t["data_offsets"] = json!([8, 0])),
        ),
        (
            "negative offsets",
            "-8",
            changed(&|t| t["data_offsets"] = json!([-8, 0])),
        ),
        (
            "a size that overflows",
            name,
            changed(&|t| t["shape"] = json!([u64::MAX, u64::MAX])),
        ),
        (
            "a shape that does not fit",
            name,
            changed(&|t| t["shape"] = json!([1, 1])),
        ),
        (
            "an unknown dtype",
            "F33",
            changed(&|t| t["dtype"] = json!("F33")),
        ),
        (
            "an absurd header length",
            "18446744073709551615",
            sized(u64::MAX),
        ),
        ("a header beyond the file", "1048576", sized(1 << 20)),
        (
            "a header that is no JSON",
            "header",
            with_header("this is not JSON", whole),
        ),
        (
            "a header that is an array",
            "header",
            with_header("[1, 2]", whole),
        ),
        (
            "a header that is nested deeply",
            "header",
            with_header(&"[".repeat(100_000), whole),
        ),
        (
            "a header that is not UTF-8",
            "UTF-8",
            [&8_u64.to_le_bytes()[..], &[0xff; 8]].concat(),
        ),
        (
            "a web page",
            "web page",
            b"<!DOCTYPE html><html><body>404 Not Found</body></html>".to_vec(),
        ),
        (
            "a pointer of Git LFS",
            "git lfs pull",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4cac19622f\nsize 5\n".to_vec(),
        ),
    ];
    all.into_iter()
        .map(|(label, words, bytes)| (label, words.to_owned(), bytes))
        .collect()
}

#[test]
fn a_malformed_adapter_file_is_refused() {
    let trial = Trial::new("llama-gqa", "lora");
    for (label, words, bytes) in spoilt_files(&fs::read(trial.weights()).unwrap()) {
        fs::write(trial.weights(), bytes).unwrap();
        let outcome = trial.prepare(&["--variant", "merged"]);
        assert_eq!(outcome.code, Some(1), "{label}: {outcome:?}");
        trial.adapter_refused(&["adapter_model.safetensors", &words]);
    }
    fs::remove_file(trial.weights()).unwrap();
    fs::create_dir(trial.weights()).unwrap();
    trial.adapter_refused(&["adapter_model.safetensors"]);
}

#[test]
fn a_malformed_base_file_is_refused() {
    let trial = Trial::new("llama-gqa", "lora");
    for (label, words, bytes) in spoilt_files(&fs::read(trial.base_weights()).unwrap()) {
        fs::write(trial.base_weights(), bytes).unwrap();
        let outcome = trial.generate_base();
        assert_eq!(outcome.code, Some(1), "{label}: {outcome:?}");
        trial.base_refused(&["base-model", "model.safetensors", &words]);
    }
    fs::remove_file(trial.base_weights()).unwrap();
    trial.base_refused(&[
        "base-model",
        "no weights found",
        "`model.safetensors.index.json`",
    ]);
}

#[test]
fn a_base_without_one_of_its_tensors_is_refused() {
    const NAME: &str = "model.layers.1.mlp.up_proj.weight";
    let trial = Trial::new("llama-gqa", "lora");
    edit_tensors(&trial.base_weights(), |tensors| {
        tensors.remove(NAME).unwrap();
    });
    trial.base_refused(&["model.safetensors", NAME, "missing"]);
}

#[test]
fn a_base_that_was_cut_after_it_was_prepared_is_refused() {
    let trial = Trial::new("llama-gqa", "lora");
    let bytes = fs::read(trial.base_weights()).unwrap();
    fs::write(trial.base_weights(), &bytes[..bytes.len() / 2]).unwrap();
    let models = names(&trial.exported);
    for variant in ["base", "unmerged", "merged"] {
        let below = if variant == "base" {
            "base"
        } else {
            "lora--trial"
        };
        let mut command = trial.command(&["generate", "--prompt-ids", "1", "--variant", variant]);
        let outcome = run(command.arg(trial.exported.join(&models[0]).join(below)));
        trial.refused(&outcome, &["model.safetensors", "shorter", "prepare"]);
    }
}

#[test]
fn broken_shards_are_refused() {
    let index = |trial: &Trial| trial.base.join("model.safetensors.index.json");
    let first = |trial: &Trial| {
        let json = read_json(&index(trial));
        let (name, shard) = json["weight_map"]
            .as_object()
            .unwrap()
            .iter()
            .next()
            .unwrap();
        (name.clone(), shard.as_str().unwrap().to_owned())
    };
    let point_to = |trial: &Trial, shard: &str| {
        let mut json = read_json(&index(trial));
        json["weight_map"][first(trial).0] = json!(shard);
        fs::write(index(trial), json.to_string()).unwrap();
    };

    let trial = Trial::new("llama-linear", "lora");
    let (_, shard) = first(&trial);
    fs::remove_file(trial.base.join(&shard)).unwrap();
    trial.base_refused(&[&shard, "cannot read"]);

    let outside = [
        "../base-model/model-00001-of-00004.safetensors",
        "/etc/hostname",
        "..",
        "",
    ];
    for shard in outside {
        let trial = Trial::new("llama-linear", "lora");
        point_to(&trial, shard);
        trial.base_refused(&["index.json", &format!("`{shard}`"), "inside"]);
    }

    let trial = Trial::new("llama-linear", "lora");
    let (name, shard) = first(&trial);
    let is_other = |name: &String| name.ends_with(".safetensors") && *name != shard;
    let other = names(&trial.base).into_iter().rfind(is_other).unwrap();
    point_to(&trial, &other);
    trial.base_refused(&[&name, &other, "missing"]);

    for broken in [
        "",
        "{}",
        r#"{"weight_map": []}"#,
        r#"{"weight_map": {"a": 1}}"#,
    ] {
        let trial = Trial::new("llama-linear", "lora");
        fs::write(index(&trial), broken).unwrap();
        trial.base_refused(&["index.json", "cannot parse"]);
    }
    let trial = Trial::new("llama-linear", "lora");
    fs::write(index(&trial), r#"{"weight_map": {}}"#).unwrap();
    trial.base_refused(&["index.json", "missing"]);
}

// The base's configuration.

#[test]
fn an_unsupported_architecture_is_refused_and_the_supported_ones_listed() {
    let trial = Trial::new("llama-gqa", "lora");
    set_key(&trial.base_config(), "model_type", json!("mamba"));
    trial.base_refused(&["config.json", "model_type", "`mamba`", "llama", "opt"]);
    remove_key(&trial.base_config(), "model_type");
    trial.base_refused(&["config.json", "`model_type` is missing", "llama", "opt"]);
    for broken in ["", "[]", "7", "{\"model_type\"", "nul"] {
        fs::write(trial.base_config(), broken).unwrap();
        trial.base_refused(&["base-model", "config.json"]);
    }
    fs::remove_file(trial.base_config()).unwrap();
    trial.refused(
        &trial.prepare(&[]),
        &["base-model", "config.json", "cannot read"],
    );
}

/// Values that no size of a model can have.
fn no_sizes() -> Vec<Value> {
    vec![
        json!(0),
        json!(-1),
        json!(1.5),
        json!("64"),
        json!([64]),
        json!({}),
        json!(true),
        json!(1_u64 << 60),
        json!(u64::MAX),
        json!(1e30),
    ]
}

#[test]
fn sizes_that_cannot_be_are_refused_by_name() {
    for (model, sizes) in [
        (
            "llama-gqa",
            &[
                "hidden_size",
                "intermediate_size",
                "vocab_size",
                "num_attention_heads",
                "num_key_value_heads",
                "num_hidden_layers",
                "head_dim",
                "max_position_embeddings",
            ][..],
        ),
        (
            "opt-pre",
            &[
                "hidden_size",
                "ffn_dim",
                "vocab_size",
                "num_attention_heads",
                "num_hidden_layers",
                "word_embed_proj_dim",
                "max_position_embeddings",
            ][..],
        ),
    ] {
        let trial = Trial::new(model, "lora");
        let whole = fs::read(trial.base_config()).unwrap();
        for key in sizes {
            for value in no_sizes() {
                set_key(&trial.base_config(), key, value.clone());
                let outcome = trial.prepare(&[]);
                assert_eq!(outcome.code, Some(1), "{model} {key} {value}: {outcome:?}");
                trial.refused(
                    &outcome,
                    &["config.json", &format!("`{key}`"), "positive integer"],
                );
                fs::write(trial.base_config(), &whole).unwrap();
            }
        }
    }
}

#[test]
fn sizes_that_the_weights_do_not_have_are_refused_without_allocating_them() {
    let large = json!(1_u64 << 30);
    for model in ["llama-gqa", "opt-pre"] {
        let trial = Trial::new(model, "lora");
        let whole = fs::read(trial.base_config()).unwrap();
        let config = read_json(&trial.base_config());
        let sizes = [
            "hidden_size",
            "intermediate_size",
            "ffn_dim",
            "vocab_size",
            "head_dim",
        ];
        let counts = [
            "num_attention_heads",
            "num_key_value_heads",
            "num_hidden_layers",
        ];
        for key in sizes.into_iter().chain(counts) {
            if config.get(key).is_none() {
                continue;
            }
            for value in [large.clone(), json!(3), json!(1 << 16)] {
                set_key(&trial.base_config(), key, value.clone());
                let outcome = trial.prepare(&[]);
                assert_eq!(outcome.code, Some(1), "{model} {key} {value}: {outcome:?}");
                trial.refused(&outcome, &["base-model"]);
                fs::write(trial.base_config(), &whole).unwrap();
            }
        }
    }
}

#[test]
fn keys_that_a_model_needs_are_missed_by_name() {
    for (model, keys) in [
        (
            "llama-gqa",
            &[
                "hidden_size",
                "intermediate_size",
                "vocab_size",
                "num_attention_heads",
            ][..],
        ),
        (
            "opt-pre",
            &[
                "hidden_size",
                "ffn_dim",
                "max_position_embeddings",
                "num_hidden_layers",
            ][..],
        ),
    ] {
        let trial = Trial::new(model, "lora");
        let whole = fs::read(trial.base_config()).unwrap();
        for key in keys {
            remove_key(&trial.base_config(), key);
            trial.base_refused(&["config.json", &format!("`{key}` is missing")]);
            fs::write(trial.base_config(), &whole).unwrap();
        }
    }
}

#[test]
fn values_that_a_model_cannot_have_are_refused_by_name() {
    for (model, key, value) in [
        ("llama-gqa", "num_key_value_heads", json!(3)),
        ("llama-gqa", "head_dim", json!(15)),
        ("llama-gqa", "hidden_act", json!("swoosh")),
        ("llama-gqa", "hidden_act", json!(1)),
        ("llama-gqa", "attention_bias", json!("no")),
        ("llama-gqa", "tie_word_embeddings", json!(0)),
        ("llama-gqa", "rms_norm_eps", json!("small")),
        ("llama-gqa", "rms_norm_eps", json!(-1.0)),
        ("llama-gqa", "partial_rotary_factor", json!(0.5)),
        (
            "llama-gqa",
            "rope_parameters",
            json!({"rope_type": "ntk-by-parts", "factor": 2.0}),
        ),
        (
            "llama-gqa",
            "rope_parameters",
            json!({"rope_type": "linear"}),
        ),
        (
            "llama-gqa",
            "rope_parameters",
            json!({"rope_type": "linear", "factor": 0}),
        ),
        (
            "llama-gqa",
            "rope_parameters",
            json!({"rope_type": "linear", "factor": 1e-300}),
        ),
        (
            "llama-gqa",
            "rope_parameters",
            json!({"rope_type": "llama3", "factor": 2.0}),
        ),
        ("llama-gqa", "rope_parameters", json!({"rope_type": 3})),
        ("llama-gqa", "rope_parameters", json!({"rope_theta": -1})),
        (
            "llama-gqa",
            "rope_parameters",
            json!({"rope_theta": 1e-300}),
        ),
        ("llama-gqa", "rope_parameters", json!("default")),
        ("opt-pre", "num_attention_heads", json!(5)),
        ("opt-pre", "activation_function", json!("swoosh")),
        ("opt-pre", "enable_bias", json!("yes")),
        ("opt-pre", "do_layer_norm_before", json!([])),
        ("mistral", "sliding_window", json!(0)),
        ("mistral", "sliding_window", json!("all")),
        ("qwen2", "layer_types", json!(["full_attention"])),
        (
            "qwen2",
            "layer_types",
            json!(["full_attention", "chunked_attention"]),
        ),
        (
            "qwen2",
            "rope_parameters",
            json!({"rope_type": "yarn", "factor": -1}),
        ),
        ("qwen3", "rope_parameters", json!({"rope_type": "dynamic"})),
        ("smollm3", "no_rope_layers", json!([1, 2])),
        ("smollm3", "no_rope_layers", json!([1])),
        ("olmo", "clip_qkv", json!(0)),
        ("granite", "logits_scaling", json!(0)),
        ("stablelm", "qk_layernorm", json!(true)),
        (
            "stablelm",
            "rope_parameters",
            json!({"rope_type": "default", "partial_rotary_factor": 0.4}),
        ),
        ("gemma", "use_bidirectional_attention", json!(true)),
        ("gemma2", "attn_logit_softcapping", json!(-1)),
        ("gemma2", "query_pre_attn_scalar", json!(0)),
        ("gemma3", "use_bidirectional_attention", json!(true)),
        (
            "phi3",
            "rope_parameters",
            json!({"rope_type": "longrope", "short_factor": [1, 1], "long_factor": [1, 1]}),
        ),
        ("gpt2", "add_cross_attention", json!(true)),
        ("gptj", "rotary_dim", json!(7)),
        ("gptj", "rotary_dim", json!(null)),
        ("falcon", "alibi", json!(true)),
        ("falcon", "num_ln_in_parallel_attn", json!(2)),
        ("falcon-groups", "parallel_attn", json!(false)),
        ("falcon-groups", "num_kv_heads", json!(3)),
        ("falcon-heads", "num_kv_heads", json!(2)),
        ("bloom", "n_head", json!(5)),
        ("mixtral", "num_experts_per_tok", json!(5)),
        ("qwen3-moe", "mlp_only_layers", json!("all")),
        ("mpt", "no_bias", json!(false)),
        ("mpt", "logit_scale", json!(0.5)),
        ("mpt", "attn_config", json!({"alibi": false})),
        ("mpt", "attn_config", json!({"qk_ln": true})),
        (
            "mpt",
            "attn_config",
            json!({"attn_type": "multiquery_attention"}),
        ),
    ] {
        let trial = Trial::new(model, "lora");
        set_key(&trial.base_config(), key, value.clone());
        let outcome = trial.prepare(&[]);
        assert_eq!(outcome.code, Some(1), "{model} {key} {value}: {outcome:?}");
        let key = match key {
            "rope_parameters" => "rope",
            key => key,
        };
        trial.refused(&outcome, &["config.json", key]);
    }
}

#[test]
fn a_shadow_of_a_model_that_it_cannot_mirror_is_refused() {
    let config = json!({"peft_type": "SHADOW", "task_type": "CAUSAL_LM", "r": 4});
    for (model, words) in [("mixtral", "experts"), ("olmoe", "experts")] {
        let trial = Trial::fresh(model, config.clone());
        trial.refused(&trial.prepare(&[]), &["SHADOW", words]);
    }
}

#[test]
fn experts_are_adapted_by_lora_alone() {
    let trial = Trial::fresh(
        "mixtral",
        json!({"peft_type": "LOHA", "r": 2, "target_modules": ["q_proj", "w1"]}),
    );
    trial.refused(
        &trial.prepare(&[]),
        &["adapter_config.json", "experts.0.w1"],
    );
}

#[test]
fn what_peft_refuses_beside_parameters_is_refused() {
    for (key, value) in [
        ("lora_dropout", json!(0.1)),
        ("fan_in_fan_out", json!(true)),
        ("lora_bias", json!(true)),
        ("use_dora", json!(true)),
        ("velora_config", json!({})),
        ("kasa_config", json!({})),
        ("monteclora_config", json!({})),
        ("alora_invocation_tokens", json!([1])),
        ("init_lora_weights", json!("pissa")),
        ("init_lora_weights", json!("olora")),
        ("init_lora_weights", json!("mica")),
    ] {
        let trial = Trial::new("mixtral", "lora-experts");
        trial.set(key, value);
        let words = [
            "adapter_config.json",
            &format!("`{key}`"),
            "`target_parameters`",
        ];
        trial.refused(&trial.prepare(&[]), &words);
    }
}

#[test]
fn fresh_stacked_experts_have_no_orthogonal_start() {
    let trial = Trial::new("mixtral", "lora-experts");
    trial.set("init_lora_weights", json!("orthogonal"));
    fs::remove_file(trial.weights()).unwrap();
    let words = [
        "adapter_config.json",
        "`init_lora_weights`",
        "stacked experts",
    ];
    trial.refused(&trial.prepare(&[]), &words);
}

#[test]
fn parameters_that_cannot_be_adapted_are_refused() {
    for (key, value, words) in [
        (
            "target_parameters",
            json!("gate_up_proj"),
            ["`target_parameters`", "a list"],
        ),
        (
            "target_parameters",
            json!(["gate_proj"]),
            ["`gate_proj`", "experts.down_proj"],
        ),
        (
            "target_parameters",
            json!(["norm.weight"]),
            ["`model.norm.weight`", "experts"],
        ),
        (
            "target_parameters",
            json!(["q_proj.weight"]),
            ["`target_modules`", "q_proj.weight"],
        ),
        (
            "modules_to_save",
            json!(["experts"]),
            ["`modules_to_save`", "gate_up_proj"],
        ),
        ("target_modules", json!(["w1", "w2"]), ["`w1`", "`w3`"]),
    ] {
        let trial = Trial::new("mixtral", "lora-experts");
        trial.set(key, value);
        trial.refused(&trial.prepare(&[]), &words);
    }
}

#[test]
fn a_file_that_does_not_fit_the_experts_is_refused() {
    // Without `down_proj`, the tensors that hang on the experts themselves would be `gate_up_proj`'s.
    let trial = Trial::new("mixtral", "lora-experts");
    trial.set("target_parameters", json!(["experts.gate_up_proj"]));
    trial.refused(
        &trial.prepare(&[]),
        &["mlp.experts.lora_A.weight", "[8, 24]", "[8, 32]"],
    );

    // PEFT takes single experts' gates and ups for those of a wrapper that isn't there without `w2`.
    let trial = Trial::new("mixtral", "lora-single-experts");
    trial.set("target_modules", json!(["q_proj", "w1", "w3", "gate"]));
    trial.refused(&trial.prepare(&[]), &["`target_modules`", "`w2`"]);

    let trial = Trial::new("mixtral", "lora-single-experts");
    trial.set("rank_pattern", json!({"gate_up_proj": 3}));
    trial.refused(&trial.prepare(&[]), &["`gate_up_proj`", "even rank", "3"]);
}

#[test]
fn nodes_of_their_own_are_not_there_for_parameters() {
    for (model, case) in [("mixtral", "lora-experts"), ("gpt2", "lora-parameters")] {
        let trial = Trial::new(model, case);
        let outcome = trial.prepare(&["--adapter-form", "native"]);
        trial.refused(&outcome, &["`--adapter-form native`", "LORA"]);
    }
}

#[test]
fn positions_that_would_need_another_rotation_are_refused_with_the_reason() {
    let ids = vec!["5"; 60].join(",");
    for (model, new_tokens, words) in [
        ("phi3", "8", ["64", "longrope"]),
        ("qwen3", "80", ["128", "dynamic"]),
    ] {
        let trial = Trial::new(model, "lora");
        let outcome = trial.generate(&["--prompt-ids", &ids, "--max-new-tokens", new_tokens]);
        trial.refused(&outcome, &words);
    }
}

// Options.

#[test]
fn a_prompt_that_does_not_fit_is_refused() {
    let trial = Trial::new("llama-gqa", "lora");
    let long: Vec<String> = (0..120).map(|id| id.to_string()).collect();
    let long = long.join(",");
    for (options, needed) in [
        (["--prompt-ids", &long, "--max-new-tokens", "9"], "129"),
        (["--prompt-ids", "1", "--max-new-tokens", "128"], "129"),
        (
            [
                "--prompt-ids",
                "1",
                "--max-new-tokens",
                "18446744073709551615",
            ],
            "positions",
        ),
        (
            [
                "--prompt-ids",
                "1,2",
                "--max-new-tokens",
                "18446744073709551614",
            ],
            "positions",
        ),
    ] {
        trial.refused(&trial.generate(&options), &[needed, "the model has 128"]);
    }
    let fits = trial.generate(&["--prompt-ids", &long, "--max-new-tokens", "8"]);
    assert_eq!(fits.code, Some(0), "{fits:?}");

    // Virtual tokens take positions too.
    let trial = Trial::fresh(
        "llama-gqa",
        json!({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 100}),
    );
    let outcome = trial.generate(&["--prompt-ids", "1,2", "--max-new-tokens", "27"]);
    assert_refused(&outcome, &["129", "the model has 128"]);
    let outcome = trial.generate(&["--prompt-ids", "1", "--max-new-tokens", "27"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
}

#[test]
fn a_token_outside_the_vocabulary_is_refused() {
    let trial = Trial::new("llama-gqa", "lora");
    for id in ["140", "4294967295"] {
        let outcome = trial.generate(&["--prompt-ids", &format!("1,{id},2")]);
        trial.refused(&outcome, &[id, "vocabulary", "139"]);
    }
    let last = trial.generate(&["--prompt-ids", "139", "--max-new-tokens", "1"]);
    assert_eq!(last.code, Some(0), "{last:?}");
}

#[test]
fn options_of_the_wrong_form_are_a_matter_of_usage() {
    let trial = Trial::new("llama-gqa", "lora");
    for options in [
        &["--prompt-ids", "1,-2"][..],
        &["--prompt-ids", "4294967296"],
        &["--prompt-ids", "one"],
        &["--prompt-ids", ""],
        &["--prompt-ids", "1", "--prompt", "both"],
        &["--prompt-ids", "1", "--max-new-tokens", "0"],
        &["--prompt-ids", "1", "--max-new-tokens", "-3"],
        &["--prompt-ids", "1", "--variant", "folded"],
        &["--prompt-ids", "1", "--dtype", "int8"],
        &["--prompt-ids", "1", "--threads", "0"],
        &["--prompt-ids", "1", "--weights", "on-disk"],
        &["--prompt-ids", "1", "--unknown"],
        &[],
    ] {
        let outcome = trial.generate(options);
        assert_eq!(outcome.code, Some(2), "{options:?}: {outcome:?}");
        assert_eq!(outcome.stdout, "");
        assert!(outcome.stderr.starts_with("error: "), "{outcome:?}");
        assert_eq!(trial.stamps(), trial.before);
    }
}

#[test]
fn a_model_that_is_no_model_is_refused() {
    let trial = Trial::new("llama-gqa", "lora");
    for id in [
        "/no/such/folder",
        "./nothing",
        "synthetic/no-such-shape",
        "no-slash",
        "",
    ] {
        let mut command = trial.command(&["prepare", "--offline"]);
        let outcome = run(command.arg(&trial.experiment).args(["--model", id]));
        trial.refused(&outcome, &[id.trim_start_matches("synthetic/")]);
    }
    let mut command = trial.command(&["generate", "--prompt-ids", "1", "--variant", "merged"]);
    trial.refused(
        &run(command.arg(&trial.base)),
        &["base-model", "without an adapter", "`base`"],
    );
}

#[test]
fn options_that_a_prepared_folder_has_settled_are_refused() {
    let trial = Trial::new("llama-gqa", "lora");
    let models = names(&trial.exported);
    let prepared = trial.exported.join(&models[0]).join("lora--trial");
    for options in [["--model", "synthetic/x"], ["--dtype", "float16"]] {
        let mut command = trial.command(&["generate", "--prompt-ids", "1"]);
        let outcome = run(command.arg(&prepared).args(options));
        trial.refused(&outcome, &[options[0], "prepared"]);
    }
    let mut command = trial.command(&["generate", "--prompt-ids", "1", "--dtype", "float32"]);
    let outcome = run(command.arg(&prepared));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
}

#[test]
fn cuda_is_refused_where_there_is_none() {
    if Hardware::collect(0).num_accelerators > 0 {
        return;
    }
    let trial = Trial::new("llama-gqa", "lora");
    let mut command = program(["prepare", "--ep", "cuda"]);
    command
        .arg(&trial.experiment)
        .arg("--model")
        .arg(&trial.base);
    let outcome = run(command.arg("--export-dir").arg(&trial.exported));
    trial.refused(&outcome, &["`--ep cuda`", "no NVIDIA GPU", "`--ep cpu`"]);
}

// Writing.

#[test]
fn a_full_disk_during_the_merge_is_an_error_that_names_the_file() {
    let trial = Trial::new("llama-gqa", "lora");
    trial.set("lora_alpha", json!(5));
    // 16 blocks of 512 or 1024 bytes; the overlay has 48 KiB.
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "ulimit -f 16; exec \"$0\" \"$@\"",
        PROGRAM,
        "prepare",
        "--ep",
        "cpu",
    ]);
    command
        .arg(&trial.experiment)
        .arg("--model")
        .arg(&trial.base);
    command
        .args(["--variant", "merged"])
        .arg("--export-dir")
        .arg(&trial.exported);
    let outcome = run(&mut command);
    trial.refused(
        &outcome,
        &["cannot write", "overlay.safetensors", "File too large"],
    );

    let models = names(&trial.exported);
    let earlier = trial.exported.join(&models[0]).join("lora--trial/merged");
    let mut command = trial.command(&["generate", "--prompt-ids", "1,2,3"]);
    let outcome = run(command.arg(earlier));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
}

#[test]
fn folders_that_cannot_be_written_are_named() {
    let trial = Trial::new("llama-gqa", "lora");
    let file = trial.root.path().join("a-file");
    fs::write(&file, "in the way").unwrap();
    for exported in [
        file.clone(),
        file.join("below"),
        PathBuf::from("/proc/exported"),
    ] {
        let mut command = program(["prepare", "--ep", "cpu"]);
        command
            .arg(&trial.experiment)
            .arg("--model")
            .arg(&trial.base);
        let outcome = run(command.arg("--export-dir").arg(&exported));
        trial.refused(&outcome, &["cannot write", exported.to_str().unwrap()]);
    }
    assert_eq!(fs::read(&file).unwrap(), b"in the way");

    let logits = file.join("logits.safetensors");
    let outcome = trial.generate(&["--prompt-ids", "1", "--logits", logits.to_str().unwrap()]);
    trial.refused(&outcome, &["cannot write", "logits.safetensors"]);
}
