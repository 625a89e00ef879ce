//! What makes two results not comparable, and what makes a comparison doubtful.

use std::collections::BTreeSet;

use super::{Pair, Source, reports};
use crate::measure::subject::Subject;
use crate::report::comparable::Conditions;
use crate::report::model::{BaseSource, Report, Status};

/// Why a pair can't be compared; empty if it can.
pub(super) fn refusals(pair: &Pair) -> Vec<String> {
    let mut found = Vec::new();
    for (side, sources) in sides(pair) {
        for source in sources {
            let of_one = unusable(&source.report);
            found.extend(of_one.map(|why| format!("{}: {why}", called(side, source, sources))));
        }
    }
    let all = || pair.old.iter().chain(&pair.new);
    let Some(first) = all().next() else {
        return found;
    };
    let conditions = Conditions::strict(&first.report);
    for (side, sources) in sides(pair) {
        for source in sources {
            let own = Conditions::strict(&source.report);
            for (what, value, expected) in own.differing(&conditions) {
                let name = called(side, source, sources);
                found.push(format!(
                    "{what} differs: {expected} in OLD, {value} in {name}"
                ));
            }
            // Of prompts that only one side has, times are of other work.
            let (own, expected) = (categories(&source.report), categories(&first.report));
            if own != expected {
                let list = |names: &BTreeSet<&str>| match names.is_empty() {
                    true => "none".to_owned(),
                    false => names.iter().copied().collect::<Vec<_>>().join(", "),
                };
                let name = called(side, source, sources);
                found.push(format!(
                    "prompts differ: {} in OLD, {} in {name}",
                    list(&expected),
                    list(&own)
                ));
            }
        }
    }
    found
}

/// What's wrong with a result by itself.
fn unusable(report: &Report) -> impl Iterator<Item = String> {
    let (run, info) = (&report.run_info, &report.generation_info);
    let why = || run.error.as_deref().unwrap_or("it doesn't say why");
    let status = match run.status {
        Status::Success => None,
        Status::Failed => Some(format!("the run failed: {}", why())),
        Status::Cancelled => Some(format!("the run was cancelled: {}", why())),
    };
    let parity = (info.timings_valid == Some(false))
        .then(|| "the parity check failed, so its times aren't of the same model".to_owned());
    let mut overheads = info
        .all_measured()
        .filter_map(|(_, of)| of.overall_overhead());
    let is_unpaired = matches!(run.session.base, BaseSource::Cached)
        || overheads.any(|overhead| !overhead.paired);
    let unpaired = is_unpaired.then(|| {
        "its base was measured earlier (`--cached-base`), not in turn with the variants".to_owned()
    });
    // What failed has failed checks as well.
    let first = status.or(parity);
    first.into_iter().chain(unpaired)
}

/// What's to know before a comparison is believed.
pub(super) fn warnings(pair: &Pair) -> Vec<String> {
    let mut found = Vec::new();
    for (side, sources) in sides(pair) {
        for source in sources {
            let Some(others) = source.report.run_info.interference.value() else {
                continue;
            };
            if others.disturbed {
                let share = others.other_processes_share + others.steal_share;
                found.push(format!(
                    "{} was disturbed: others took {:.0} % of the cores' time",
                    called(side, source, sources),
                    share * 100.0
                ));
            }
        }
    }
    let (Some(old), Some(new)) = (pair.old.first(), pair.new.first()) else {
        return found;
    };
    if pair.is_the_same_measurement() {
        found.push("OLD and NEW are the same measurement".to_owned());
    }
    found.extend(absent(&old.report, &new.report));
    found.extend(adapters(&old.report, &new.report));
    let conditions = [old, new].map(|source| Conditions::strict(&source.report));
    for (index, side) in ["OLD", "NEW"].into_iter().enumerate() {
        let other = &conditions[1 - index];
        let unknown = other.known().map(|(what, _)| what);
        let unknown = unknown.filter(|what| conditions[index].value(what).is_none());
        let unknown: Vec<&str> = unknown.collect();
        if !unknown.is_empty() {
            found.push(format!("{side} doesn't say: {}", unknown.join(", ")));
        }
    }
    found
}

/// Variants that only one side has.
fn absent(old: &Report, new: &Report) -> Vec<String> {
    let names = |report: &Report| -> Vec<String> {
        let all = report.generation_info.all_measured();
        all.map(|(name, _)| name.to_owned()).collect()
    };
    let (of_old, of_new) = (names(old), names(new));
    let only = |side: &str, own: &[String], others: &[String], report: &Report| {
        let missing = own.iter().filter(|name| !others.contains(name));
        let told = missing.map(|name| {
            let entry = report.generation_info.variants.get(name);
            let why = entry.and_then(|entry| entry.absent());
            let why = why.map_or(String::new(), |why| format!(": {why}"));
            format!("only {side} has {name}{why}")
        });
        told.collect::<Vec<_>>()
    };
    let mut found = only("OLD", &of_old, &of_new, new);
    found.extend(only("NEW", &of_new, &of_old, old));
    found
}

/// What differs between the adapters' configurations.
fn adapters(old: &Report, new: &Report) -> Vec<String> {
    let config = |report: &Report| {
        let config = report.run_info.peft_config.as_ref();
        config.and_then(|config| config.as_object()).cloned()
    };
    let (Some(old), Some(new)) = (config(old), config(new)) else {
        return Vec::new();
    };
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let written = |value: Option<&serde_json::Value>| {
        value.map_or_else(|| "absent".to_owned(), ToString::to_string)
    };
    let changed = keys
        .into_iter()
        .filter(|key| old.get(*key) != new.get(*key));
    changed
        .map(|key| {
            let (before, after) = (written(old.get(key)), written(new.get(key)));
            format!("the adapters differ: `{key}` is {before} in OLD, {after} in NEW")
        })
        .collect()
}

fn categories(report: &Report) -> BTreeSet<&str> {
    let base = report.generation_info.measured(Subject::Base.name());
    let categories = base.into_iter().flat_map(|base| base.by_category.iter());
    categories.map(|(name, _)| name).collect()
}

fn sides(pair: &Pair) -> [(&'static str, &[Source]); 2] {
    [("OLD", pair.old.as_slice()), ("NEW", pair.new.as_slice())]
}

/// A side's name; with its file where there are several.
fn called(side: &str, source: &Source, sources: &[Source]) -> String {
    match sources {
        [_] => side.to_owned(),
        _ => format!("{side} `{}`", source.file.display()),
    }
}

impl Pair {
    /// Whether a file is compared with itself, or with a copy.
    pub(super) fn is_the_same_measurement(&self) -> bool {
        let same = |(old, new): (&Report, &Report)| {
            old.run_info.timestamp == new.run_info.timestamp
                && old.generation_info == new.generation_info
        };
        self.old.len() == self.new.len() && reports(&self.old).zip(reports(&self.new)).all(same)
    }
}
