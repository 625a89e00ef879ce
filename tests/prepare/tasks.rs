//! Methods with several tasks: which task is prepared, and the note about it.

use std::fs;

use serde_json::json;

use crate::common::trial::{PROMPT, Trial};
use crate::common::{assert_refused, names, only, program, relative_difference};

/// Experiments with several tasks, and one variant of each.
const WITH_TASKS: [(&str, &str); 3] = [
    ("poly-last-task", "unmerged"),
    ("poly-last-task", "merged"),
    ("multitask-prompt-tuning-last-task", "unmerged"),
];

#[test]
fn what_was_prepared_for_one_task_is_not_used_for_another() {
    for (name, variant) in WITH_TASKS {
        let trial = Trial::new("opt-pre", name);
        let logits = |task: &str| {
            let options = ["--variant", variant, "--task-id", task];
            trial.logits(&[&PROMPT[..], &options].concat())
        };
        let first = logits("0");
        assert_eq!(
            trial.manifest(variant)["adapter"]["task"],
            json!({"id": 0, "of": 3})
        );
        let other = logits("2");
        assert_eq!(
            trial.manifest(variant)["adapter"]["task"],
            json!({"id": 2, "of": 3})
        );
        assert!(relative_difference(&first, &other) > 1e-3, "{name}");
        assert_eq!(logits("0"), first);
    }
}

#[test]
fn without_a_choice_the_first_task_is_taken_and_noted() {
    for (name, variant) in WITH_TASKS {
        let trial = Trial::new("opt-pre", name);
        let options = [&PROMPT[..], &["--variant", variant]].concat();
        let outcome = trial.run("generate", &options);
        assert!(
            outcome.stderr.contains("3 tasks, and this is task 0"),
            "{outcome:?}"
        );
        let again = trial.run("generate", &options);
        assert!(
            again.stderr.contains("3 tasks, and this is task 0"),
            "{again:?}"
        );
        let asked = trial.run("generate", &[&options[..], &["--task-id", "0"]].concat());
        assert!(!asked.stderr.contains("tasks"), "{asked:?}");
        assert_eq!(asked.stdout, outcome.stdout);

        let parameters = trial.experiment.join("benchmark_params.json");
        fs::write(&parameters, r#"{"task_id": 2}"#).unwrap();
        let of_parameters = trial.logits(&options);
        assert_eq!(trial.manifest(variant)["adapter"]["task"]["id"], 2);
        fs::write(&parameters, r#"{"task_id": 1}"#).unwrap();
        let outranked = trial.logits(&[&options[..], &["--task-id", "2"]].concat());
        assert_eq!(of_parameters, outranked);
        fs::write(&parameters, r#"{"task_id": -1}"#).unwrap();
        assert_refused(
            &trial.run("generate", &options),
            &["benchmark_params.json", "`task_id`"],
        );
    }
}

#[test]
fn a_task_that_is_not_there_is_refused() {
    for (name, key) in [
        ("poly-last-task", "n_tasks"),
        ("multitask-prompt-tuning-last-task", "num_tasks"),
    ] {
        for trial in [Trial::new("opt-pre", name), Trial::fresh("opt-pre", name)] {
            let words = ["no task 3", "adapter_config.json", "has 3", key];
            trial.refused(&["--task-id", "3"], &words);
            assert_refused(&trial.run("verify", &["--task-id", "3"]), &words);
        }
        // PEFT has no such key.
        let trial = Trial::new("opt-pre", name);
        trial.set("task_id", json!(2));
        let with_key = trial.logits(&PROMPT);
        assert_eq!(with_key, Trial::new("opt-pre", name).logits(&PROMPT));
    }
    for name in ["lora", "prompt-tuning", "prefix-tuning"] {
        let trial = Trial::new("opt-pre", name);
        let peft_type = name.to_uppercase().replace('-', "_");
        for task in ["0", "1"] {
            // Whether it's already prepared or not.
            for _ in 0..2 {
                trial.refused(
                    &["--task-id", task],
                    &["--task-id", &peft_type, "has no tasks"],
                );
                assert_eq!(trial.run("prepare", &[]).code, Some(0));
            }
        }
        let base = trial.run(
            "generate",
            &[&PROMPT[..], &["--variant", "base", "--task-id", "0"]].concat(),
        );
        assert_refused(&base, &["--task-id", "`base`"]);
    }
    let outcome = Trial::new("opt-pre", "lora").run("prepare", &["--task-id", "first"]);
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
}

#[test]
fn a_prepared_folder_keeps_its_task() {
    let trial = Trial::new("opt-pre", "poly-last-task");
    assert_eq!(trial.run("prepare", &["--task-id", "2"]).code, Some(0));
    let exported = trial.root.path().join("exported");
    let folder = only(&exported.join(&names(&exported)[0]).join("poly--trial"));
    let run = |task: &str| {
        let mut command = program([
            "generate",
            "--ep",
            "cpu",
            "--prompt-ids",
            "1,2",
            "--task-id",
            task,
        ]);
        crate::common::run(command.arg(&folder))
    };
    assert_eq!(run("2").code, Some(0));
    assert_refused(&run("1"), &["--task-id 1", "prepared for task 2 of 3"]);
}
