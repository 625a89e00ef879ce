//! What a variant costs over its own base, compared with what it did.
//!
//! Both sides' ratios are taken again from the runs that the files hold: run by run, of a variant
//! over the base in the same round. So what made one session slower than the other, for both of its
//! processes, isn't in them.

use super::figure::{Figure, Kind, Outcome, Unit};
use super::starts::{Side, of_side};
use super::{Pair, Source};
use crate::measure::stats::{MIN_SAMPLES_TO_DETECT, MIN_STARTS, OfStart, estimate, shift};
use crate::measure::subject::Subject;
use crate::report::model::{Category, Report};

/// Intervals are the same whenever the same files are compared.
const SEED: u64 = 42;

/// Each variant's overhead: over all prompts, which decides, and by category.
pub(super) fn figures(pair: &Pair, margin: f64) -> Vec<Figure> {
    let shared = [Subject::Base.name(), Subject::BaseAgain.name()];
    let variants = pair.variants().into_iter();
    let mut found = Vec::new();
    for variant in variants.filter(|name| !shared.contains(name)) {
        let Some(first) = pair.new.first() else {
            continue;
        };
        let categories = categories(&first.report, variant);
        // Of one category, it's the overhead over all prompts.
        let each: &[&str] = match categories.as_slice() {
            [_] => &[],
            several => several,
        };
        let scopes = std::iter::once(None).chain(each.iter().map(|name| Some(*name)));
        for scope in scopes {
            let strata = match &scope {
                Some(name) => std::slice::from_ref(name),
                None => categories.as_slice(),
            };
            let mut figure = figure(pair, variant, strata, margin);
            figure.variant = Some(variant.to_owned());
            figure.prompts = scope.map(str::to_owned);
            figure.decides = scope.is_none() && variant != Subject::UnmergedEmpty.name();
            found.push(figure);
        }
    }
    found
}

fn categories<'a>(report: &'a Report, variant: &str) -> Vec<&'a str> {
    let found = report.generation_info.measured(variant).into_iter();
    let categories = found.flat_map(|found| found.by_category.iter());
    categories.map(|(name, _)| name).collect()
}

fn figure(pair: &Pair, variant: &str, categories: &[&str], margin: f64) -> Figure {
    let mut figure = Figure::new("overhead", Kind::Overhead, Unit::Percent);
    figure.allowed_pct = Some(margin.exp_m1() * 100.0);
    let [old, new] = [&pair.old, &pair.new].map(|side| starts(side, variant, categories));
    let (Some(old), Some(new)) = (old, new) else {
        figure.note = Some("the runs of a side have no counterpart of the base".to_owned());
        return figure;
    };
    let pct = |log: f64| log.exp_m1() * 100.0;
    let is_same = pair.is_the_same_measurement();
    (figure.old, figure.new) = (estimate(&old).map(pct), estimate(&new).map(pct));
    let Some(mut found) = shift(&old, &new, SEED) else {
        figure.note = Some("there are no runs of some prompts".to_owned());
        return figure;
    };
    if is_same {
        // Drawn ratios would differ from themselves.
        found.interval = Some([0.0, 0.0]);
    }
    figure.change_pct = Some(pct(found.log));
    figure.interval_pct = found.interval.map(|ends| ends.map(pct));
    figure.covers_starts = Some(found.covers_starts);
    figure.shift = Some(found);
    if !found.enough() && !is_same {
        figure.note = Some(format!(
            "too few pairs: {} where {MIN_SAMPLES_TO_DETECT} are needed (`num_inference_runs`)",
            found.fewest
        ));
        return figure;
    }
    if let Some([low, high]) = found.interval {
        figure.outcome = if low > margin {
            Outcome::Worse
        } else if high <= margin {
            Outcome::NoWorse
        } else {
            Outcome::CannotTell
        };
        figure.better = high < 0.0;
        if !found.covers_starts && figure.outcome != Outcome::NoWorse && !is_same {
            figure.note = Some(match old.len().min(new.len()) {
                1 => "one start".to_owned(),
                few => format!("{few} starts, {MIN_STARTS} are needed to draw them"),
            });
        }
    }
    figure
}

/// Log ratios of each start, by category; `None` if a result has none in one of them.
fn starts(side: &[Source], variant: &str, categories: &[&str]) -> Option<Side> {
    of_side(side, |report| {
        let info = &report.generation_info;
        let base = info.measured(Subject::Base.name())?;
        let variant = info.measured(variant)?;
        let ratios = categories.iter().map(|name| {
            let ratios = ratios(base.by_category.get(name)?, variant.by_category.get(name)?);
            (!ratios.is_empty()).then_some(ratios)
        });
        ratios.collect()
    })
}

/// A variant's runs over the base's.
fn ratios(base: &Category, variant: &Category) -> Vec<OfStart> {
    let runs = variant.paired_runs(base);
    let ratios = runs.map(|(base, own)| OfStart {
        start: own.start(),
        value: (own.inference_time / base.inference_time).ln(),
    });
    ratios.filter(|ratio| ratio.value.is_finite()).collect()
}
