//! What changing adapters takes.

use super::cells::{interval, milliseconds, named, none, percent, size, verdict};
use crate::report::model::Swap;

/// What swapping adapters takes. `title` names the experiment, where there are several.
pub(super) fn swap(title: &str, result: &Swap) -> String {
    let name = format!("{:<9}", named(title, "swap"));
    let found = match result {
        Swap::Absent { absent } => return format!("{name} not available: {absent}\n"),
        Swap::Failed { error } => return format!("{name} failed: {error}\n"),
        Swap::Measured { metrics: None, .. } => return String::new(),
        Swap::Measured {
            metrics: Some(metrics),
            ..
        } => metrics,
    };
    let over = found.first_token_overhead.as_ref();
    let verdict = over.map_or_else(String::new, verdict);
    format!(
        "{name} {} adapters of {} take turns: reading one takes {}, binding it {}\n          first token {} after a \
         swap, {} without: {}, {}{verdict}\n",
        found.adapters,
        size(found.adapter_bytes),
        milliseconds(Some(found.load_seconds)),
        milliseconds(Some(found.swap_seconds)),
        milliseconds(Some(found.first_token_after)),
        milliseconds(Some(found.first_token_without)),
        over.map_or_else(none, |over| percent(over.pct)),
        over.map_or_else(none, |over| interval(over.interval_pct)),
    )
}
