//! The tensors of several adapters, one behind the other.

use ort::memory::Allocator;
use ort::value::DynTensor;

use super::adapter::for_each_tensor;
use super::tensors::{element_type, fill};
use super::{EngineError, ResidentAdapter};
use crate::prepared::PreparedVariant;
use crate::weights::Dtype;

/// A tensor of one adapter.
struct Part {
    input: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl ResidentAdapter {
    /// Reads the adapters of `variants` into tensors with a leading axis of adapters, `[adapters,
    /// …]`. Between it and the axis of a vector there's one of tokens, `[adapters, 1, features]`.
    /// Adapters of lower rank than others are filled up with zeros.
    ///
    /// # Errors
    /// If a file can't be read, or the adapters have different tensors.
    ///
    /// # Panics
    /// If there are no `variants`.
    pub(super) fn stacked(
        host: &Allocator,
        variants: &[PreparedVariant],
    ) -> Result<Self, EngineError> {
        let mut stacked = Self::without_tensors(&variants[0]);
        let failed = EngineError::runtime(&stacked.name);
        let adapters: Vec<Vec<Part>> = variants.iter().map(read).collect::<Result<_, _>>()?;
        for (place, first) in adapters[0].iter().enumerate() {
            let mut parts = Vec::with_capacity(variants.len());
            let mut largest = first.shape.clone();
            let expected = (&first.input, first.dtype, first.shape.len());
            for (adapter, variant) in adapters.iter().zip(variants) {
                let part = adapter.get(place);
                let fits = |part: &&Part| (&part.input, part.dtype, part.shape.len()) == expected;
                let Some(part) = part.filter(fits) else {
                    return Err(EngineError::Stacked {
                        name: stacked.name,
                        other: variant.folder.display().to_string(),
                        input: first.input.clone(),
                        shape: first.shape.clone(),
                        other_shape: part.map_or_else(Vec::new, |part| part.shape.clone()),
                    });
                };
                for (most, size) in largest.iter_mut().zip(&part.shape) {
                    *most = (*most).max(*size);
                }
                parts.push(part);
            }
            let tokens = if largest.len() == 1 { &[1][..] } else { &[] };
            let shape = [&[variants.len()], tokens, &largest].concat();
            let size = first.dtype.size();
            let each = largest.iter().product::<usize>() * size;
            let element = element_type(first.dtype);
            let mut tensor = DynTensor::new(host, element, shape).map_err(&failed)?;
            for (number, part) in parts.iter().enumerate() {
                let bytes = filled_up(&part.bytes, &part.shape, &largest, size);
                fill(&mut tensor, number * each, &bytes);
            }
            stacked.bytes += (each * variants.len()) as u64;
            stacked.tensors.push((first.input.clone(), tensor));
        }
        Ok(stacked)
    }
}

/// The tensors of an adapter, in the order of its inputs.
fn read(variant: &PreparedVariant) -> Result<Vec<Part>, EngineError> {
    let mut parts = Vec::new();
    for_each_tensor(variant, |input, dtype, shape, bytes| {
        parts.push(Part {
            input: input.to_owned(),
            dtype,
            shape: shape.to_vec(),
            bytes: bytes.to_vec(),
        });
        Ok(())
    })?;
    Ok(parts)
}

/// A tensor of one or two axes, whose elements have `size` bytes, with zeros behind it up to the
/// shape `to`.
fn filled_up(bytes: &[u8], shape: &[usize], to: &[usize], size: usize) -> Vec<u8> {
    if shape == to {
        return bytes.to_vec();
    }
    let mut all = vec![0; to.iter().product::<usize>() * size];
    let width = |shape: &[usize]| shape.last().copied().unwrap_or(1).max(1) * size;
    let (own, wide) = (width(shape), width(to));
    for (row, values) in bytes.chunks_exact(own).enumerate() {
        all[row * wide..][..own].copy_from_slice(values);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lower_rank_is_filled_up_with_zeros_on_either_axis() {
        let a = [1, 2, 3, 4, 5, 6];
        // A: [2, 3] to [3, 3]; B: [3, 2] to [3, 4].
        assert_eq!(
            filled_up(&a, &[2, 3], &[3, 3], 1),
            [1, 2, 3, 4, 5, 6, 0, 0, 0]
        );
        let b = filled_up(&a, &[3, 2], &[3, 4], 1);
        assert_eq!(b, [1, 2, 0, 0, 3, 4, 0, 0, 5, 6, 0, 0]);
        assert_eq!(filled_up(&a, &[6], &[6], 1), a);
        assert_eq!(
            filled_up(&[1, 2, 3, 4], &[1, 2], &[2, 2], 2),
            [1, 2, 3, 4, 0, 0, 0, 0]
        );
    }
}
