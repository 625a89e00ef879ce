//! Makes more adapters of the same shapes that compute something else, so that it shows which one a
//! row of a batch has.

use std::path::Path;

use super::{PrepareError, altered_copy};
use crate::prepared::{PreparedVariant, PromptKind};
use crate::random::SplitMix64;

/// Writes `count` adapters below `folder`, with the names and shapes of the tensors of `unmerged`
/// and other values. Sessions on `unmerged` can use them; they have no graph of their own.
///
/// A tensor's values are put in another order, which keeps their distribution. If all are the same,
/// as in a fresh LoRA's `B`, they're drawn near that. Tensors whose values depend on each other, such
/// as rotations and replaced weights, are only changed a little.
///
/// # Errors
/// If a file can't be read or written.
pub fn different_adapters(
    unmerged: &PreparedVariant,
    count: usize,
    seed: u64,
    folder: &Path,
) -> Result<Vec<PreparedVariant>, PrepareError> {
    let mut random = SplitMix64::new(seed);
    let adapter = unmerged.manifest.adapter.as_ref();
    let is_free = |name: &str| {
        adapter.is_some_and(|adapter| {
            adapter.neutral.contains_key(name)
                || matches!(adapter.prompt, Some(PromptKind::VirtualTokens(_)))
        })
    };
    let values = |name: &str, mut values: Vec<f32>| {
        let is_constant = values.windows(2).all(|pair| pair[0] == pair[1]);
        let is_free = is_free(name);
        if is_free && !is_constant {
            random.shuffle(&mut values);
            return values;
        }
        for value in &mut values {
            let drawn = (random.below(4001) as f32 - 2000.0) * 1e-5;
            *value += if is_free { drawn } else { *value * drawn };
        }
        values
    };
    altered_copy::several(unmerged, count, folder, "different-", values)
}

/// Why the adapter of `unmerged` can't share a batch with others; `None` if it can.
pub fn not_mixable(unmerged: &PreparedVariant) -> Option<&'static str> {
    let adapter = unmerged.manifest.adapter.as_ref();
    match adapter.map(|adapter| (adapter.prompt, adapter.inputs.is_empty())) {
        Some((Some(PromptKind::Prefix(_)), _)) => Some(
            "a prefix lies in the first rows of a session's cache and is no input of its graph, and ONNX Runtime's attention \
             takes a filled cache for one sequence only; `measure A B` measures such adapters in turn, each in its own session",
        ),
        Some((_, true)) | None => Some("no adapter's tensors are inputs of its graph"),
        Some(_) => None,
    }
}
