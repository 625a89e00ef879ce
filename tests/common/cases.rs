//! Compares the program's results with the reference's for a case.

use std::collections::BTreeMap;
use std::process::Command;

use super::reference::{Case, check_counts, check_variant, peft_type};
use super::{case, model, names, read_json, run};

/// Cases that need something that PEFT doesn't save, with the option or tensor that the refusal
/// names.
pub const REFUSED: &[(&str, &str)] = &[
    ("llama-bias/frod-unsaved", "save_projection"),
    ("llama-bias/psoft-full-matrix", "psoft_R.weight"),
    ("llama-gqa/psoft", "psoft_R.weight"),
    ("llama-gqa/psoft-cayley-neumann", "psoft_R.weight"),
    ("opt-nobias/psoft-no-diagonals", "psoft_R.weight"),
    ("opt-pre/psoft", "psoft_R.weight"),
    ("opt-pre/psoft-cayley-neumann-eps", "psoft_R.weight"),
    ("opt-pre/psoft-pissa", "psoft_R.weight"),
];

fn check_refusal(command: &mut Command) -> Result<(), String> {
    let outcome = run(command);
    let why = outcome.stderr.contains("`merged`") && outcome.stderr.contains("can't be merged");
    match outcome.code {
        Some(1) if why && outcome.stdout.is_empty() => Ok(()),
        _ => Err(format!(
            "expected a refusal that says why, found {outcome:?}"
        )),
    }
}

/// Checks that an option or a tensor is refused by its name.
fn check_refused_by(name: &str, command: &mut Command) -> Result<(), String> {
    let outcome = run(command);
    let by_name = outcome.stderr.contains(&format!("`{name}`"));
    match outcome.code {
        Some(1) if by_name && outcome.stdout.is_empty() => Ok(()),
        _ => Err(format!("expected a refusal by name, found {outcome:?}")),
    }
}

/// Layouts of the weights on the CPU: in the checkpoint, as in `generate`, and mapped, as `measure`
/// times them.
pub const LAYOUTS: [&str; 2] = ["in-place", "mapped"];

/// Runs all variants of a case in every layout; returns a message for each failure.
pub fn check_case(model_name: &str, case_name: &str) -> Vec<String> {
    check_case_with(model_name, case_name, &[])
}

/// [`check_case`] with more options.
pub fn check_case_with(model_name: &str, case_name: &str, options: &[&str]) -> Vec<String> {
    let folder = case(model_name, case_name);
    let case = Case::read(&folder);
    let mut failures = Vec::new();
    let mut note = |variant: &str, result: Result<(), String>| {
        if let Err(message) = result {
            failures.push(format!("{model_name}/{case_name} {variant}: {message}"));
        }
    };
    let export_dir = tempfile::tempdir().unwrap();
    if case_name == "base" {
        for layout in LAYOUTS {
            let mut command = case.generate(&model(model_name), "base", export_dir.path());
            command.args(["--weights", layout]).args(options);
            let result = check_variant(&case, &folder, "base", &mut command);
            note(&format!("base, {layout}"), result);
        }
        return failures;
    }
    let label = format!("{model_name}/{case_name}");
    let refused = REFUSED.iter().find(|(refused, _)| *refused == label);
    for (variant, layout) in ["unmerged", "merged"]
        .into_iter()
        .flat_map(|variant| LAYOUTS.map(|layout| (variant, layout)))
    {
        let mut command = case.generate(&folder, variant, export_dir.path());
        command.arg("--model").arg(model(model_name));
        command.args(["--weights", layout]).args(options);
        let result = if let Some((_, option)) = refused {
            check_refused_by(option, &mut command)
        } else if variant == "merged" && !case.merged {
            check_refusal(&mut command)
        } else {
            check_variant(&case, &folder, variant, &mut command)
                .and_then(|()| check_counts(&case, export_dir.path(), variant))
        };
        note(&format!("{variant}, {layout}"), result);
    }
    failures
}

/// All models, each with its `model_type`.
pub fn models() -> Vec<(String, String)> {
    let model_type = |name: &String| {
        let config = read_json(&model(name).join("config.json"));
        config["model_type"].as_str().unwrap().to_owned()
    };
    let models = names(&case("", ""));
    let types: Vec<String> = models.iter().map(model_type).collect();
    models.into_iter().zip(types).collect()
}

/// The first case of each method.
pub fn of_each_method() -> BTreeMap<String, (String, String)> {
    let mut found = BTreeMap::new();
    for (model_name, _) in models() {
        for case_name in names(&case(&model_name, "")) {
            if case_name != "base" {
                let method = peft_type(&case(&model_name, &case_name));
                let of_method = (model_name.clone(), case_name);
                found.entry(method).or_insert(of_method);
            }
        }
    }
    found
}
