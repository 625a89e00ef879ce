//! MXFP4 (`quant_method: mxfp4`), as gpt-oss has its experts: blocks of 32 values in e2m1 with a
//! power of two as their scale.
//!
//! | tensor | type, shape |
//! |--------|-------------|
//! | `experts.gate_up_proj_blocks` | uint8 `[experts, 2 · intermediate, hidden / 32, 16]`, gate and up rows in turn |
//! | `experts.down_proj_blocks` | uint8 `[experts, hidden, intermediate / 32, 16]` |
//! | `…_scales` | uint8 `[experts, rows, blocks]`, e8m0 |
//!
//! Of two codes in a byte, the first is in the lower half. Rows are outputs, whereas the floats of
//! such a checkpoint are stored the other way round. compressed-tensors has the same as
//! `weight_packed` `[out, in / 2]` and `weight_scale` `[out, in / 32]`.
//!
//! Source: Hugging Face Transformers, `integrations/mxfp4.py`.

use super::scales::{Groups, Scales};
use super::tables::E2M1;
use super::weight::{Codes, Selection, StoredWeight, Values};
use super::{StoredError, check, misshapen, needed};
use crate::json::JsonObject;
use crate::weights::{Dtype, TensorHandle, TensorStore, WeightsError};

/// Values that share a scale.
const BLOCK: usize = 32;

/// A projection of an expert.
struct Part {
    /// Its name.
    name: &'static str,
    /// Its rows in the expert's.
    rows: Selection,
}

/// The projections of each stacked tensor. Families have gate and up together or apart.
const STACKS: [(&str, &[Part]); 2] = [
    (
        "gate_up_proj",
        &[
            Part::new("gate_up_proj", 0, 1),
            Part::new("gate_proj", 0, 2),
            Part::new("up_proj", 1, 2),
        ],
    ),
    ("down_proj", &[Part::new("down_proj", 0, 1)]),
];

impl Part {
    const fn new(name: &'static str, first: usize, step: usize) -> Self {
        Self {
            name,
            rows: Selection { first, step },
        }
    }
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
        let Some(stack) = name.strip_suffix("_blocks") else {
            continue;
        };
        let scales = needed(store, &format!("{stack}_scales"))?;
        let codes = needed(store, name)?;
        let known = STACKS
            .iter()
            .find_map(|(own, parts)| Some((stack.strip_suffix(own)?, parts)));
        let Some((experts, parts)) = known else {
            return Err(misshapen(&codes, "is of no projection of experts").into());
        };
        let [count, rows, blocks, 16] = codes.view().shape[..] else {
            return Err(
                misshapen(&codes, "doesn't fit, expected [experts, rows, blocks, 16]").into(),
            );
        };
        check(&codes, safetensors::Dtype::U8, &[count, rows, blocks, 16])?;
        check(&scales, safetensors::Dtype::U8, &[count, rows, blocks])?;
        if parts.iter().any(|part| rows % part.rows.step != 0) {
            return Err(misshapen(&codes, "has an odd number of rows").into());
        }
        for expert in 0..count {
            for part in *parts {
                let selected = Selection {
                    first: expert * rows + part.rows.first,
                    step: part.rows.step,
                };
                let shape = [rows / part.rows.step, blocks * BLOCK];
                let name = format!("{experts}{expert}.{}.weight", part.name);
                found.push(weight(name, codes.clone(), scales.clone(), selected, shape));
            }
        }
    }
    Ok(found)
}

/// A linear layer's weight, as compressed-tensors stores it.
///
/// # Errors
/// If tensors don't fit.
pub(super) fn linear(store: &TensorStore, module: &str) -> Result<StoredWeight, WeightsError> {
    let codes = needed(store, &format!("{module}.weight_packed"))?;
    let scales = needed(store, &format!("{module}.weight_scale"))?;
    let [rows, bytes] = super::gptq::matrix(&codes)?;
    let message = "doesn't fit, expected two codes of e2m1 a byte in blocks of 32";
    if !(2 * bytes).is_multiple_of(BLOCK) {
        return Err(misshapen(&codes, message));
    }
    check(&scales, safetensors::Dtype::U8, &[rows, 2 * bytes / BLOCK])?;
    let name = format!("{module}.weight");
    Ok(weight(
        name,
        codes,
        scales,
        Selection::ALL,
        [rows, 2 * bytes],
    ))
}

fn weight(
    name: String,
    codes: TensorHandle,
    scales: TensorHandle,
    rows: Selection,
    shape: [usize; 2],
) -> StoredWeight {
    StoredWeight {
        name,
        shape: shape.to_vec(),
        codes: Codes::Nibbles {
            tensor: codes,
            high_first: false,
            rows,
        },
        values: Values::Table {
            name: "mxfp4",
            values: E2M1.to_vec(),
        },
        scales: Scales::ByRow {
            tensor: scales,
            factor: 1.0,
        },
        groups: Groups::Size(BLOCK),
        rounded: Dtype::Float32,
    }
}
