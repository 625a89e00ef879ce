//! Makes more adapters of the same shapes, which a session can swap in.

use std::path::Path;

use super::{PrepareError, altered_copy};
use crate::prepared::{PreparedVariant, PromptKind};
use crate::random::SplitMix64;

/// Writes `count` adapters below `folder`. They have the names and shapes of the tensors of
/// `unmerged` and other values. A session on `unmerged` can swap them in; they have no graph of
/// their own.
///
/// Values are drawn near the tensor's neutral value (zero or one); without one, as for a rotation
/// or a replaced weight, near the stored values. The time of a step doesn't depend on them.
///
/// # Errors
/// If a file can't be read or written.
pub fn other_adapters(
    unmerged: &PreparedVariant,
    count: usize,
    seed: u64,
    folder: &Path,
) -> Result<Vec<PreparedVariant>, PrepareError> {
    let mut random = SplitMix64::new(seed);
    let neutral = unmerged.manifest.adapter.as_ref();
    let neutral = neutral.map(|adapter| &adapter.neutral);
    let values = |name: &str, values: Vec<f32>| {
        let neutral = neutral.and_then(|neutral| neutral.get(name));
        let other = |value: f32| {
            let drawn = (random.below(4001) as f32 - 2000.0) * 1e-5;
            neutral.map_or(value + value * drawn, |neutral| neutral + drawn)
        };
        values.into_iter().map(other).collect()
    };
    altered_copy::several(unmerged, count, folder, "", values)
}

/// Why the adapter of `unmerged` can't be swapped; `None` if it can.
pub fn not_swappable(unmerged: &PreparedVariant) -> Option<&'static str> {
    let adapter = unmerged.manifest.adapter.as_ref()?;
    match adapter.prompt {
        Some(PromptKind::Prefix(_)) => Some(
            "a prefix is written into the first rows of a session's cache and is no input of its graph, so another one \
             needs another cache",
        ),
        _ => None,
    }
}
