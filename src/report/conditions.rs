//! What results must have in common to be compared: the machine, the model, its precision, the
//! engine, and the prompts.
//!
//! Times of other machines, other weights or other prompts aren't times of the same work. So
//! results are divided into groups, each of one set of conditions, and no table or plot joins two
//! of them.

use std::collections::BTreeSet;

use super::model::{Category, QuantizationInfo, Report};
use super::peft;

/// The conditions of a result, or of a group of results that agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conditions(Vec<Condition>);

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// What it's about.
    pub what: String,
    /// What it is; `None` if the result doesn't say, since it's of an earlier version, or ended
    /// before that.
    pub value: Option<String>,
}

impl Conditions {
    /// Those of `report`.
    pub fn of(report: &Report) -> Self {
        let (run, meta) = (&report.run_info, &report.meta_info);
        let (session, system) = (&run.session, &meta.system_info);
        let parameter = |key: &str| run.benchmark_config[key].as_str().map(str::to_owned);
        let quantization = meta.quantization.value();
        let quantization = quantization.map(|found| {
            let unknown = || format!("{}, {} bits", found.scheme, found.bits);
            QuantizationInfo::label(found).unwrap_or_else(unknown)
        });
        let is_prepared = meta.dtype.is_some();
        let packages = meta.package_info.as_ref();
        let fixed = [
            ("processor", system.processor.clone()),
            ("architecture", Some(system.machine.clone())),
            ("usable cores", Some(system.usable_cores.to_string())),
            ("accelerator", accelerator(report)),
            (
                "model",
                meta.model_id.clone().or_else(|| parameter("model_id")),
            ),
            ("weights", meta.weights.map(|of| written(&of))),
            (
                "dtype",
                meta.dtype
                    .map(|of| of.to_string())
                    .or_else(|| parameter("dtype")),
            ),
            ("computed in", meta.compute_dtype.map(|of| of.to_string())),
            (
                "quantization",
                quantization.or_else(|| is_prepared.then(|| "none".to_owned())),
            ),
            ("provider", Some(session.provider.clone())),
            ("threads", Some(session.threads.to_string())),
            ("weights in memory", Some(session.weights.to_string())),
            (
                "batch size",
                Some(session.batch_size.unwrap_or(1).to_string()),
            ),
            (
                "ONNX Runtime",
                packages.and_then(|of| of.onnxruntime_version.clone()),
            ),
        ];
        let fixed = fixed.map(|(what, value)| Condition {
            what: what.to_owned(),
            value,
        });
        Self(fixed.into_iter().chain(prompts(report)).collect())
    }

    /// Whether nothing is known to differ.
    pub fn agree(&self, other: &Self) -> bool {
        self.differing(other).next().is_none()
    }

    /// What differs from `other`, as `dtype (float16 instead of float32)`.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let said = self.differing(other);
        said.map(|(what, own, theirs)| format!("{what} ({own} instead of {theirs})"))
            .collect()
    }

    /// The value of the condition `what`.
    pub fn value(&self, what: &str) -> Option<&str> {
        self.0.iter().find(|one| one.what == what)?.value.as_deref()
    }

    /// All that are known.
    pub fn known(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = self.0.iter();
        all.filter_map(|one| Some((one.what.as_str(), one.value.as_deref()?)))
    }

    /// Takes over what only `other` knows.
    pub fn complete(&mut self, other: &Self) {
        for (what, value) in other.known() {
            match self.0.iter_mut().find(|one| one.what == what) {
                Some(own) if own.value.is_none() => own.value = Some(value.to_owned()),
                Some(_) => {}
                None => self.0.push(Condition {
                    what: what.to_owned(),
                    value: Some(value.to_owned()),
                }),
            }
        }
    }

    fn differing<'a>(
        &'a self,
        other: &'a Self,
    ) -> impl Iterator<Item = (&'a str, &'a str, &'a str)> {
        self.known().filter_map(|(what, own)| {
            let theirs = other.value(what)?;
            (own != theirs).then_some((what, own, theirs))
        })
    }
}

/// The accelerator that was computed on. One that's only there changes nothing.
fn accelerator(report: &Report) -> Option<String> {
    let is_used = report.run_info.session.provider != "cpu";
    match &report.run_info.hardware.accelerator_type {
        Some(name) if is_used => Some(name.clone()),
        None if is_used => None,
        _ => Some("none".to_owned()),
    }
}

