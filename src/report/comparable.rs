//! What results must have in common to be compared: the machine, the model, its precision, the
//! engine, and the prompts.
//!
//! Times of other machines, other weights or other prompts aren't times of the same work. So
//! results are divided into groups, each of one set of conditions, and no table or plot joins two
//! of them. `compare` refuses two results whose conditions differ, and those of [`STRICT`] as well.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};

use super::model::{Category, QuantizationInfo, Report};
use super::peft;
use crate::arch::LatentCache;

/// A condition that every result has: what it's called, and how to get it.
type Row = (&'static str, fn(&Report) -> Option<String>);

/// What all results of a group have in common, but for the prompts.
const ROWS: &[Row] = &[
    ("processor", |of| of.meta_info.system_info.processor.clone()),
    ("architecture", |of| {
        Some(of.meta_info.system_info.machine.clone())
    }),
    ("usable cores", |of| {
        Some(of.meta_info.system_info.usable_cores.to_string())
    }),
    ("accelerator", accelerator),
    ("model", |of| {
        let named = of.meta_info.model_id.clone();
        named.or_else(|| parameter(of, "model_id"))
    }),
    ("weights", |of| of.meta_info.weights.map(|of| written(&of))),
    ("dtype", |of| {
        let dtype = of.meta_info.dtype.map(|of| of.to_string());
        dtype.or_else(|| parameter(of, "dtype"))
    }),
    ("computed in", computed_in),
    ("quantization", quantization),
    ("provider", |of| Some(of.run_info.session.provider.clone())),
    ("threads", |of| {
        Some(of.run_info.session.threads.to_string())
    }),
    ("layers on the GPU", |of| {
        let session = &of.run_info.session;
        let all = session
            .provider
            .starts_with("cuda")
            .then(|| "all".to_owned());
        session.gpu_layers.map(|layers| layers.to_string()).or(all)
    }),
    ("weights in memory", |of| {
        Some(of.run_info.session.weights.to_string())
    }),
    ("batch size", |of| {
        Some(of.run_info.session.batch_size.unwrap_or(1).to_string())
    }),
    ("ONNX Runtime", |of| {
        let packages = of.meta_info.package_info.as_ref();
        packages.and_then(|of| of.onnxruntime_version.clone())
    }),
];

/// What two results of the same target must have in common as well, for a difference between them
/// to be one of the program, or of the adapter. In a table of many results they may differ.
const STRICT: &[Row] = &[
    ("form of the adapter", |of| {
        of.meta_info.adapter_form.value().map(written)
    }),
    ("parameters of the base", |of| {
        let parameters = of.meta_info.parameters?;
        Some(parameters.base_params.to_string())
    }),
    ("size of the base", |of| {
        let size = of.meta_info.model_size?.base_model_size_mb;
        Some(format!("{size:.3} MiB"))
    }),
    ("CUDA graphs", |of| {
        let graph = of.run_info.session.cuda_graph.value();
        graph.map(bool::to_string)
    }),
    ("TF32", |of| {
        of.run_info.session.tf32.value().map(bool::to_string)
    }),
];

/// The conditions of a result, or of a group of results that agree.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Conditions(Vec<Condition>);

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Condition {
    /// What it's about.
    pub what: String,
    /// What it is; `None` if the result doesn't say, since it's of an earlier version, or ended
    /// before that.
    pub value: Option<String>,
}

impl Conditions {
    /// Those by which `report` is grouped.
    pub fn of(report: &Report) -> Self {
        let rows = ROWS.iter().map(|row| condition(row, report));
        Self(rows.chain(prompts(report)).collect())
    }

    /// Those that another result of the same target must share to be compared with `report`.
    pub fn strict(report: &Report) -> Self {
        let mut conditions = Self::of(report);
        let rows = STRICT.iter().map(|row| condition(row, report));
        conditions.0.extend(rows);
        conditions
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

    /// What differs from `other`: what it's about, its own value, and the other's.
    pub fn differing<'a>(
        &'a self,
        other: &'a Self,
    ) -> impl Iterator<Item = (&'a str, &'a str, &'a str)> {
        self.known().filter_map(|(what, own)| {
            let theirs = other.value(what)?;
            (own != theirs).then_some((what, own, theirs))
        })
    }
}

/// A single condition of `report`, of those that all results have.
pub(super) fn condition_named(report: &Report, what: &str) -> Option<String> {
    let (_, value) = ROWS.iter().find(|(name, _)| *name == what)?;
    value(report)
}

fn condition(&(what, value): &Row, report: &Report) -> Condition {
    Condition {
        what: what.to_owned(),
        value: value(report),
    }
}

/// The type of the arithmetic; with a compressed cache of latent attention, its form too. An
/// expanded one is as in results that don't say it.
fn computed_in(report: &Report) -> Option<String> {
    let compute = report.meta_info.compute_dtype?;
    Some(match report.meta_info.mla.value() {
        Some(LatentCache::Compressed) => format!("{compute}, with a compressed cache"),
        Some(LatentCache::Expanded) | None => compute.to_string(),
    })
}

/// A parameter of the benchmark.
fn parameter(report: &Report, key: &str) -> Option<String> {
    report.run_info.benchmark_config[key]
        .as_str()
        .map(str::to_owned)
}

/// What weights are quantized to. Where nothing was prepared, it isn't known.
fn quantization(report: &Report) -> Option<String> {
    let meta = &report.meta_info;
    if let Some(base) = meta.base_quantization.value() {
        let level = base.accuracy_level.unwrap_or_default();
        let again = if base.requantized {
            ", requantized"
        } else {
            ""
        };
        let kept = base.kept_weights;
        return Some(format!(
            "base in {}, {kept} weights kept in codes, accuracy level {level}{again}",
            base.scheme
        ));
    }
    let Some(found) = meta.quantization.value() else {
        return meta.dtype.is_some().then(|| "none".to_owned());
    };
    let unknown = || format!("{}, {} bits", found.scheme, found.bits);
    Some(QuantizationInfo::label(found).unwrap_or_else(unknown))
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

/// Divides `reports` into groups whose conditions agree, as [`groups_of`] does.
pub fn groups(reports: &[&Report]) -> Vec<Group> {
    let all = reports.iter().map(|report| Conditions::of(report));
    groups_of(&all.collect::<Vec<_>>())
}

/// Divides results of these conditions into groups whose conditions agree, the largest first. One
/// that doesn't say all of its conditions, since it failed early, is put into the first group that
/// it doesn't contradict.
pub fn groups_of(conditions: &[Conditions]) -> Vec<Group> {
    let mut places: HashMap<&Conditions, Vec<usize>> = HashMap::new();
    for (index, own) in conditions.iter().enumerate() {
        places.entry(own).or_default().push(index);
    }
    let mut different: Vec<(&Conditions, Vec<usize>)> = places.into_iter().collect();
    different.sort_by_key(|(own, places)| (Reverse(own.known().count()), places[0]));
    let mut groups: Vec<Group> = Vec::new();
    for (own, places) in different {
        match groups.iter_mut().find(|group| group.conditions.agree(own)) {
            Some(group) => {
                group.conditions.complete(own);
                group.results.extend(places);
            }
            None => groups.push(Group {
                conditions: own.clone(),
                results: places,
            }),
        }
    }
    for group in &mut groups {
        group.results.sort_unstable();
    }
    groups.sort_by_key(|group| (Reverse(group.results.len()), group.results[0]));
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
    fn two_results_of_a_target_must_have_more_in_common_than_a_group() {
        let one = with("float32", true);
        let mut other = one.clone();
        other.run_info.session.tf32 = Some(true).into();
        let mut third = one.clone();
        third.run_info.session.tf32 = Some(false).into();
        assert!(Conditions::of(&other).agree(&Conditions::of(&third)));
        let differences = Conditions::strict(&other).differences(&Conditions::strict(&third));
        assert_eq!(differences, ["TF32 (true instead of false)"]);
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
