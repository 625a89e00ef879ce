//! Inputs that are made anew for each run: tokens, mask and positions.

use std::ops::Range;

use ort::memory::Allocator;
use ort::value::{DynTensor, Tensor};

use crate::engine::tensors::new_tensor;
use crate::prepared::{ForeignGraph, IntegerInput};

/// The inputs of a run of `ids`, the same for each of `batch` sequences, in `rows` of the cache: their
/// names and values.
pub fn of_run<'a>(
    graph: &'a ForeignGraph,
    host: &Allocator,
    ids: &[u32],
    batch: usize,
    rows: &Range<usize>,
) -> ort::Result<Vec<(&'a str, DynTensor)>> {
    let make = |input: &'a IntegerInput, values: Vec<i64>| {
        let shape = [batch, values.len()];
        let all = values.repeat(batch);
        let tensor = match input.is_narrow {
            false => new_tensor(host, &shape, &all)?.upcast(),
            true => {
                let mut tensor = Tensor::<i32>::new(host, shape)?;
                let (_, data) = tensor.extract_tensor_mut();
                // Ids, ones and positions are far below 2^31.
                data.iter_mut()
                    .zip(&all)
                    .for_each(|(to, from)| *to = *from as i32);
                tensor.upcast()
            }
        };
        Ok::<_, ort::Error>((input.name.as_str(), tensor))
    };
    let mut made = vec![make(
        &graph.ids,
        ids.iter().map(|&id| i64::from(id)).collect(),
    )?];
    if let Some(mask) = &graph.mask {
        made.push(make(mask, vec![1; rows.end])?);
    }
    if let Some(positions) = &graph.positions {
        made.push(make(
            positions,
            rows.clone().map(|row| row as i64).collect(),
        )?);
    }
    Ok(made)
}
