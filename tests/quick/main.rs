//! The quick set: the base and one adapter of every family, and one case of every method, compared
//! with Transformers and PEFT; and the commands that run no model. The full set, with all cases, is
//! in `parity`.

#![expect(clippy::unwrap_used, reason = "a test may unwrap")]

#[path = "../common/mod.rs"]
mod common;
mod elsewhere;
mod experiments;

use peft_bench::adapter::PEFT_TYPES;
use peft_bench::arch::FAMILIES;

use common::cases::{REFUSED, check_case, models, of_each_method};
use common::{case, names};

#[track_caller]
fn check(cases: &[(String, String)]) {
    let failures: Vec<String> = cases
        .iter()
        .flat_map(|(model, case)| check_case(model, case))
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_base_and_an_adapter_of_every_family_match_the_reference() {
    let models = models();
    let mut cases = Vec::new();
    for family in FAMILIES {
        let mut own = models.iter();
        let found = own.find(|(_, model_type)| model_type == family.model_type);
        let (model, _) = found.unwrap_or_else(|| panic!("no case of `{}`", family.model_type));
        let is_plain = |name: &String| {
            let label = format!("{model}/{name}");
            name != "base" && !REFUSED.iter().any(|(refused, _)| *refused == label)
        };
        let adapter = names(&case(model, "")).into_iter().find(is_plain);
        let adapter = adapter.unwrap_or_else(|| panic!("no adapter for `{model}`"));
        cases.push((model.clone(), "base".to_owned()));
        cases.push((model.clone(), adapter));
    }
    check(&cases);
}

#[test]
fn a_case_of_every_method_matches_the_reference() {
    let found = of_each_method();
    let of = |method: &&str| {
        let case = found.get(*method);
        case.unwrap_or_else(|| panic!("no case of {method}"))
            .clone()
    };
    check(&PEFT_TYPES.iter().map(of).collect::<Vec<_>>());
}
