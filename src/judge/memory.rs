//! Peaks of memory. Two measurements of the same program differ by at most 1 %, mostly by less.

use super::figure::{Figure, Kind, Outcome, Unit};
use super::{Pair, reports};
use crate::measure::stats::median;
use crate::measure::subject::Subject;
use crate::report::model::Memory;

/// By how many percent a peak may be more.
pub const ALLOWED_PCT: f64 = 2.0;

/// Allocators take and give back pages in steps, which is much of what a small model needs.
const ALLOWED_MIB: f64 = 1.0;

type Peak = (&'static str, fn(&Memory) -> Option<f64>);

const PEAKS: &[Peak] = &[
    ("peak memory of the accelerator", |of| {
        of.peak_accelerator_memory_mb
    }),
    ("peak memory", |of| Some(of.peak_ram_memory_mb)),
    ("peak memory without files", |of| {
        of.peak_anonymous_memory_mb
    }),
];

/// Each variant's peaks.
pub(super) fn figures(pair: &Pair) -> Vec<Figure> {
    let mut found = Vec::new();
    let again = Subject::BaseAgain.name();
    for variant in pair.variants().into_iter().filter(|name| *name != again) {
        for (name, peak) in PEAKS {
            let [old, new] = [&pair.old, &pair.new].map(|side| {
                let memory = reports(side).filter_map(|report| {
                    let memory = &report.generation_info.measured(variant)?.memory;
                    // Without a stage, it was never read.
                    (!memory.memory_logs.is_empty())
                        .then(|| peak(memory))
                        .flatten()
                });
                median(&memory.collect::<Vec<f64>>())
            });
            if old.is_some() {
                found.push(Figure {
                    variant: Some(variant.to_owned()),
                    ..figure(name, old, new)
                });
            }
        }
    }
    found
}

fn figure(name: &'static str, old: Option<f64>, new: Option<f64>) -> Figure {
    let mut figure = Figure::new(name, Kind::Memory, Unit::Mebibytes).with_values(old, new);
    figure.allowed_pct = Some(ALLOWED_PCT);
    let (Some(old), Some(new)) = (old, new) else {
        figure.note = Some("NEW doesn't say".to_owned());
        return figure;
    };
    let allowed = (old * ALLOWED_PCT / 100.0).max(ALLOWED_MIB);
    figure.outcome = match new - old > allowed {
        true => Outcome::Worse,
        false => Outcome::NoWorse,
    };
    figure.better = old - new > allowed;
    figure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_percent_more_is_allowed_and_of_a_small_one_a_mebibyte() {
        let outcome = |old, new| figure("", Some(old), Some(new)).outcome;
        assert_eq!(outcome(500.0, 509.0), Outcome::NoWorse);
        assert_eq!(outcome(500.0, 511.0), Outcome::Worse);
        assert_eq!(outcome(5.0, 5.9), Outcome::NoWorse);
        assert_eq!(outcome(5.0, 6.1), Outcome::Worse);
        assert_eq!(figure("", Some(500.0), None).outcome, Outcome::CannotTell);
        assert!(figure("", Some(500.0), Some(489.0)).better);
        assert!(!figure("", Some(500.0), Some(491.0)).better);
    }
}
