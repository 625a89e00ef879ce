//! The methods' own computation in every forward pass (`--adapter-form native`).

use std::collections::BTreeSet;
use std::fs;

use serde_json::json;

use crate::common::cases::LAYOUTS;
use crate::common::reference::{
    Bench, Case, assert_apart, assert_close, check_variant, generate, peft_type,
};
use crate::common::{case, model, names};

/// Methods with a native form.
const NATIVE: &[&str] = &[
    "ADALORA", "BOFT", "C3A", "DELORA", "GRALORA", "HIRA", "HRA", "IA3", "LILY", "LOHA", "LOKR",
    "LORA", "MISS", "OFT", "PVERA", "RANDLORA", "ROAD", "VERA",
];

/// Cases of these methods without a native form.
fn lacks_native(label: &str) -> bool {
    let parts = [
        "miss-bat",
        "dora-embed",
        "dora-pissa",
        "oft-coft",
        "exact",
        "oft-embed",
        "gram-schmidt",
        "lora-parameters",
    ];
    parts.iter().any(|part| label.contains(part))
}

#[test]
fn native_forms_give_the_reference_s_logits() {
    let mut failures = Vec::new();
    let mut checked = BTreeSet::new();
    for model_name in ["llama-bias", "llama-gqa", "opt-pre"] {
        for case_name in names(&case(model_name, "")) {
            let folder = case(model_name, &case_name);
            if case_name == "base" || !NATIVE.contains(&peft_type(&folder).as_str()) {
                continue;
            }
            let label = format!("{model_name}/{case_name}");
            let case = Case::read(&folder);
            let export_dir = tempfile::tempdir().unwrap();
            for layout in LAYOUTS {
                let mut command = case.generate(&folder, "unmerged", export_dir.path());
                command.arg("--model").arg(model(model_name));
                command.args(["--adapter-form", "native", "--weights", layout]);
                match check_variant(&case, &folder, "unmerged", &mut command) {
                    Ok(()) => {
                        checked.insert(peft_type(&folder));
                    }
                    Err(message) if message.contains("--adapter-form native") => {
                        if !lacks_native(&label) {
                            failures.push(format!("{label}: {message}"));
                        }
                    }
                    Err(message) => failures.push(format!("{label}, {layout}: {message}")),
                }
            }
        }
    }
    let failures = failures.join("\n");
    assert!(failures.is_empty(), "{failures}");
    assert_eq!(checked.len(), NATIVE.len(), "{checked:?}");
}

/// Options of native forms without a reference case: merging computes them differently, and must
/// agree.
#[test]
fn native_forms_give_the_merged_model_s_logits() {
    for (method, config) in [
        // Sizes that aren't powers of two; tied weights are 48, 72 and 24 wide.
        (
            "c3a",
            json!({ "peft_type": "C3A", "block_size": 24, "init_weights": "gaussian" }),
        ),
        (
            "c3a",
            json!({ "peft_type": "C3A", "block_size": 3, "init_weights": "gaussian" }),
        ),
        (
            "boft",
            json!({ "peft_type": "BOFT", "boft_n_butterfly_factor": 3, "init_weights": false }),
        ),
    ] {
        let bench = Bench::new("llama-tied", "lora");
        let fresh = tempfile::tempdir().unwrap();
        let experiment = fresh.path().join(method);
        fs::create_dir(&experiment).unwrap();
        let mut config = config;
        config["target_modules"] = json!(["q_proj", "v_proj", "up_proj"]);
        fs::write(experiment.join("adapter_config.json"), config.to_string()).unwrap();
        let run = |variant: &str, options: &[&str]| {
            let exported = bench.exported.path();
            let mut command = bench.case.generate(&experiment, variant, exported);
            generate(command.arg("--model").arg(&bench.model).args(options))
        };
        let merged = run("merged", &[]);
        assert_close(&run("unmerged", &["--adapter-form", "native"]), &merged);
        assert_apart(&merged, &run("base", &[]));
    }
}