/// The word that stands for `value` in a file.
pub(super) fn written(value: &impl serde::Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

/// The prompts of each category: how many tokens they have, and how many are generated.
fn prompts(report: &Report) -> Vec<Condition> {
    let info = &report.generation_info;
    let Some(variant) = info.measured("base").or_else(|| peft::shown(info)) else {
        return Vec::new();
    };
    let all = variant.by_category.iter();
    all.map(|(name, category)| Condition {
        what: format!("{name} prompts"),
        value: tokens(category),
    })
    .collect()
}

/// As `15 tokens, 20 new`.
fn tokens(category: &Category) -> Option<String> {
    let prompts = category.samples.iter().map(|sample| sample.prompt_tokens);
    let prompts: Vec<String> = prompts
        .map(|count| Some(count?.to_string()))
        .collect::<Option<_>>()?;
    let runs = category
        .samples
        .iter()
        .flat_map(|sample| &sample.individual_runs);
    let new: BTreeSet<usize> = runs.map(|run| run.generated_tokens).collect();
    let new: Vec<String> = new.iter().map(usize::to_string).collect();
    Some(format!(
        "{} tokens, {} new",
        prompts.join(", "),
        new.join(" or ")
    ))
}

/// Results that can be compared.
#[derive(Debug)]
pub struct Group {
    /// What they have in common.
    pub conditions: Conditions,
    /// Their places among all results, in order.
    pub results: Vec<usize>,
}

/// Divides `reports` into groups whose conditions agree, the largest first. One that doesn't say
/// all of its conditions, since it failed early, is put into the first group that it doesn't
/// contradict.
pub fn groups(reports: &[&Report]) -> Vec<Group> {
    let conditions: Vec<Conditions> = reports
        .iter()
        .map(|report| Conditions::of(report))
        .collect();
    let mut order: Vec<usize> = (0..reports.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(conditions[index].known().count()));
    let mut groups: Vec<Group> = Vec::new();
    for index in order {
        let own = &conditions[index];
        match groups.iter_mut().find(|group| group.conditions.agree(own)) {
            Some(group) => {
                group.conditions.complete(own);
                group.results.push(index);
            }
            None => groups.push(Group {
                conditions: own.clone(),
                results: vec![index],
            }),
        }
    }
    for group in &mut groups {
        group.results.sort_unstable();
    }
    groups.sort_by_key(|group| (std::cmp::Reverse(group.results.len()), group.results[0]));
    groups
}

/// What each group is called: the values by which they differ. Empty if there's one group.
pub fn titles(groups: &[Group]) -> Vec<String> {
    let all = groups.iter().flat_map(|group| group.conditions.known());
    let mut varying: Vec<&str> = Vec::new();
    for (what, value) in all {
        let differs = |group: &Group| {
            group
                .conditions
                .value(what)
                .is_some_and(|other| other != value)
        };
        if !varying.contains(&what) && groups.iter().any(differs) {
            varying.push(what);
        }
    }
    let title = |group: &Group| {
        let values = varying.iter().filter_map(|what| {
            let value = group.conditions.value(what)?;
            // A number doesn't say what it counts.
            let names_itself =
                value.chars().next().is_some_and(char::is_alphabetic) && value != "none";
            Some(match names_itself {
                true => value.to_owned(),
                false => format!("{what}: {value}"),
            })
        });
        // What's computed in is mostly the dtype once more.
        let mut different: Vec<String> = Vec::new();
        for value in values {
            if !different.contains(&value) {
                different.push(value);
            }
        }
        different.join(" · ")
    };
    groups.iter().map(title).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::record::scripted as record;
    use crate::measure::subject::Subject;
    use crate::report::build::scripted::report;

    /// A report of another dtype, or of a run that failed before anything was measured.
    fn with(dtype: &str, is_measured: bool) -> Report {
        let records = [record(Subject::Base, 1), record(Subject::Unmerged, 2)];
        let records = if is_measured { &records[..] } else { &[] };
        let mut report = report(records, &[], None);
        report.run_info.benchmark_config["dtype"] = dtype.into();
        report
    }

    #[test]
    fn what_cannot_be_compared_is_in_groups_of_its_own() {
        let (one, other, failed) = (
            with("float32", true),
            with("float16", true),
            with("float16", false),
        );
        let found = groups(&[&failed, &other, &one, &one, &one]);
        let places: Vec<&[usize]> = found.iter().map(|group| group.results.as_slice()).collect();
        assert_eq!(places, [&[2, 3, 4][..], &[0, 1]]);
        assert_eq!(titles(&found), ["float32", "float16"]);
        let differences = found[1].conditions.differences(&found[0].conditions);
        assert_eq!(differences, ["dtype (float16 instead of float32)"]);
        assert_eq!(titles(&found[..1]), [""]);
    }

    #[test]
    fn other_prompts_are_other_conditions() {
        let one = with("float32", true);
        let mut other = serde_json::to_value(&one).unwrap();
        let category = &mut other["generation_info"]["variants"]["base"]["by_category"]["short"];
        category["samples"][0]["prompt_tokens"] = 99.into();
        let other: Report = serde_json::from_value(other).unwrap();
        let (one, other) = (Conditions::of(&one), Conditions::of(&other));
        assert!(!one.agree(&other));
        assert!(other.differences(&one)[0].starts_with("short prompts (99 tokens"));
    }

    #[test]
    fn what_a_result_does_not_say_contradicts_nothing() {
        let (whole, failed) = (
            Conditions::of(&with("float32", true)),
            Conditions::of(&with("float32", false)),
        );
        assert!(failed.agree(&whole) && whole.agree(&failed));
        let mut completed = failed.clone();
        completed.complete(&whole);
        assert_eq!(
            completed.value("short prompts"),
            whole.value("short prompts")
        );
        assert!(completed.value("short prompts").is_some());
    }
}
