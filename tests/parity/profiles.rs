//! Profiles of the nodes that ran, as ONNX Runtime writes them.

use std::fs;

use peft_bench::measure::executed::ExecutedGraph;

use crate::common::reference::Bench;
use crate::common::{assert_refused, case, model, program, run};

#[test]
fn every_session_has_a_profile_of_the_nodes_that_ran() {
    let bench = Bench::new("llama-gqa", "lora");
    let folder = bench.exported.path().join("profiles/of-lora");
    bench.generate("unmerged", &["--profile", folder.to_str().unwrap()]);
    let sessions = ExecutedGraph::read_sessions(&folder);
    let step = &sessions["step"].operators["CPUExecutionProvider"];
    assert_eq!(step["GroupQueryAttention"], 2, "{sessions:?}");
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let exported = tempfile::tempdir().unwrap();
    let file = exported.path().join("file");
    fs::write(&file, "").unwrap();
    let mut command = program(["generate", "--ep", "cpu", "--prompt-ids", "1"]);
    command.arg(case("llama-gqa", "lora"));
    command.arg("--model").arg(model("llama-gqa"));
    command.arg("--export-dir").arg(exported.path());
    command.arg("--profile").arg(file.join("below"));
    assert_refused(&run(&mut command), &["cannot create", "file/below"]);
}
