//! Absolute times. Two sessions on the same machine differ by more than most changes are worth, and
//! their intervals don't cover that. So they're shown, and decide nothing.

use super::figure::{Figure, Kind, Unit};
use super::starts::{Side, of_side};
use super::{Pair, Source};
use crate::measure::stats::{OfStart, Start, estimate, median, shift};
use crate::measure::subject::Subject;
use crate::report::model::Run;

/// Intervals are the same whenever the same files are compared.
const SEED: u64 = 42;

type Time = (&'static str, fn(&Run) -> Option<f64>);

const TIMES: &[Time] = &[
    ("total time", |of| Some(of.inference_time)),
    ("first token", |of| Some(of.time_to_first_token)),
    ("a step", |of| median(&of.decode_steps)),
];

/// Each variant's times.
pub(super) fn figures(pair: &Pair) -> Vec<Figure> {
    let mut found = Vec::new();
    let again = Subject::BaseAgain.name();
    for variant in pair.variants().into_iter().filter(|name| *name != again) {
        for (name, time) in TIMES {
            let [old, new] = [&pair.old, &pair.new].map(|side| starts(side, variant, *time));
            let (Some(old), Some(new)) = (old, new) else {
                continue;
            };
            // As of overheads, each category has the same weight.
            let seconds = |starts: &[Start]| estimate(starts).map(f64::exp);
            let figure = Figure::new(name, Kind::Time, Unit::Seconds);
            let mut figure = figure.with_values(seconds(&old), seconds(&new));
            figure.variant = Some(variant.to_owned());
            figure.decides = false;
            let pct = |log: f64| log.exp_m1() * 100.0;
            if let Some(found) = shift(&old, &new, SEED) {
                figure.change_pct = Some(pct(found.log));
                figure.interval_pct = found.interval.map(|ends| ends.map(pct));
                figure.covers_starts = Some(found.covers_starts);
            }
            found.push(figure);
        }
    }
    found
}

/// Log times of each start, by category; `None` if there are none, or one that's no time.
fn starts(side: &[Source], variant: &str, time: fn(&Run) -> Option<f64>) -> Option<Side> {
    of_side(side, |report| {
        let variant = report.generation_info.measured(variant)?;
        let strata = variant.by_category.values().map(|category| {
            let runs = category.samples.iter().flat_map(|of| &of.individual_runs);
            let times = runs.map(|run| {
                let value = time(run).map(f64::ln).filter(|log| log.is_finite())?;
                let start = run.start();
                Some(OfStart { start, value })
            });
            times.collect()
        });
        strata.collect()
    })
}
