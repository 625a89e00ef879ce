//! When merging has paid for itself.

use std::fmt::Write;

use super::cells::{named, rounded};
use crate::measure::break_even::{BreakEven, GroupBreakEven, Verdict};

/// When merging has paid for itself: a line for all groups, or one for each where they differ.
/// `title` names the experiment, where there are several.
pub(super) fn break_even(title: &str, found: &BreakEven) -> String {
    let name = named(title, "break-even");
    let extra = found.extra_seconds;
    let verdict = |group: &GroupBreakEven| match group.verdict {
        Verdict::AtOnce => "paid at once".to_owned(),
        Verdict::Never => "never paid back, since merged is slower".to_owned(),
        Verdict::NotDetected => "no saving detected".to_owned(),
        Verdict::TooFewPairs => "too few pairs to tell".to_owned(),
        Verdict::After { tokens, interval } => {
            let [low, high] = interval.map(rounded);
            format!(
                "paid back after {} tokens ({low} … {high})",
                rounded(tokens)
            )
        }
    };
    let mut verdicts: Vec<(String, Vec<String>)> = Vec::new();
    for group in &found.groups {
        let text = verdict(group);
        match verdicts.last_mut() {
            Some((last, groups)) if *last == text => groups.push(group.group.to_string()),
            _ => verdicts.push((text, vec![group.group.to_string()])),
        }
    }
    let cost = match extra {
        more if more >= 0.005 => format!("merging and loading take {more:.2} s more than unmerged"),
        less if less <= -0.005 => format!("merged is ready {:.2} s before unmerged", -less),
        _ => "merged is ready as soon as unmerged".to_owned(),
    };
    if let [(text, _)] = verdicts.as_slice() {
        return format!("{name:<9} {cost}: {text}\n");
    }
    let mut lines = format!("{name:<9} {cost}\n");
    for (text, groups) in verdicts {
        let _ = writeln!(lines, "          {}: {text}", groups.join(", "));
    }
    lines
}
