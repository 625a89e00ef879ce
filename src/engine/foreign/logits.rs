//! The logits of a run, and the token that's picked from them.

use ort::value::DynTensor;

use crate::engine::tensors::bytes_of;
use crate::lowering::host_side::largest;
use crate::weights::{Dtype, widen};

/// Logits in host memory, `[batch, positions, vocab_size]`.
#[derive(Debug)]
pub struct Logits {
    /// The tensor.
    pub tensor: DynTensor,
    /// Its type.
    pub dtype: Dtype,
    /// Positions of each sequence.
    pub positions: usize,
    /// Logits of each position.
    pub vocab_size: usize,
}

impl Logits {
    /// The token with the largest logit at the last position of `sequence`.
    pub fn pick(&self, sequence: usize) -> usize {
        let end = (sequence + 1) * self.positions * self.vocab_size;
        match self.tensor.try_extract_tensor::<f32>() {
            Ok((_, all)) => largest(&all[end - self.vocab_size..end]),
            Err(_) => largest(&self.last_of(sequence)),
        }
    }

    /// The logits of the last position of `sequence`.
    pub fn last_of(&self, sequence: usize) -> Vec<f32> {
        let size = self.dtype.size();
        let end = (sequence + 1) * self.positions * self.vocab_size * size;
        let bytes = bytes_of(&self.tensor, end);
        widen(&bytes[end - self.vocab_size * size..], self.dtype)
    }
}
