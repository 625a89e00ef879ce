//! What's printed of results, against what `measure` printed when it measured them.

use std::fs;

use peft_bench::report::{self, Labelled, Report, terminal};

use crate::common::{program, run};
use crate::results;

#[test]
fn a_single_result_is_printed_as_it_was_when_it_was_measured() {
    for path in results("alone") {
        let outcome = run(program(["report"]).arg(&path));
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        let mut expected = fs::read_to_string(path.with_extension("txt")).unwrap();
        let error = report::read(&path).unwrap().run_info.error;
        if let Some(error) = error {
            // `measure` ended with it.
            expected += &format!("\n{error}\n");
        }
        assert_eq!(outcome.stdout, expected, "{}", path.display());
    }
}

#[test]
fn results_that_were_measured_together_are_printed_as_they_were() {
    let paths = results("together");
    let expected = fs::read_to_string(paths[0].with_file_name("printed.txt")).unwrap();
    let reports: Vec<Report> = paths
        .iter()
        .map(|path| report::read(path).unwrap())
        .collect();
    // In the order in which they were named.
    let labelled = [
        ("lora--lora_r8", "lora_r8", 1),
        ("ia3--default", "default", 0),
    ];
    let results = labelled.map(|(name, label, index)| Labelled {
        name,
        label,
        report: &reports[index],
    });
    assert_eq!(terminal::measurement(&results, false), expected);
}
