//! Tests of the report of roles that can't be lowered.

use super::*;

/// `(role, path, reason)` of each report, without the common prefix of paths.
fn not_lowered(lowered: &LoweredGraphs) -> Vec<(&str, &str, &str)> {
    let all = lowered.not_lowered.iter();
    all.map(|one| (one.role.as_str(), one.path.as_str(), one.reason.as_str()))
        .collect()
}

#[test]
fn what_has_a_role_and_stays_as_prepared_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let all = prepare("llama-gqa", "oft", Dtype::Float32, folder.path());
    for variant in &all {
        let lowered = rewritten(variant, WeightsMode::Mapped).0;
        assert_eq!(not_lowered(&lowered), []);
    }
    // Merged, the weight is stored in a file; unmerged, this method's weight is an input of the
    // graph.
    let all = prepare("llama-gqa", "shira", Dtype::Float32, folder.path());
    let lowered = rewritten(&all[2], WeightsMode::Mapped).0;
    let found = not_lowered(&lowered);
    assert!(!found.is_empty());
    for (role, path, reason) in found {
        assert_eq!(role, "linear");
        assert!(path.starts_with("model.layers."), "{path}");
        assert_eq!(reason, "its weight isn't stored in a file");
    }
    assert_eq!(not_lowered(&rewritten(&all[1], WeightsMode::Mapped).0), []);
}

#[test]
fn rewritten_graphs_have_no_roles() {
    let folder = tempfile::tempdir().unwrap();
    let base = &prepare("mixtral", "lora", Dtype::Float32, folder.path())[0];
    let has_role = |model: &Model| {
        let nodes = &model.graph.as_ref().unwrap().node;
        nodes.iter().any(|node| !node.metadata_props.is_empty())
    };
    assert!(has_role(&model_file::read(&base.folder, 40).unwrap()));
    for weights in [WeightsMode::Mapped, WeightsMode::InPlace] {
        let lowered = rewritten(base, weights).0;
        assert!(!lowered.models().any(has_role));
    }
}
