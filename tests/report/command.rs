//! `peft-bench report`

use std::fs;

use peft_bench::report;

use crate::common::{program, run};
use crate::{all_results, results};

#[test]
fn many_results_have_a_line_each() {
    let paths = results("together");
    let outcome = run(program(["report", "--overview"]).arg(paths[0].parent().unwrap()));
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let expected = "\
experiment    form     trainable  unmerged   95 % interval  merged   95 % interval  first token  a token  merging   parity
ia3/default   reduced        320  ~+20.7 %  -8.7 … +39.2 %  ~-8.1 %  -28.6 … +3.7 %       0.296 ms   0.094 ms   0.00 s  ok, 0e0
lora/lora_r8  reduced      3,584  ~+28.1 %  -7.4 … +51.1 %  ~+7.8 %  -19.0 … +26.5 %       0.305 ms   0.098 ms   0.00 s  ok, 0e0
";
    let lines = |text: &str| -> Vec<Vec<String>> {
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
        text.lines().take(3).map(words).collect()
    };
    assert_eq!(lines(&outcome.stdout), lines(expected));
    assert!(
        outcome
            .stdout
            .contains("\nunmerged, merged: overhead over the base")
    );
}

#[test]
fn results_of_every_version_are_listed_together() {
    let outcome = run(program(["report", "--overview"]).args(all_results()));
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let line = |name: &str| {
        let mut lines = outcome.stdout.lines();
        lines.find(|line| line.starts_with(name)).unwrap()
    };
    assert!(line("prompt_tuning/tokens20").ends_with("not mergeable"));
    assert!(line("lora/bad").contains("the adapter changes nothing"));
    assert!(line("base").contains("–"));
    assert!(outcome.stdout.ends_with(
        "\nlora/bad failed: parity check failed: the adapter changes nothing: its logits are the base's\n"
    ));
    let outcome = run(program(["report", "--overview", "--format", "jsonl"]).args(all_results()));
    assert_eq!(outcome.stdout.lines().count(), all_results().len());
}

#[test]
fn what_cannot_be_read_is_told_and_the_others_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let good = &results("together")[0];
    fs::copy(good, folder.path().join(good.file_name().unwrap())).unwrap();
    fs::write(folder.path().join("damaged.json"), "{").unwrap();
    fs::write(folder.path().join("other.json"), "{}").unwrap();
    fs::write(folder.path().join("notes.txt"), "").unwrap();
    let outcome = run(program(["report"]).arg(folder.path()));
    assert_eq!(outcome.code, Some(1));
    assert!(
        outcome.stdout.contains("\ndefault     IA3 "),
        "{}",
        outcome.stdout
    );
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{}", outcome.stderr);
    assert!(lines[0].starts_with("error: `") && lines[0].contains("damaged.json` is damaged: "));
    assert!(lines[1].ends_with("other.json` is not a result: it has no `run_info`"));
}

#[test]
fn nothing_to_report_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    for (path, words) in [
        (folder.path().to_owned(), "there are no results in `"),
        (folder.path().join("absent.json"), "cannot read `"),
    ] {
        let outcome = run(program(["report"]).arg(path));
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""));
        assert!(
            outcome.stderr.starts_with(&format!("error: {words}")),
            "{}",
            outcome.stderr
        );
    }
    // Without a path, it's the working folder's results; those of the checkout may be there.
    let mut command = program(["report", "--output"]);
    let outcome = run(command.arg(folder.path()).current_dir(folder.path()));
    assert!(
        outcome.stderr.contains("there are no results"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn a_result_is_called_by_its_target() {
    let path = &results("together")[1];
    let report = report::read(path).unwrap();
    let called = |name: &str| report::target_name(&path.with_file_name(name), &report);
    assert_eq!(
        called("lora--a-1--m-01234567--float32--cpu.json"),
        "lora--a-1"
    );
    assert_eq!(
        called("lora--a-89abcdef--m-01234567--float32-4bit--cpu.json"),
        "lora--a"
    );
    assert_eq!(called("base--m-01234567--float32--cpu--fresh.json"), "base");
    assert_eq!(called("lora--lora_r8.json"), "lora--lora_r8");
}

#[test]
fn a_page_is_read_as_the_results_that_it_was_made_of() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    let mut make = program(["report", "--format", "html", "--output"]);
    let made = run(make.arg(&page).args(all_results()));
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    assert_eq!(made.stdout, "");
    let [of_files, of_page] = [all_results(), vec![page.clone()]].map(|paths| {
        let outcome = run(program(["report", "--overview"]).args(paths));
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        outcome.stdout
    });
    assert_eq!(of_page, of_files);

    fs::write(&page, "<p>Something else</p>").unwrap();
    let outcome = run(program(["report"]).arg(&page));
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("there are no results in it"));
}
