//! compressed-tensors (`quant_method: compressed-tensors`), as llm-compressor writes it.
//!
//! | tensor | type, shape |
//! |--------|-------------|
//! | `weight_packed` | int32 `[out, ⌈in · bits / 32⌉]`: integers packed along the inputs, as `value + 2^(bits − 1)` |
//! | `weight` | int8 or float8 `[out, in]` |
//! | `weight_scale` | float `[out, groups]`, `[out, 1]`, `[1]`, or one a tile `[⌈out / rows⌉, ⌈in / columns⌉]` |
//! | `weight_zero_point` | integers' zero points, if asymmetric; packed along the outputs where the weight is packed |
//! | `weight_g_idx` | int32 `[in]`, with `actorder: group` |
//! | `weight_shape` | int64 `[2]`, where the weight is packed |
//!
//! `w = (q − zero) · scale`. Bits, groups and tiles are found from the shapes, since the groups of
//! the configuration may differ.
//!
//! Source: compressed-tensors, `compressors/`.

use serde_json::Value;

use super::fp8::{float8, tiles};
use super::gptq::{groups_of, matrix};
use super::mxfp4;
use super::scales::{Groups, Scales, Zeros};
use super::weight::{Codes, StoredWeight, Values};
use super::{StoredError, WAY_OUT, check, misshapen, needed};
use crate::json::JsonObject;
use crate::weights::{Dtype, TensorHandle, TensorStore, WeightsError};

/// The formats that are read.
const FORMATS: [&str; 6] = [
    "pack-quantized",
    "int-quantized",
    "float-quantized",
    "naive-quantized",
    "mxfp4-pack-quantized",
    "dense",
];

/// What the configuration says of groups.
#[derive(Default)]
struct Said {
    /// Sizes of groups.
    group_sizes: Vec<usize>,
    /// Sizes of tiles: rows and columns.
    tiles: Vec<[usize; 2]>,
}

/// Finds the weights.
///
/// # Errors
/// If the format isn't supported, or tensors don't fit.
pub(super) fn find(
    config: &JsonObject,
    store: &TensorStore,
) -> Result<Vec<StoredWeight>, StoredError> {
    let said = read(config)?;
    let mut found = Vec::new();
    for name in store.names() {
        if let Some(module) = name.strip_suffix(".weight_packed") {
            let is_packed_floats = needed(store, name)?.view().stored == safetensors::Dtype::U8;
            found.push(match is_packed_floats {
                true => mxfp4::linear(store, module)?,
                false => packed(store, module, &said)?,
            });
        } else if let Some(module) = name.strip_suffix(".weight_scale")
            && store.handle(&format!("{module}.weight")).is_some()
        {
            found.push(plain(store, module, &said)?);
        }
    }
    Ok(found)
}

/// Reads the configuration, and refuses other formats.
fn read(config: &JsonObject) -> Result<Said, StoredError> {
    let refuse = |key: &str, format: &str| {
        let known = FORMATS.map(|format| format!("`{format}`"));
        let reason = format!(
            "it's `{format}`; supported are {}. {WAY_OUT}",
            known.join(", ")
        );
        StoredError::from(config.refused(key, &reason))
    };
    let mut said = Said::default();
    let groups = config.optional_object("config_groups")?;
    let groups = groups.as_ref().and_then(|groups| groups.json().as_object());
    for group in groups.into_iter().flat_map(|groups| groups.values()) {
        if let Some(format) = group.get("format").and_then(Value::as_str)
            && !FORMATS.contains(&format)
        {
            return Err(refuse("config_groups", format));
        }
        let weights = &group["weights"];
        let number = |value: &Value| value.as_u64().map(|number| number as usize);
        said.group_sizes.extend(number(&weights["group_size"]));
        if let [rows, columns] = weights["block_structure"]
            .as_array()
            .map_or(&[][..], Vec::as_slice)
            && let (Some(rows), Some(columns)) = (number(rows), number(columns))
        {
            said.tiles.push([rows, columns]);
        }
    }
    // `mixed-precision` means that each group has its own.
    if let Some(format) = config.optional_text("format")?
        && format != "mixed-precision"
        && !FORMATS.contains(&format)
    {
        return Err(refuse("format", format));
    }
    if let Some(sparsity) = config.optional_object("sparsity_config")?
        && let Some(format) = sparsity.optional_text("format")?
        && format != "dense"
    {
        return Err(sparsity
            .refused(
                "format",
                &format!("it's `{format}`; supported is `dense`. {WAY_OUT}"),
            )
            .into());
    }
    Ok(said)
}

