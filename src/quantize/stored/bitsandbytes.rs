//! bitsandbytes (`quant_method: bitsandbytes`).
//!
//! 4 bits, NF4 or FP4: two codes in a byte, the first in the upper half, over all rows of the
//! weight; `w = quant_map[code] · absmax[index / blocksize]`, rounded to the quant state's dtype.
//!
//! | tensor | type, shape |
//! |--------|-------------|
//! | `weight` | bytes, `[out · in / 2]`; any type may hold them |
//! | `weight.absmax` | float32, or uint8 with double quantization, `[blocks]` |
//! | `weight.quant_map` | float32 `[16]` |
//! | `weight.nested_absmax`, `weight.nested_quant_map` | float32, with double quantization |
//! | `weight.quant_state.bitsandbytes__nf4` (or `fp4`) | JSON: `blocksize`, `dtype`, `shape`, … |
//!
//! 8 bits (LLM.int8): `weight` int8 `[out, in]` and `SCB` float32 `[out]`; `w = q · SCB / 127`.
//! Outliers, which LLM.int8 computes in 16 bits, are computed like all other values.
//!
//! Source: bitsandbytes, `functional.py` (`QuantState.as_dict`).

use serde::Deserialize;

use super::scales::{Absmax, Groups, Nested, Scales, Zeros};
use super::weight::{Codes, Selection, StoredWeight, Values};
use super::{StoredError, check, misshapen, needed};
use crate::json::JsonObject;
use crate::weights::{Dtype, TensorHandle, TensorStore, WeightsError};

/// The two 4-bit types: their names, and the ends of the quant states' names.
const TYPES: [(&str, &str); 2] = [
    ("nf4", ".quant_state.bitsandbytes__nf4"),
    ("fp4", ".quant_state.bitsandbytes__fp4"),
];

/// How a weight of 4 bits was quantized.
#[derive(Deserialize)]
struct QuantState {
    blocksize: usize,
    dtype: String,
    shape: Vec<usize>,
    #[serde(default)]
    nested_blocksize: Option<usize>,
    #[serde(default)]
    nested_offset: Option<f32>,
}

/// Finds the weights.
///
/// # Errors
/// If tensors don't fit.
pub(super) fn find(
    _config: &JsonObject,
    store: &TensorStore,
) -> Result<Vec<StoredWeight>, StoredError> {
    let mut found = Vec::new();
    for name in store.names() {
        for (kind, end) in TYPES {
            if let Some(weight) = name.strip_suffix(end) {
                found.push(of_four_bits(store, weight, kind, name)?);
            }
        }
        if let Some(module) = name.strip_suffix(".SCB") {
            found.push(of_eight_bits(store, module)?);
        }
    }
    Ok(found)
}

fn of_four_bits(
    store: &TensorStore,
    weight: &str,
    kind: &'static str,
    state: &str,
) -> Result<StoredWeight, WeightsError> {
    let part = |name: &str| needed(store, &format!("{weight}.{name}"));
    let (codes, absmax, map) = (needed(store, weight)?, part("absmax")?, part("quant_map")?);
    let state_tensor = needed(store, state)?;
    let bad = |message: &str| misshapen(&state_tensor, message);
    let state: QuantState = serde_json::from_slice(state_tensor.view().bytes)
        .map_err(|error| bad(&format!("isn't a quant state of bitsandbytes: {error}")))?;
    let rounded: Dtype = state
        .dtype
        .parse()
        .map_err(|error| bad(&format!("has a dtype that isn't supported: {error}")))?;
    let [rows, columns] = state.shape[..] else {
        return Err(bad("has the shape of something else than a matrix"));
    };
    if state.blocksize == 0 || !state.blocksize.is_multiple_of(2) {
        return Err(bad("has an odd block size"));
    }
    let elements = rows.checked_mul(columns).unwrap_or(0);
    if codes.view().bytes.len() != elements.div_ceil(2) || elements == 0 {
        let message = format!("doesn't fit its quant state, which says {:?}", state.shape);
        return Err(misshapen(&codes, &message));
    }
    check(&map, safetensors::Dtype::F32, &[16])?;
    let blocks = elements.div_ceil(state.blocksize);
    let nested = nested(&state, &absmax, blocks, &part)?;
    Ok(StoredWeight {
        name: weight.to_owned(),
        shape: vec![rows, columns],
        codes: Codes::Nibbles {
            tensor: codes,
            high_first: true,
            rows: Selection::ALL,
        },
        values: Values::Table {
            name: kind,
            values: map.view().to_f32()?,
        },
        scales: Scales::Flat(Absmax {
            tensor: absmax,
            block: state.blocksize,
            nested,
        }),
        groups: Groups::Size(state.blocksize),
        rounded,
    })
}

/// What the codes of quantized scales stand for; `None` if scales are floats.
fn nested(
    state: &QuantState,
    absmax: &TensorHandle,
    blocks: usize,
    part: &dyn Fn(&str) -> Result<TensorHandle, WeightsError>,
) -> Result<Option<Nested>, WeightsError> {
    let Some(block) = state.nested_blocksize else {
        check(absmax, safetensors::Dtype::F32, &[blocks])?;
        return Ok(None);
    };
    check(absmax, safetensors::Dtype::U8, &[blocks])?;
    let (map, own) = (part("nested_quant_map")?, part("nested_absmax")?);
    check(&map, safetensors::Dtype::F32, &[256])?;
    let count = blocks.checked_div(block).map(|_| blocks.div_ceil(block));
    check(&own, safetensors::Dtype::F32, &[count.unwrap_or(0)])?;
    Ok(Some(Nested {
        map: map.view().to_f32()?,
        absmax: own.view().to_f32()?,
        block,
        offset: state.nested_offset.unwrap_or(0.0),
    }))
}

fn of_eight_bits(store: &TensorStore, module: &str) -> Result<StoredWeight, WeightsError> {
    let name = format!("{module}.weight");
    let (codes, scales) = (
        needed(store, &name)?,
        needed(store, &format!("{module}.SCB"))?,
    );
    let [rows, columns] = super::gptq::matrix(&codes)?;
    check(&codes, safetensors::Dtype::I8, &[rows, columns])?;
    if let Some(format) = store.handle(&format!("{module}.weight_format"))
        && format.view().bytes.iter().any(|&byte| byte != 0)
    {
        let message = "says that the weight is laid out for one kind of GPU, expected 0 (by rows)";
        return Err(misshapen(&format, message));
    }
    check(&scales, safetensors::Dtype::F32, &[rows])?;
    Ok(StoredWeight {
        name,
        shape: vec![rows, columns],
        codes: Codes::Signed(codes),
        values: Values::Integers {
            bits: 8,
            zeros: Zeros::Middle,
        },
        scales: Scales::ByRow {
            tensor: scales,
            factor: 1.0 / 127.0,
        },
        groups: Groups::Size(columns),
        rounded: Dtype::Float32,
    })
}
