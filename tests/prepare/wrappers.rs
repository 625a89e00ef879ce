//! Merged checkpoints of multimodal models are complete.

use std::collections::BTreeSet;

use crate::common::reference::{Case, assert_close, generate};
use crate::common::{case, model, names, program, read_checkpoint, read_json, run};

#[test]
fn a_merged_wrapper_has_the_base_s_tensors_and_configuration() {
    for (model_name, case_name, changed) in [
        ("wrapper-gemma3", "old-keys", 6),
        ("wrapper-qwen2-vl", "attn", 6),
        ("wrapper-qwen3-vl-moe", "experts", 2),
        ("wrapper-idefics3", "attn", 6),
        ("wrapper-llava", "saved", 4),
    ] {
        let folder = case(model_name, case_name);
        let exported = tempfile::tempdir().unwrap();
        let mut command = program(["prepare", "--ep", "cpu", "--format", "hf"]);
        command.arg(&folder).arg("--model").arg(model(model_name));
        let outcome = run(command.arg("--export-dir").arg(exported.path()));
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let of_model = exported.path().join(&names(exported.path())[0]);
        let experiment = names(&of_model)
            .into_iter()
            .find(|name| name.starts_with("lora--"))
            .unwrap();
        let written = of_model.join(experiment).join("checkpoint");

        let (before, after) = (
            read_checkpoint(&model(model_name)),
            read_checkpoint(&written),
        );
        let names_of = |tensors: &crate::common::Tensors| -> BTreeSet<String> {
            tensors.keys().cloned().collect()
        };
        assert_eq!(names_of(&before), names_of(&after), "{model_name}");
        let differs = |name: &&String| before[*name].values != after[*name].values;
        let found: Vec<&String> = before.keys().filter(differs).collect();
        assert_eq!(found.len(), changed, "{model_name}: {found:?}");
        assert!(
            found
                .iter()
                .all(|name| !name.contains("vision") && !name.contains("visual"))
        );
        let config = "config.json";
        let before = read_json(&model(model_name).join(config));
        let mut after = read_json(&written.join(config));
        // Rotary parameters are written in their older form, too.
        for part in ["", "/text_config"] {
            let Some(old) = before.pointer(part) else {
                continue;
            };
            let new = after.pointer_mut(part).unwrap().as_object_mut().unwrap();
            new.retain(|key, _| !key.starts_with("rope_") || old.get(key).is_some());
        }
        assert_eq!(before, after, "{model_name}");

        let case = Case::read(&folder);
        let again = tempfile::tempdir().unwrap();
        let merged = generate(&mut case.generate(&written, "base", again.path()));
        let mut command = case.generate(&folder, "merged", exported.path());
        let expected = generate(command.arg("--model").arg(model(model_name)));
        assert_close(&merged, &expected);
    }
}
