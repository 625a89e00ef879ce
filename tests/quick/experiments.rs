//! `init`, `check`, the lists as data, completions and man pages.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use peft_bench::adapter::PEFT_TYPES;
use serde_json::{Value, json};

use crate::common::cases::{REFUSED, models};
use crate::common::*;

/// Runs the program in `folder`.
fn run_in<const N: usize>(folder: &Path, args: [&str; N]) -> Outcome {
    run(program(args).current_dir(folder))
}

fn list(name: &str) -> Value {
    let outcome = run(&mut program([name, "--json"]));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    serde_json::from_str(&outcome.stdout).unwrap()
}

#[test]
fn init_begins_an_experiment_of_every_method_that_check_accepts() {
    let root = tempfile::tempdir().unwrap();
    for peft_type in PEFT_TYPES {
        let method = peft_type.to_lowercase().replace('_', "-");
        let outcome = run_in(root.path(), ["init", &method, "--name", "mine"]);
        assert_eq!(outcome.code, Some(0), "{method}: {outcome:?}");
        let next = format!(
            "next: `peft-bench measure {}/mine`",
            peft_type.to_lowercase()
        );
        assert!(outcome.stderr.contains(&next), "{outcome:?}");
        let folder = root.path().join(outcome.stdout.trim());
        let config = read_json(&folder.join("adapter_config.json"));
        assert_eq!(config["peft_type"], peft_type);
        assert!(!folder.join("benchmark_params.json").exists());
    }
    let outcome = run_in(root.path(), ["check"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(outcome.stdout.lines().count(), PEFT_TYPES.len());
    assert!(outcome.stdout.lines().all(|line| line.starts_with("ok ")));
}

#[test]
fn an_experiment_that_init_began_is_prepared() {
    let root = tempfile::tempdir().unwrap();
    let base = model("llama-gqa");
    let base = base.to_str().unwrap();
    let begun = run_in(
        root.path(),
        [
            "init",
            "lora",
            "--rank",
            "4",
            "--alpha",
            "8",
            "--targets",
            "q_proj,up_proj",
            "--set",
            "use_dora=true",
            "--param",
            "max_new_tokens=3",
            "--model",
            base,
            "--dtype",
            "bfloat16",
        ],
    );
    assert_eq!(begun.stdout.trim(), "experiments/lora/r4", "{begun:?}");
    let folder = root.path().join("experiments/lora/r4");
    let config = read_json(&folder.join("adapter_config.json"));
    for (key, value) in [
        ("r", json!(4)),
        ("lora_alpha", json!(8)),
        ("target_modules", json!(["q_proj", "up_proj"])),
        ("use_dora", json!(true)),
        ("use_rslora", json!(false)),
        ("task_type", json!("CAUSAL_LM")),
    ] {
        assert_eq!(config[key], value, "{key}");
    }
    assert_eq!(
        read_json(&folder.join("benchmark_params.json")),
        json!({"model_id": base, "dtype": "bfloat16", "max_new_tokens": 3})
    );
    let prepared = run_in(root.path(), ["prepare", "lora/r4"]);
    assert_eq!(prepared.code, Some(0), "{prepared:?}");
    let exported = root.path().join("exported_models");
    let folder = Path::new("exported_models").join(&names(&exported)[0]);
    let folder = folder.join("lora--r4").display().to_string();
    let next = format!("next: `peft-bench measure {folder}`");
    assert!(prepared.stderr.contains(&next), "{prepared:?}");
}

#[test]
fn init_overwrites_nothing_and_refuses_what_a_method_does_not_have() {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(run_in(root.path(), ["init", "lora"]).code, Some(0));
    let before = files_below(root.path());
    for (args, words) in [
        (
            vec!["lora"],
            &["`experiments/lora/r8` is there already", "--name"][..],
        ),
        (
            vec!["lorra"],
            &[
                "no method `lorra`",
                "did you mean `lora`, ",
                "peft-bench methods",
            ],
        ),
        (
            vec!["ia3", "--rank", "4"],
            &["IA3 has no rank", "`--targets`", "`feedforward_modules`"],
        ),
        (
            vec!["prompt-tuning", "--targets", "q_proj"],
            &["no targets", "`--tokens`"],
        ),
        (
            vec!["lora", "--tokens", "4"],
            &["LORA has no tokens", "`--rank`"],
        ),
        (vec!["vera", "--alpha", "4"], &["VERA has no alpha"]),
        (
            vec!["lora", "--set", "use_dorra=true"],
            &["did you mean `use_dora`?"],
        ),
        (
            vec!["lora", "--set", "peft_type=IA3"],
            &["LORA has no option `peft_type`"],
        ),
        (
            vec!["lora", "--set", "bias=some", "--name", "x"],
            &["`bias`", "nothing was written"],
        ),
        (
            vec!["lora", "--param", "max_new_token=1", "--name", "x"],
            &["did you mean `max_new_tokens`, "],
        ),
        (
            vec!["lora", "--targets", "q_porj", "--name", "x"],
            &["did you mean `q_proj`?", "--model"],
        ),
        (
            vec!["lora", "--model", "synthetic/none", "--name", "x"],
            &["unknown synthetic shape"],
        ),
        (
            vec!["lora", "--quantize", "4bit", "--name", "x"],
            &["--param use_4bit=true"],
        ),
    ] {
        let outcome = run(program(["init"]).args(&args).current_dir(root.path()));
        assert_refused(&outcome, words);
    }
    let outcome = run_in(root.path(), ["init", "lora", "--name", "../x"]);
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    assert_eq!(files_below(root.path()), before);
}

#[test]
fn check_accepts_every_case_that_is_not_refused() {
    let mut wrong = BTreeSet::new();
    for (name, _) in models() {
        let cases = names(&case(&name, ""));
        let cases = cases.iter().filter(|case| *case != "base");
        let folders: Vec<PathBuf> = cases.map(|found| case(&name, found)).collect();
        if folders.is_empty() {
            continue;
        }
        let outcome = run(program(["check"])
            .args(&folders)
            .arg("--model")
            .arg(model(&name)));
        let lines: Vec<&str> = outcome.stdout.lines().collect();
        assert_eq!(lines.len(), folders.len(), "{outcome:?}");
        for (line, folder) in lines.into_iter().zip(&folders) {
            if !line.starts_with("ok ") {
                let case = folder.file_name().unwrap().to_string_lossy();
                wrong.insert(format!("{name}/{case}"));
            }
        }
    }
    let refused = REFUSED.iter().map(|(case, _)| (*case).to_owned());
    assert_eq!(wrong, refused.collect());
}

#[test]
fn check_accepts_the_shipped_experiments() {
    let outcome = run_in(Path::new(env!("CARGO_MANIFEST_DIR")), ["check"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stdout.contains("lora/lora_r8 "), "{outcome:?}");
}

/// What `check` says of the adapter `lora` of a tiny model after `spoil`.
fn checked(spoil: impl FnOnce(&Path)) -> Outcome {
    let root = tempfile::tempdir().unwrap();
    let folder = copy_folder(&case("llama-gqa", "lora"), &root.path().join("mine"));
    spoil(&folder);
    let mut command = program(["check", "mine", "--model"]);
    run(command.arg(model("llama-gqa")).current_dir(root.path()))
}

/// A change of an adapter's folder.
type Spoil = Box<dyn FnOnce(&Path)>;

#[test]
fn check_names_what_is_wrong_in_one_line() {
    let config = |folder: &Path| folder.join("adapter_config.json");
    let weights = |folder: &Path| folder.join("adapter_model.safetensors");
    let set = |key: &'static str, value: Value| {
        Box::new(move |folder: &Path| set_key(&config(folder), key, value)) as Spoil
    };
    let spoils: Vec<(Spoil, &[&str])> = vec![
        (
            Box::new(move |folder| {
                remove_key(&config(folder), "lora_alpha");
                set_key(&config(folder), "lora_alhpa", json!(8));
            }),
            &["no option `lora_alhpa`", "did you mean `lora_alpha`?"],
        ),
        (
            set("peft_type", json!("LORRA")),
            &["`LORRA`", "did you mean `LORA`, "],
        ),
        (set("r", json!("eight")), &["key `r`"]),
        (
            set("target_modules", json!(["c_attn"])),
            &["matches no module"],
        ),
        (
            Box::new(move |folder| {
                edit_tensors(&weights(folder), |tensors| {
                    let tensor = tensors.values_mut().next().unwrap();
                    tensor.shape.insert(0, 1);
                });
            }),
            &["has shape", "expected"],
        ),
        (
            Box::new(move |folder| {
                let misspelt = folder.join("adapter_model.safetensor");
                fs::rename(weights(folder), misspelt).unwrap();
            }),
            &["did you mean `adapter_model.safetensors`?", "no weights"],
        ),
        (
            Box::new(|folder| fs::write(folder.join("benchmark_param.json"), "{}").unwrap()),
            &["did you mean `benchmark_params.json`?"],
        ),
        (
            Box::new(|folder| {
                fs::write(folder.join("benchmark_params.json"), r#"{"sead": 1}"#).unwrap();
            }),
            &["unknown key `sead`", "did you mean `seed`, "],
        ),
        (
            Box::new(move |folder| fs::remove_file(config(folder)).unwrap()),
            &["no `adapter_config.json`"],
        ),
        (
            Box::new(|folder| fs::remove_dir_all(folder).unwrap()),
            &["no experiment folder"],
        ),
    ];
    for (spoil, words) in spoils {
        let outcome = checked(spoil);
        assert_eq!(outcome.code, Some(1), "{words:?}: {outcome:?}");
        assert_eq!(outcome.stdout.lines().count(), 1, "{outcome:?}");
        assert!(outcome.stdout.starts_with("wrong  mine  "), "{outcome:?}");
        for word in words {
            assert!(outcome.stdout.contains(word), "{word}: {outcome:?}");
        }
    }
    let outcome = checked(|folder| set_key(&config(folder), "zz_trainer", json!(1)));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(
        outcome
            .stdout
            .contains("note: LORA has no option `zz_trainer`"),
        "{outcome:?}"
    );
}

#[test]
fn check_downloads_nothing() {
    let root = tempfile::tempdir().unwrap();
    let folder = copy_folder(&case("llama-gqa", "lora"), &root.path().join("mine"));
    let mut command = program(["check", "--model", "some-org/some-model"]);
    let outcome = run(command.arg(&folder).env("HF_HOME", root.path()));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(
        outcome.stdout.contains("`check` downloads nothing"),
        "{outcome:?}"
    );
}

#[test]
fn the_lists_as_data_have_what_the_text_has() {
    let methods = list("methods");
    let found: Vec<&str> = methods
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["peft_type"].as_str().unwrap())
        .collect();
    assert_eq!(found, PEFT_TYPES);
    let lora = &methods[found.iter().position(|name| *name == "LORA").unwrap()];
    assert_eq!(lora["options"]["lora_alpha"], 8);
    assert_eq!(
        (&lora["class"], &lora["merged"]),
        (&json!("A"), &json!(true))
    );

    let models = list("models");
    let text = run(&mut program(["models"])).stdout;
    for (part, key) in [
        ("families", "model_type"),
        ("multimodal", "model_type"),
        ("synthetic", "model"),
    ] {
        let all = models[part].as_array().unwrap();
        assert!(!all.is_empty(), "{part}");
        for one in all {
            let name = one[key].as_str().unwrap().trim_start_matches("synthetic/");
            assert!(
                text.lines()
                    .any(|line| line.split(' ').next() == Some(name)),
                "{name}"
            );
        }
    }

    let text = run(&mut program(["runtime"])).stdout;
    let runtime = list("runtime");
    for key in ["version", "library"] {
        let value = runtime[key].as_str().unwrap();
        assert!(text.contains(value), "{value}: {text}");
    }
    assert!(
        runtime["providers"]
            .as_array()
            .unwrap()
            .contains(&json!("CPUExecutionProvider"))
    );
}

#[test]
fn completions_and_man_pages_know_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let outcome = run(&mut program(["completions", shell]));
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        for word in ["measure", "check", "target-precision"] {
            assert!(outcome.stdout.contains(word), "{shell}: {word}");
        }
    }
    let root = tempfile::tempdir().unwrap();
    let outcome = run_in(root.path(), ["man", "pages"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let pages = names(&root.path().join("pages"));
    for page in ["peft-bench.1", "peft-bench-measure.1", "peft-bench-init.1"] {
        assert!(pages.contains(&page.to_owned()), "{pages:?}");
    }
    assert!(
        !pages.iter().any(|page| page.contains("worker")),
        "{pages:?}"
    );
    let page = fs::read_to_string(root.path().join("pages/peft-bench-init.1")).unwrap();
    assert!(page.contains("init lora"), "{page}");
    let main = run_in(root.path(), ["man"]);
    assert!(main.stdout.contains(".TH peft-bench 1"), "{main:?}");
}
