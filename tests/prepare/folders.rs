//! Prepared folders run without their experiment, from any working directory, and while others
//! prepare.

use std::path::Path;

use crate::common::reference::{
    Bench, Case, assert_apart, assert_close, generate, prepared_folder, try_generate,
};
use crate::common::{
    TOLERANCE, copy_folder, names, only, program, read_tensors, relative_difference, run, set_key,
};

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

    // Prepared relative to one working directory, and run from another.
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
    let copy = tempfile::tempdir().unwrap();
    let experiment = copy_folder(&bench.folder, &copy.path().join("lora"));
    for alpha in 1..9 {
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
        let model = prepared.parent().unwrap();
        assert_eq!(only(&model.join("lora--lora")), prepared);
        assert_eq!(names(model)[..2], ["base", "finite-weights"]);
        assert_eq!(names(model).len(), 3);
        let unmerged = bench.generate_prepared(&prepared, "unmerged");
        assert_close(&bench.generate_prepared(&prepared, "merged"), &unmerged);
    }
}
