//! Under which name a checkpoint holds a tensor.

use crate::arch::DecoderSpec;
use crate::weights::{TensorStore, TensorView, WeightsError};

/// The base's tensor `source`; of one with a row for each token the vocabulary's rows alone, where there are more.
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

/// The base's tensor `source` as it's stored. Checkpoints that were saved from the model without its head lack the
/// first part of every name (`model.`), and some have other names for a module.
///
/// # Errors
/// If the base has it under none of them.
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
