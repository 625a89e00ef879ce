//! The table of many results.

use super::cells::{Marks, aligned};
use crate::report::overview::{OverviewRow, overview};

const LEGEND: &str = "\
unmerged, merged: overhead over the base, over all prompts; `~` where none was detected
first token, a token: medians of the unmerged variant over all prompts; merging: seconds to prepare the merged variant
parity: by how much of the largest logit merged and unmerged differ
";

/// One line for each result, and how to read it.
pub fn many(rows: &[OverviewRow]) -> String {
    let table = aligned(&overview(rows), Marks::Undetected);
    format!("{table}\n{LEGEND}")
}
