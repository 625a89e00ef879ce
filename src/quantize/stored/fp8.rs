//! Float8 with a scale for each tile (`quant_method: fp8`), as DeepSeek-V3, Qwen's `-FP8` and
//! Ministral 3 have it.
//!
//! | tensor | type, shape |
//! |--------|-------------|
//! | `weight` | float8 `[out, in]`; of stacked experts `[experts, out, in]` |
//! | `weight_scale_inv` | float32 or e8m0 `[⌈out / rows⌉, ⌈in / columns⌉]`, or one for all |
//!
//! `w = weight · weight_scale_inv`, in spite of the name. Stacked tensors (`experts.gate_up_proj`)
//! have no `.weight` at the end.
//!
//! Source: Hugging Face Transformers, `integrations/finegrained_fp8.py`.

use super::gptq::matrix;
use super::scales::{Groups, Scales};
use super::tables::{E4M3, E5M2};
use super::weight::{Codes, StoredWeight, Values};
use super::{StoredError, WAY_OUT, misshapen, needed};
use crate::json::JsonObject;
use crate::weights::{Dtype, TensorHandle, TensorStore, WeightsError};

const END: &str = "_scale_inv";

/// Finds the weights.
///
/// # Errors
/// If experts have another type, or tensors don't fit.
pub(super) fn find(
    config: &JsonObject,
    store: &TensorStore,
) -> Result<Vec<StoredWeight>, StoredError> {
    const EXPERTS: &str = "expert_dtype";
    if let Some(dtype) = config.optional_text(EXPERTS)?
        && dtype != "fp8"
    {
        let reason = format!("it's `{dtype}`; supported is `fp8`. {WAY_OUT}");
        return Err(config.refused(EXPERTS, &reason).into());
    }
    const TILE: &str = "weight_block_size";
    let said: Vec<[usize; 2]> = match config.get(TILE) {
        None => Vec::new(),
        Some(value) => vec![
            serde_json::from_value(value.clone())
                .map_err(|_| config.wrong(TILE, "two positive integers"))?,
        ],
    };
    let mut found = Vec::new();
    for name in store.names() {
        let Some(weight) = name.strip_suffix(END) else {
            continue;
        };
        if store.handle(weight).is_some() {
            found.push(read(store, weight, name, &said)?);
        }
    }
    Ok(found)
}

fn read(
    store: &TensorStore,
    name: &str,
    scales: &str,
    said: &[[usize; 2]],
) -> Result<StoredWeight, WeightsError> {
    let (codes, scales) = (needed(store, name)?, needed(store, scales)?);
    let values = float8(&codes)?;
    let shape = codes.view().shape;
    let [.., rows, columns] = shape[..] else {
        return Err(misshapen(&codes, "isn't a matrix"));
    };
    if shape.len() > 3 {
        return Err(misshapen(&codes, "isn't a matrix or a stack of matrices"));
    }
    let view = scales.view();
    let is_exponent = [safetensors::Dtype::F8_E8M0, safetensors::Dtype::U8].contains(&view.stored);
    if !is_exponent {
        view.dtype()?;
    }
    let (groups, scales) = if view.elements() == 1 {
        let scales = Scales::ByRow {
            tensor: scales,
            factor: 1.0,
        };
        (Groups::Size(columns), scales)
    } else {
        let grid = match shape.len() {
            2 => matrix(&scales)?,
            _ => match view.shape[..] {
                [experts, lines, count] if experts == shape[0] => [lines, count],
                _ => {
                    return Err(misshapen(
                        &scales,
                        "has no tiles of its own for each expert",
                    ));
                }
            },
        };
        let [tile_rows, tile_columns] = tiles(&scales, [rows, columns], grid, said)?;
        let scales = Scales::Tiles {
            tensor: scales,
            rows: tile_rows,
            matrix: rows,
        };
        (Groups::Size(tile_columns), scales)
    };
    Ok(StoredWeight {
        name: name.to_owned(),
        shape,
        codes: Codes::Bytes(codes),
        values,
        scales,
        groups,
        rounded: Dtype::Float32,
    })
}

/// The values of the codes in `tensor`, floats of 8 bits.
///
/// # Errors
/// If they're something else.
pub(super) fn float8(tensor: &TensorHandle) -> Result<Values, WeightsError> {
    match tensor.view().stored {
        safetensors::Dtype::F8_E4M3 => Ok(Values::Float8 {
            name: "float8 (e4m3)",
            values: &E4M3,
        }),
        safetensors::Dtype::F8_E5M2 => Ok(Values::Float8 {
            name: "float8 (e5m2)",
            values: &E5M2,
        }),
        _ => Err(misshapen(
            tensor,
            &format!("isn't supported as a quantized weight, expected F8_E4M3. {WAY_OUT}"),
        )),
    }
}

/// Rows and columns of a tile of a matrix whose scales are a `grid`: those that the configuration
/// says, if they fit.
///
/// # Errors
/// If the grid doesn't divide the matrix.
pub(super) fn tiles(
    scales: &TensorHandle,
    size: [usize; 2],
    grid: [usize; 2],
    said: &[[usize; 2]],
) -> Result<[usize; 2], WeightsError> {
    let fits = |tile: &[usize; 2]| {
        (0..2).all(|axis| tile[axis] > 0 && size[axis].div_ceil(tile[axis]) == grid[axis])
    };
    if let Some(tile) = said.iter().find(|tile| fits(tile)) {
        return Ok(*tile);
    }
    let even = [0, 1].map(|axis| size[axis].checked_div(grid[axis]).unwrap_or(0));
    let divides = (0..2).all(|axis| even[axis] * grid[axis] == size[axis]);
    match divides && fits(&even) {
        true => Ok(even),
        false => Err(misshapen(
            scales,
            &format!("doesn't divide a weight of {size:?} into tiles"),
        )),
    }
}
