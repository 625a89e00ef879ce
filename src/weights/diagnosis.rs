//! Readable reasons why a file isn't valid safetensors: the crate's errors name neither the tensor
//! nor sizes.

use safetensors::{Dtype, SafeTensorError};
use serde_json::Value as Json;

use crate::files::failed_download;

/// The reason why the crate refused `bytes`, the whole file, with `error`.
pub fn diagnosis(bytes: &[u8], error: &SafeTensorError) -> String {
    if let Some(other) = failed_download(bytes) {
        return other.to_owned();
    }
    let size = bytes.len();
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return format!("it has {size} bytes, expected at least 8");
    };
    let length = u64::from_le_bytes(*length);
    match error {
        SafeTensorError::HeaderTooLarge | SafeTensorError::InvalidHeaderLength => {
            format!(
                "its first 8 bytes announce a header of {length} bytes, but the file has {size} bytes"
            )
        }
        SafeTensorError::InvalidHeaderDeserialization(error) => {
            format!("its header isn't as expected: {error}")
        }
        _ => {
            let header = usize::try_from(length).ok().and_then(|n| rest.get(..n));
            header
                .and_then(|header| serde_json::from_slice(header).ok())
                .and_then(|header| of_tensors(&header, 8 + length, size))
                .unwrap_or_else(|| error.to_string())
        }
    }
}

/// What is wrong with the tensors in `header`. The data begin at byte `start` of a file of `size`
/// bytes.
fn of_tensors(header: &Json, start: u64, size: usize) -> Option<String> {
    let mut tensors = Vec::new();
    for (name, tensor) in header.as_object()? {
        if name == "__metadata__" {
            continue;
        }
        let [begin, end] = tensor.get("data_offsets")?.as_array()?.as_slice() else {
            return None;
        };
        tensors.push((begin.as_u64()?, end.as_u64()?, name, tensor));
    }
    tensors.sort_by_key(|(begin, end, ..)| (*begin, *end));
    let mut expected = 0;
    for (begin, end, name, tensor) in tensors {
        if begin != expected || end < begin {
            return Some(format!(
                "tensor `{name}` is at bytes {begin} to {end} of the data, expected to begin at {expected}, where the \
                 one before it ends"
            ));
        }
        expected = end;
        let shape = tensor.get("shape")?;
        let dtype: Dtype = serde_json::from_value(tensor.get("dtype")?.clone()).ok()?;
        let mut sides = shape.as_array()?.iter().map(Json::as_u64);
        let bits = sides.try_fold(dtype.bitsize() as u64, |product, side| {
            product.checked_mul(side?)
        });
        if bits.is_none() || bits != (end - begin).checked_mul(8) {
            return Some(format!(
                "tensor `{name}` has {} bytes, which doesn't fit shape {shape} in {dtype:?}",
                end - begin
            ));
        }
    }
    let described = start + expected;
    (described != size as u64).then(|| {
        format!(
            "it's cut off or damaged: its header describes {described} bytes, the file has {size} bytes"
        )
    })
}
