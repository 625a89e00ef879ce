//! The number of tokens after which merging has paid for itself.
//!
//! ```text
//! ready  = time to prepare + lay out weights + open a session
//! extra  = ready of merged - ready of unmerged
//! saving = (unmerged's time - merged's time of the same run) / tokens of that run
//! tokens = extra / saving
//! ```
//!
//! The times in `extra` were measured once each, so the interval is that of the saving alone.
//! Laying out the base's weights isn't in `extra`, since all variants share them.

use serde::{Deserialize, Serialize};

use super::comparison::measured;
use super::prompt_group::PromptGroup;
use super::record::SubjectRecord;
use super::stats::{Difference, Pair, paired_difference};

/// The one-time cost of merging, and when it's paid back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BreakEven {
    /// Seconds that merged needs longer than unmerged until it's ready: preparing, laying out
    /// weights, opening a session. Negative if it's ready sooner.
    pub extra_seconds: f64,
    /// One entry for each prompt group.
    pub groups: Vec<GroupBreakEven>,
}

/// The break-even on prompts of one group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupBreakEven {
    /// The prompt group.
    pub group: PromptGroup,
    /// Seconds that merged saves per token, prefill included; negative if it's slower.
    pub saving_per_token: f64,
    /// The bootstrap 95 % interval of `saving_per_token`; `None` with a single run.
    pub saving_interval: Option<[f64; 2]>,
    /// The conclusion.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// Whether merging pays, and when.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Verdict {
    /// Merged is ready no later, and wasn't found to be slower.
    AtOnce,
    /// After `tokens` tokens.
    After {
        /// `extra / saving`
        tokens: f64,
        /// `tokens` at both ends of the saving's interval.
        interval: [f64; 2],
    },
    /// Merged is slower.
    Never,
    /// Neither a saving nor a loss was detected.
    NotDetected,
    /// There are too few runs to detect a saving or a loss.
    TooFewPairs,
}

/// The break-even of one experiment's variants; `None` without runs in common.
pub fn break_even(
    unmerged: &SubjectRecord,
    merged: &SubjectRecord,
    seed: u64,
) -> Option<BreakEven> {
    let ready = |record: &SubjectRecord| {
        let laid_out = record.lay_out_seconds.unwrap_or(0.0);
        record.prepare_seconds + laid_out + record.session_seconds
    };
    let extra_seconds = ready(merged) - ready(unmerged);
    let groups: Vec<GroupBreakEven> = measured(unmerged)
        .into_iter()
        .filter_map(|group| {
            let saving = saving(unmerged, merged, group, seed)?;
            Some(GroupBreakEven {
                group,
                saving_per_token: saving.seconds,
                saving_interval: saving.interval,
                verdict: verdict(extra_seconds, &saving),
            })
        })
        .collect();
    (!groups.is_empty()).then_some(BreakEven {
        extra_seconds,
        groups,
    })
}

/// The seconds that merged saves per token; a batch counts all its sequences' tokens.
fn saving(
    unmerged: &SubjectRecord,
    merged: &SubjectRecord,
    group: PromptGroup,
    seed: u64,
) -> Option<Difference> {
    let pairs: Vec<Pair> = unmerged
        .runs_of(group)
        .filter_map(|run| {
            let same = |other: &&super::record::RunRecord| {
                (other.prompt, other.run) == (run.prompt, run.run)
            };
            let partner = merged.runs_of(group).find(same)?;
            let batch = unmerged.batch_size as f64;
            Some(Pair {
                base: partner.timings.time_per_token() / batch,
                variant: run.timings.time_per_token() / batch,
                start: run.start,
            })
        })
        .collect();
    paired_difference(&pairs, seed)
}

fn verdict(extra_seconds: f64, saving: &Difference) -> Verdict {
    match (saving.interval.filter(|_| saving.detected), extra_seconds) {
        (Some([_, high]), _) if high < 0.0 => Verdict::Never,
        (_, extra) if extra <= 0.0 => Verdict::AtOnce,
        (Some([low, high]), extra) => Verdict::After {
            tokens: extra / saving.seconds,
            interval: [extra / high, extra / low],
        },
        (None, _) if saving.enough => Verdict::NotDetected,
        (None, _) => Verdict::TooFewPairs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::record::scripted;
    use crate::measure::subject::Subject;

    /// The break-even where a run takes `unmerged` or `merged` times 57 ms, and merged is ready
    /// `extra` seconds later.
    fn found(unmerged: u32, merged: u32, extra: f64) -> GroupBreakEven {
        let unmerged = scripted(Subject::Unmerged, unmerged);
        let mut merged = scripted(Subject::Merged, merged);
        merged.prepare_seconds = extra + 0.5;
        merged.session_seconds = unmerged.session_seconds - 0.5;
        let found = break_even(&unmerged, &merged, 1).unwrap();
        assert!((found.extra_seconds - extra).abs() < 1e-9);
        found.groups[0].clone()
    }

    #[test]
    fn the_extra_time_is_divided_by_what_a_token_saves() {
        let group = found(2, 1, 2.0);
        // The median run has 57 ms for four tokens.
        assert!((group.saving_per_token - 0.057 / 4.0).abs() < 1e-9);
        let Verdict::After { tokens, interval } = group.verdict else {
            panic!("{group:?}")
        };
        assert!((tokens - 2.0 / (0.057 / 4.0)).abs() < 1e-6);
        assert!(interval[0] <= tokens && tokens <= interval[1]);
        assert!(interval[0] > 130.0 && interval[1] < 150.0, "{interval:?}");
    }

    #[test]
    fn a_loss_is_never_paid_back_and_what_is_not_detected_has_no_number() {
        assert_eq!(found(1, 2, 2.0).verdict, Verdict::Never);
        assert_eq!(found(1, 1, 2.0).verdict, Verdict::NotDetected);
        assert_eq!(found(1, 1, -0.1).verdict, Verdict::AtOnce);
        assert_eq!(found(1, 2, -0.1).verdict, Verdict::Never);
        assert_eq!(found(1, 1, 2.0).verdict, Verdict::NotDetected);
        let few = |subject, factor| {
            let mut record = scripted(subject, factor);
            record.runs.truncate(3);
            record
        };
        let (unmerged, merged) = (few(Subject::Unmerged, 2), few(Subject::Merged, 1));
        let mut slow = merged.clone();
        slow.prepare_seconds = 9.0;
        let found = break_even(&unmerged, &slow, 1).unwrap();
        assert_eq!(found.groups[0].verdict, Verdict::TooFewPairs);
    }
}
