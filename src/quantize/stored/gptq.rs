//! GPTQ (`quant_method: gptq`), as AutoGPTQ and GPTQModel write it.
//!
//! | tensor    | type, shape                                  |
//! |-----------|----------------------------------------------|
//! | `qweight` | int32 `[in · bits / 32, out]`, packed along the inputs |
//! | `qzeros`  | int32 `[groups, out · bits / 32]`, packed along the outputs |
//! | `scales`  | float `[groups, out]`                        |
//! | `g_idx`   | int32 `[in]`: each input's group; may be absent |
//!
//! `w = (q − zero) · scale`. The first version of the format (`checkpoint_format: gptq`) stores
//! `zero − 1`. Bits and groups may differ between modules (`dynamic`), so they're found from the
//! tensors' shapes.
//!
//! Source: GPTQModel, `nn_modules/qlinear`.

use super::scales::{Groups, Scales, Zeros};
use super::weight::{Codes, StoredWeight, Values};
use super::{StoredError, WAY_OUT, check, misshapen, needed};
use crate::json::JsonObject;
use crate::weights::{Dtype, TensorStore, WeightsError};

/// Bits that codes may have.
const BITS: [usize; 4] = [4, 8, 3, 2];

/// What the configuration says of most modules.
#[derive(Clone, Copy)]
struct Said {
    bits: Option<usize>,
    group_size: Option<usize>,
}

/// Finds the weights.
///
/// # Errors
/// If the format isn't one of the two, or tensors don't fit.
pub(super) fn find(
    config: &JsonObject,
    store: &TensorStore,
) -> Result<Vec<StoredWeight>, StoredError> {
    const FORMAT: &str = "checkpoint_format";
    let format = config.optional_text(FORMAT)?.unwrap_or("gptq");
    let added = match format {
        "gptq" => 1,
        "gptq_v2" => 0,
        other => {
            let reason = format!("it's `{other}`; supported are `gptq` and `gptq_v2`. {WAY_OUT}");
            return Err(config.refused(FORMAT, &reason).into());
        }
    };
    if config.flag("is_marlin_format", false)? {
        let reason = format!("codes are packed for one GPU kernel. {WAY_OUT}");
        return Err(config.refused("is_marlin_format", &reason).into());
    }
    let bits = config.optional_size("bits")?;
    let said = Said {
        bits: bits.filter(|bits| BITS.contains(bits)),
        group_size: group_size(config)?,
    };
    let names = store
        .names()
        .filter_map(|name| name.strip_suffix(".qweight"));
    names
        .map(|module| Ok(weight(store, module, added, said)?))
        .collect()
}

/// `group_size`; `None` for one group a row.
///
/// # Errors
/// If it isn't a number.
pub(super) fn group_size(config: &JsonObject) -> Result<Option<usize>, StoredError> {
    let found = config.optional_number("group_size")?.unwrap_or(-1.0);
    Ok((found > 0.0).then_some(found as usize))
}

/// Groups of `columns`, of which there are `count`: of the size that the configuration says, if it
/// fits.
pub(super) fn groups_of(columns: usize, count: usize, said: Option<usize>) -> Option<Groups> {
    let fits = |size: &usize| *size > 0 && columns.div_ceil(*size) == count;
    let even = columns.checked_div(count);
    let size = said.filter(fits).or(even.filter(fits))?;
    Some(Groups::Size(size))
}

fn weight(
    store: &TensorStore,
    module: &str,
    added: u8,
    said: Said,
) -> Result<StoredWeight, WeightsError> {
    let tensor = |part: &str| needed(store, &format!("{module}.{part}"));
    let [codes, zeros, scales] = [tensor("qweight")?, tensor("qzeros")?, tensor("scales")?];
    scales.view().dtype()?;
    let ([words, rows], [count, _]) = (matrix(&codes)?, matrix(&scales)?);
    let [_, zero_words] = matrix(&zeros)?;
    let index = store.handle(&format!("{module}.g_idx"));
    let inputs = index.as_ref().map(|index| index.view().elements());
    let columns_of = |bits: usize| inputs.unwrap_or(words * 32 / bits);
    let fits = |bits: &usize| {
        rows.checked_mul(*bits).map(|all| all.div_ceil(32)) == Some(zero_words)
            && (columns_of(*bits) * bits).div_ceil(32) == words
    };
    let Some(bits) = said.bits.into_iter().chain(BITS).find(fits) else {
        let message = format!(
            "doesn't fit {rows} outputs, expected codes of 2, 3, 4 or 8 bits for them. {WAY_OUT}"
        );
        return Err(misshapen(&zeros, &message));
    };
    let columns = columns_of(bits);
    check(&codes, safetensors::Dtype::I32, &[words, rows])?;
    check(&zeros, safetensors::Dtype::I32, &[count, zero_words])?;
    if scales.view().shape != [count, rows] {
        return Err(misshapen(&scales, &format!("doesn't fit {rows} outputs")));
    }
    let plain = groups_of(columns, count, said.group_size);
    let listed = match index {
        Some(index) => {
            check(&index, safetensors::Dtype::I32, &[columns])?;
            let listed = index.view().to_i64()?;
            let group =
                |&number: &i64| u32::try_from(number).ok().filter(|&n| (n as usize) < count);
            let listed: Option<Vec<u32>> = listed.iter().map(group).collect();
            let message = format!("names a group outside of the {count} that there are");
            Some(listed.ok_or_else(|| misshapen(&index, &message))?)
        }
        None => None,
    };
    let is_plain = |listed: &[u32], groups: &Groups| {
        let mut places = listed.iter().enumerate();
        places.all(|(column, &group)| groups.of(column) == group as usize)
    };
    let groups = match (listed, plain) {
        (Some(listed), Some(plain)) if is_plain(&listed, &plain) => plain,
        (Some(listed), _) => Groups::Listed(listed),
        (None, Some(plain)) => plain,
        (None, None) => {
            let message = format!("has {count} groups, which {columns} inputs can't be split into");
            return Err(misshapen(&scales, &message));
        }
    };
    Ok(StoredWeight {
        name: format!("{module}.weight"),
        shape: vec![rows, columns],
        codes: Codes::ByColumn {
            tensor: codes,
            bits,
        },
        values: Values::Integers {
            bits,
            zeros: Zeros::ByGroup {
                tensor: zeros,
                added,
            },
        },
        scales: Scales::ByGroup(scales),
        groups,
        rounded: Dtype::Float32,
    })
}

/// The shape of a matrix.
///
/// # Errors
/// If it isn't one.
pub(super) fn matrix(tensor: &crate::weights::TensorHandle) -> Result<[usize; 2], WeightsError> {
    let shape = <[usize; 2]>::try_from(tensor.view().shape);
    shape.map_err(|_| misshapen(tensor, "isn't a matrix"))
}
