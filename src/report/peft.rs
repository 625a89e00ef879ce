//! The keys of `generation_info` that PEFT's suite knows: `memory`, `by_category`, `overall`. They
//! stand for one variant.

use super::model::{GenerationInfo, Variant};
use crate::measure::subject::Subject;

/// The variant that PEFT's keys repeat: PEFT's suite measures the adapter unmerged.
pub fn shown(info: &GenerationInfo) -> Option<&Variant> {
    [
        Subject::Unmerged,
        Subject::Merged,
        Subject::Exported,
        Subject::Base,
    ]
    .into_iter()
    .find_map(|subject| info.measured(subject.name()))
}
