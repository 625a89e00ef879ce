//! Defaults of an unmerged graph's inputs: an initializer with an input's name holds while no
//! adapter is active.

use std::path::Path;

use super::PortableError;
use super::data::DataFile;
use crate::adapter::{Neutral, NeutralInput};
use crate::graph::proto::{Model, Tensor, element};

/// Smaller defaults are in the graph itself.
const INLINE_BYTES: usize = 1024;

/// Gives `input` a default, if it has one. Larger ones are written to `data`, in `folder`. Returns
/// whether it has one.
///
/// # Errors
/// If it can't be written.
pub fn set(
    model: &mut Model,
    input: NeutralInput,
    folder: &Path,
    data: &mut DataFile,
) -> Result<bool, PortableError> {
    let (Some(graph), Some(value)) = (&mut model.graph, input.value) else {
        return Ok(false);
    };
    let elements = input.shape.iter().product();
    let values = match value {
        Neutral::Empty => Vec::new(),
        Neutral::Constant(value) => vec![value; elements],
        Neutral::Values(values) => values,
    };
    let bytes: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let dims = input.shape.iter().map(|&size| size as i64).collect();
    let tensor = match bytes.len() <= INLINE_BYTES {
        true => Tensor {
            dims,
            data_type: element::FLOAT32,
            name: input.name,
            raw_data: bytes,
            ..Tensor::default()
        },
        false => {
            let span = data.append(&bytes)?;
            Tensor::external(&input.name, element::FLOAT32, dims, &span, folder)
        }
    };
    graph.initializer.push(tensor);
    Ok(true)
}
