//! Drift: whether the base's time rises or falls from round to round. The machine warms up, clocks
//! down, or is given to others.
//!
//! Overheads come from pairs of neighbouring runs, which a drift affects alike. Times do not.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::prompt_group::PromptGroup;
use super::record::SubjectRecord;
use super::stats::{Start, estimate, trend};

/// From this change on, between the first and the last of a series, it's a drift.
const LEAST_PCT: f64 = 5.0;

/// The probability below which a trend isn't taken for chance.
const LEVEL: f64 = 0.05;

/// From how many starts on, these are the series. The order of four starts is never improbable
/// enough.
const MIN_STARTS: usize = 5;

/// A trend of the base's time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    /// Of what the series are.
    pub over: Series,
    /// How many a series has; of several series, the longest.
    pub count: usize,
    /// The change from the first of a series to the last, in percent.
    pub pct: f64,
    /// The probability of such a trend if there were none.
    pub p: f64,
    /// Whether it's improbable, and large enough to matter.
    pub drifting: bool,
}

/// What a series is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Series {
    /// A prompt's runs, within a start.
    Runs,
    /// Starts, by the median of their runs.
    Starts,
}

/// The drift of the base; `None` if it hasn't enough runs, or all of them took equally long.
pub fn drift(base: &SubjectRecord) -> Option<Drift> {
    let mut starts: BTreeMap<usize, BTreeMap<(PromptGroup, usize), Vec<f64>>> = BTreeMap::new();
    for run in &base.runs {
        let own = starts.entry(run.start).or_default();
        let times = own.entry((run.group, run.prompt)).or_default();
        times.push(run.timings.total().as_secs_f64().ln());
    }
    let (over, series) = if starts.len() >= MIN_STARTS {
        let center = |start: &BTreeMap<_, Vec<f64>>| {
            let start: Start = start.values().cloned().collect();
            estimate(&[start])
        };
        let centers: Option<Vec<f64>> = starts.values().map(center).collect();
        (Series::Starts, vec![centers?])
    } else {
        let series = starts.into_values().flat_map(BTreeMap::into_values);
        (Series::Runs, series.collect::<Vec<Vec<f64>>>())
    };
    let count = series.iter().map(Vec::len).max()?;
    let found = trend(&series)?;
    let pct = (found.slope * (count - 1) as f64).exp_m1() * 100.0;
    Some(Drift {
        over,
        count,
        pct,
        p: found.p,
        drifting: found.p < LEVEL && pct.abs() >= LEAST_PCT,
    })
}

impl Drift {
    /// A sentence for people.
    pub fn sentence(&self) -> String {
        let Self {
            over, count, pct, ..
        } = self;
        let way = match *pct > 0.0 {
            true => "slower",
            false => "quicker",
        };
        let during = match over {
            Series::Runs => format!("during the {count} runs of a prompt"),
            Series::Starts => format!("from the first to the last of {count} starts"),
        };
        format!(
            "the base became {:.0} % {way} {during}; overheads come from neighbouring runs and hold, times don't",
            pct.abs()
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::measure::record::scripted;
    use crate::measure::subject::Subject;
    use crate::prompts::Category;
    use crate::random::SplitMix64;

    /// A base of three prompts with `runs` runs in each of `starts` starts. Each run takes
    /// `of(start, run)` times its prompt's time.
    fn base(starts: usize, runs: usize, mut of: impl FnMut(usize, usize) -> f64) -> SubjectRecord {
        let mut record = scripted(Subject::Base, 1);
        let example = record.runs[0].clone();
        record.runs.clear();
        for start in 0..starts {
            for (length, category) in Category::ALL.into_iter().enumerate() {
                for run in 0..runs {
                    let mut one = example.clone();
                    (one.group, one.start) = (PromptGroup::Category(category), start);
                    one.run = start * runs + run;
                    let seconds = 0.1 * (length + 1) as f64 * of(start, run);
                    one.timings.time_to_first_token = Duration::from_secs_f64(seconds);
                    one.timings.decode_steps.clear();
                    record.runs.push(one);
                }
            }
        }
        record
    }

    #[test]
    fn a_machine_that_slows_down_is_found_though_prompts_are_of_different_lengths() {
        let found = drift(&base(1, 5, |_, run| 1.0 + 0.03 * run as f64)).unwrap();
        assert!(
            found.drifting && (found.pct - 12.0).abs() < 1.0,
            "{found:?}"
        );
        assert_eq!((found.over, found.count), (Series::Runs, 5));
        assert!(
            found
                .sentence()
                .starts_with("the base became 12 % slower during the 5 runs")
        );
        let quicker = drift(&base(1, 5, |_, run| 1.0 - 0.03 * run as f64)).unwrap();
        assert!(quicker.drifting && quicker.sentence().contains("quicker"));
        // Sure, but not worth a word.
        let little = drift(&base(1, 5, |_, run| 1.0 + 0.001 * run as f64)).unwrap();
        assert!(!little.drifting && little.p < 0.05);
    }

    #[test]
    fn starts_that_become_slower_one_by_one_are_a_drift_and_slow_ones_among_them_are_none() {
        let found = drift(&base(5, 5, |start, _| 1.0 + 0.02 * start as f64)).unwrap();
        assert!(found.drifting && found.over == Series::Starts, "{found:?}");
        let mixed = [1.0, 1.2, 0.9, 1.3, 1.1];
        assert!(
            !drift(&base(5, 5, |start, _| mixed[start]))
                .unwrap()
                .drifting
        );
    }

    #[test]
    fn noise_is_seldom_taken_for_a_drift() {
        let mut random = SplitMix64::new(2);
        let mut factor = || 1.0 + 0.2 * (random.next_u64() as f64 / u64::MAX as f64);
        let found = (0..200).filter(|_| {
            let record = base(1, 5, |_, _| factor());
            drift(&record).unwrap().drifting
        });
        let found = found.count();
        assert!(found <= 16, "{found} of 200");
    }

    #[test]
    fn one_run_or_equal_ones_have_no_trend() {
        assert_eq!(drift(&base(1, 1, |_, _| 1.0)), None);
        assert_eq!(drift(&base(1, 5, |_, _| 1.0)), None);
    }
}