/// A weight whose codes are packed.
fn packed(store: &TensorStore, module: &str, said: &Said) -> Result<StoredWeight, WeightsError> {
    let tensor = |part: &str| needed(store, &format!("{module}.{part}"));
    let [codes, scales, shape] = [
        tensor("weight_packed")?,
        tensor("weight_scale")?,
        tensor("weight_shape")?,
    ];
    let sizes = shape.view().to_i64()?;
    let size = |value: &i64| usize::try_from(*value).ok().filter(|size| *size > 0);
    let [Some(rows), Some(columns)] = [sizes.first(), sizes.get(1)].map(|at| at.and_then(size))
    else {
        return Err(misshapen(&shape, "isn't the shape of a matrix"));
    };
    let [_, words] = matrix(&codes)?;
    // Several numbers of bits may fill as many words if there are few columns; the widest is a
    // power of two more often.
    let fitting = [8, 4, 2, 3].into_iter();
    let bits = fitting
        .filter(|bits| (columns * bits).div_ceil(32) == words)
        .max_by_key(|bits| usize::from(columns * bits == 32 * words));
    let Some(bits) = bits else {
        let message = format!(
            "doesn't fit {columns} inputs, expected integers of 2, 3, 4 or 8 bits. {WAY_OUT}"
        );
        return Err(misshapen(&codes, &message));
    };
    check(&codes, safetensors::Dtype::I32, &[rows, words])?;
    let (groups, scales) = groups_and_scales(store, module, [rows, columns], scales, said)?;
    let count = match &groups {
        Groups::Size(size) => columns.div_ceil(*size),
        Groups::Listed(groups) => groups.iter().max().map_or(1, |last| *last as usize + 1),
    };
    let zeros = match store.handle(&format!("{module}.weight_zero_point")) {
        None => Zeros::Middle,
        Some(zeros) if zeros.view().stored == safetensors::Dtype::I32 => {
            check(
                &zeros,
                safetensors::Dtype::I32,
                &[(rows * bits).div_ceil(32), count],
            )?;
            Zeros::ByRow(zeros)
        }
        Some(zeros) => signed(zeros, rows, count)?,
    };
    Ok(StoredWeight {
        name: format!("{module}.weight"),
        shape: vec![rows, columns],
        codes: Codes::ByRow {
            tensor: codes,
            bits,
        },
        values: Values::Integers { bits, zeros },
        scales,
        groups,
        rounded: Dtype::Float32,
    })
}

/// A weight with a byte for each value.
fn plain(store: &TensorStore, module: &str, said: &Said) -> Result<StoredWeight, WeightsError> {
    let name = format!("{module}.weight");
    let codes = needed(store, &name)?;
    let [rows, columns] = matrix(&codes)?;
    let scales = needed(store, &format!("{module}.weight_scale"))?;
    let (groups, scales) = groups_and_scales(store, module, [rows, columns], scales, said)?;
    let (values, codes) = match codes.view().stored {
        safetensors::Dtype::I8 => {
            let zeros = match store.handle(&format!("{module}.weight_zero_point")) {
                Some(zeros) => {
                    let count = match &groups {
                        Groups::Size(size) => columns.div_ceil(*size),
                        Groups::Listed(_) => 0,
                    };
                    signed(zeros, rows, count)?
                }
                None => Zeros::Middle,
            };
            (Values::Integers { bits: 8, zeros }, Codes::Signed(codes))
        }
        _ => (float8(&codes)?, Codes::Bytes(codes)),
    };
    Ok(StoredWeight {
        name,
        shape: vec![rows, columns],
        codes,
        values,
        scales,
        groups,
        rounded: Dtype::Float32,
    })
}

fn signed(zeros: TensorHandle, rows: usize, groups: usize) -> Result<Zeros, WeightsError> {
    let view = zeros.view();
    let fits = view.stored == safetensors::Dtype::I8
        && (view.elements() == 1 || view.elements() == rows * groups);
    match fits {
        true => Ok(Zeros::Signed(zeros)),
        false => Err(misshapen(
            &zeros,
            &format!("doesn't fit, expected int8 [{rows}, {groups}]"),
        )),
    }
}

/// The groups of a matrix's columns, and their scales.
fn groups_and_scales(
    store: &TensorStore,
    module: &str,
    [rows, columns]: [usize; 2],
    scales: TensorHandle,
    said: &Said,
) -> Result<(Groups, Scales), WeightsError> {
    let view = scales.view();
    view.dtype()?;
    let [lines, count] = match view.shape[..] {
        [] | [1] | [1, 1] => [1, 1],
        [lines] => [lines, 1],
        [lines, count] => [lines, count],
        _ => return Err(misshapen(&scales, "isn't a matrix")),
    };
    let by_row = |tensor| Scales::ByRow {
        tensor,
        factor: 1.0,
    };
    if lines == 1 && count == 1 {
        return Ok((Groups::Size(columns), by_row(scales)));
    }
    if lines == rows {
        if let Some(index) = store.handle(&format!("{module}.weight_g_idx")) {
            let listed = index.view().to_i64()?;
            // −1 everywhere: it isn't used.
            if listed.iter().any(|&group| group >= 0) {
                check(&index, safetensors::Dtype::I32, &[columns])?;
                let group = |&g: &i64| u32::try_from(g).ok().filter(|&g| (g as usize) < count);
                let listed: Option<Vec<u32>> = listed.iter().map(group).collect();
                let message = format!("names a group outside of the {count} that there are");
                let listed = listed.ok_or_else(|| misshapen(&index, &message))?;
                return Ok((Groups::Listed(listed), by_row(scales)));
            }
        }
        let mut sizes = said.group_sizes.iter().copied();
        let fitting = sizes.find(|size| columns.div_ceil(*size) == count);
        if let Some(groups) = groups_of(columns, count, fitting) {
            return Ok((groups, by_row(scales)));
        }
    }
    let tile = tiles(&scales, [rows, columns], [lines, count], &said.tiles)?;
    Ok((
        Groups::Size(tile[1]),
        Scales::Tiles {
            tensor: scales,
            rows: tile[0],
            matrix: rows,
        },
    ))
}
