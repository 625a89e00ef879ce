//! Inputs with the number of cached and new tokens.

use std::ops::Range;

use ort::memory::Allocator;
use ort::session::{IoBinding, Session};
use ort::value::Tensor;

use crate::graph::lengths::{LAST_INDEX, PAST, TOTAL, TOTAL_I32};

/// The lengths that are inputs of a session, in host memory.
#[derive(Debug)]
pub struct LengthInputs {
    last_index: Option<Tensor<i32>>,
    total_i32: Option<Tensor<i32>>,
    total: Option<Tensor<i64>>,
    past: Option<Tensor<i64>>,
}

impl LengthInputs {
    /// Allocates the lengths that `session` takes, for `batch` sequences.
    pub fn new(session: &Session, host: &Allocator, batch: usize) -> ort::Result<Self> {
        let takes = |name: &str| session.inputs().iter().any(|input| input.name() == name);
        let i32s = |name, shape: &[usize]| {
            let make = || Tensor::<i32>::new(host, shape);
            takes(name).then(make).transpose()
        };
        let i64s = |name| {
            let make = || Tensor::<i64>::new(host, [1_usize]);
            takes(name).then(make).transpose()
        };
        Ok(Self {
            last_index: i32s(LAST_INDEX, &[batch])?,
            total_i32: i32s(TOTAL_I32, &[])?,
            total: i64s(TOTAL)?,
            past: i64s(PAST)?,
        })
    }

    /// Sets the lengths for a run that writes `rows` of the cache.
    pub fn set(&mut self, rows: &Range<usize>) {
        let fill = |tensor: &mut Option<Tensor<i32>>, value: usize| {
            if let Some(tensor) = tensor {
                tensor.extract_tensor_mut().1.fill(value as i32);
            }
        };
        fill(&mut self.last_index, rows.end - 1);
        fill(&mut self.total_i32, rows.end);
        let fill = |tensor: &mut Option<Tensor<i64>>, value: usize| {
            if let Some(tensor) = tensor {
                tensor.extract_tensor_mut().1.fill(value as i64);
            }
        };
        fill(&mut self.total, rows.end);
        fill(&mut self.past, rows.start);
    }

    /// Binds the lengths. Inputs on the host are read when a run begins; inputs on a GPU are copied
    /// to it now.
    pub fn bind(&self, binding: &mut IoBinding) -> ort::Result<()> {
        for (name, tensor) in [(LAST_INDEX, &self.last_index), (TOTAL_I32, &self.total_i32)] {
            if let Some(tensor) = tensor {
                binding.bind_input(name, tensor)?;
            }
        }
        for (name, tensor) in [(TOTAL, &self.total), (PAST, &self.past)] {
            if let Some(tensor) = tensor {
                binding.bind_input(name, tensor)?;
            }
        }
        Ok(())
    }
}
