//! File names of results: a different configuration gets a different file; the same configuration
//! replaces its file.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::common::*;
use crate::workplace::Workplace;

/// Measures, and returns the result's file name.
#[track_caller]
fn measured(place: &Workplace, target: &Path, options: &[&str]) -> PathBuf {
    let outcome = place.measure(target, options);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    place.written(&outcome)
}

#[test]
fn every_configuration_has_a_result_of_its_own() {
    let place = Workplace::new(1);
    let target = case("llama-gqa", "lora");
    // The same weights in a folder of the same name elsewhere, and a different adapter of the same
    // name.
    let twin = copy_folder(&model("llama-gqa"), &place.path("twin/llama-gqa"));
    let other = copy_folder(&case("llama-gqa", "dora"), &place.path("other/lora"));
    let usual = measured(&place, &target, &[]);
    let mut found = vec![(usual.clone(), fs::read(&usual).unwrap())];
    for options in [
        &["--dtype", "float16"][..],
        &["--quantize", "8bit"],
        &["--quantize", "8bit", "--quantize-head", "float"],
        &["--model", twin.to_str().unwrap()],
        &["--batch-size", "2"],
        &["--batch-size", "1,2"],
        &["--adapter-form", "native"],
        &["--weights", "in-place"],
        &["--sweep", "16"],
        &["--empty"],
    ] {
        // LoRA has no native form.
        let target = match options[0] {
            "--adapter-form" => case("llama-gqa", "dora"),
            _ => target.clone(),
        };
        let path = measured(&place, &target, options);
        let text = fs::read(&path).unwrap();
        found.push((path, text));
    }
    let mut measure_again = |target: &Path| {
        let path = measured(&place, target, &[]);
        let text = fs::read(&path).unwrap();
        found.push((path, text));
    };
    measure_again(&other);
    let file = place.path("config.json");
    let config = read_json(&file);
    for (key, value) in [("seed", 2), ("max_new_tokens", 3)] {
        set_key(&file, key, value.into());
        measure_again(&target);
        fs::write(&file, config.to_string()).unwrap();
    }
    let prompts = json!({"short": ["a b"], "medium": ["the cat"], "long": ["one two three"]});
    let usual_prompts = fs::read(place.path("prompts.json")).unwrap();
    fs::write(place.path("prompts.json"), prompts.to_string()).unwrap();
    measure_again(&target);
    fs::write(place.path("prompts.json"), usual_prompts).unwrap();
    for (index, (path, text)) in found.iter().enumerate() {
        let earlier = found[..index].iter().find(|(other, _)| other == path);
        assert_eq!(earlier, None, "it has the same name");
        assert_eq!(&fs::read(path).unwrap(), text, "{}", path.display());
    }
    let named = |part: &str| {
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        let names = found.iter().map(|(path, _)| name(path));
        names.filter(|name| name.contains(part)).count()
    };
    assert_eq!(named("--float16--cpu--"), 1);
    assert_eq!(named("--float32-8bit--cpu--"), 1);
    assert_eq!(named("--float32-8bit-head-float--cpu--"), 1);
    assert_eq!(named("--batch-2"), 1);
    assert_eq!(named("--native"), 1);
    assert_eq!(named("--in-place"), 1);

    let again = measured(&place, &target, &[]);
    assert_eq!(again, usual);
    assert_ne!(fs::read(&again).unwrap(), found[0].1, "it is replaced");
    let settings = &read_json(&usual)["run_info"]["settings"];
    assert_eq!(settings["max_new_tokens"], 4);
    assert_eq!(settings["seed"], 1);
    assert_eq!(settings["dtype"], Value::Null, "the name tells it");
    assert_eq!(
        names(&place.path("results")).len(),
        found.len() + 1,
        "and `base`"
    );
}

#[test]
fn failed_results_have_different_names_too() {
    let place = Workplace::new(1);
    let target = case("llama-gqa", "lora");
    for model in ["missing/one", "missing/more/one", "missing/one"] {
        let model = place.path(model);
        let outcome = place.measure(&target, &["--model", model.to_str().unwrap()]);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
    }
    let failed = place.results("failed/lora--lora");
    assert_eq!(failed.len(), 2, "{failed:?}");
    assert!(place.results("lora--lora").is_empty());
}

#[test]
fn a_shipped_experiment_with_the_usual_parameters_has_a_short_name() {
    let place = Workplace::new(1);
    let folder = place.path("experiments/lora/small");
    copy_folder(&case("llama-gqa", "lora"), &folder);
    let outcome = run(place
        .command(&["measure", "lora/small"])
        .args(["--prompts", "none"]));
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let found = names(&place.path("results/failed"));
    assert!(found[0].starts_with("lora--small--llama-gqa-"), "{found:?}");

    let mut command = program([
        "measure",
        "lora/small",
        "--ep",
        "cpu",
        "--model",
        "synthetic/none",
    ]);
    let outcome = run(command.current_dir(place.folder.path()));
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let found = names(&place.path("results/failed"));
    let expected = "lora--small--synthetic--none--float32--cpu.json".to_owned();
    assert!(found.contains(&expected), "{found:?}");
}
