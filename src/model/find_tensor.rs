//! Finds a base's tensors under the names that different checkpoints use.

use crate::arch::DecoderSpec;
use crate::weights::{TensorStore, TensorView, WeightsError};

/// The base's tensor `source`. A tensor with a row per token is cut to the rows of the vocabulary.
///
/// # Errors
/// As [`find_whole_tensor`].
pub fn find_base_tensor<'a>(
    spec: &DecoderSpec,
    base: &'a TensorStore,
    source: &str,
) -> Result<TensorView<'a>, WeightsError> {
    let whole = find_whole_tensor(spec, base, source)?;
    Ok(match spec.has_row_a_token(source) {
        true => whole.first_rows(spec.vocab_size),
        false => whole,
    })
}

/// The base's tensor `source` as stored. Checkpoints that were saved without the head lack the
/// first part of every name (`model.`), and some use another name for a module.
///
/// # Errors
/// If the base has it under none of these names.
pub fn find_whole_tensor<'a>(
    spec: &DecoderSpec,
    base: &'a TensorStore,
    source: &str,
) -> Result<TensorView<'a>, WeightsError> {
    if let Some(tensor) = base.find(source) {
        return Ok(tensor);
    }
    if let Some(short) = source.strip_prefix(spec.base_prefix)
        && let Some(tensor) = base.find(short)
    {
        return Ok(tensor);
    }
    for (name, other) in spec.other_names {
        if let Some(rest) = source.strip_prefix(name)
            && let Some(tensor) = base.find(&format!("{other}{rest}"))
        {
            return Ok(tensor);
        }
    }
    base.get(source)
}
