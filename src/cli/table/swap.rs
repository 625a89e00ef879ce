//! What changing adapters takes.

use super::cells::{interval, milliseconds, named, none, percent, size, verdict};
use crate::measure::swap::SwapResult;

/// What swapping adapters takes. `title` names the experiment, where there are several.
pub fn swap(title: &str, result: &SwapResult, seed: u64) -> String {
    let name = format!("{:<9}", named(title, "swap"));
    let times = match result {
        SwapResult::Absent(reason) => return format!("{name} not available: {reason}\n"),
        SwapResult::Failed(error) => return format!("{name} failed: {error}\n"),
        SwapResult::Measured(times) => times,
    };
    let Some(found) = times.metrics(seed) else {
        return String::new();
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
        over.map_or_else(none, percent),
        over.map_or_else(none, interval),
    )
}
