//! AWQ (`quant_method: awq`, version `gemm`), as AutoAWQ writes it: 4 bits.
//!
//! | tensor    | type, shape                     |
//! |-----------|---------------------------------|
//! | `qweight` | int32 `[in, out / 8]`           |
//! | `qzeros`  | int32 `[groups, out / 8]`       |
//! | `scales`  | float `[groups, out]`           |
//!
//! Both are packed along the outputs: the eight outputs of a word are in the order 0, 2, 4, 6, 1,
//! 3, 5, 7, from the lowest bits on. `w = (q − zero) · scale`.
//!
//! Source: AutoAWQ, `utils/packing_utils.py`.

use super::gptq::{group_size, groups_of, matrix};
use super::scales::{Scales, Zeros};
use super::weight::{Codes, StoredWeight, Values};
use super::{StoredError, WAY_OUT, check, misshapen, needed};
use crate::json::JsonObject;
use crate::weights::{Dtype, TensorStore, WeightsError};

/// Finds the weights.
///
/// # Errors
/// If it's another version, or tensors don't fit.
pub(super) fn find(
    config: &JsonObject,
    store: &TensorStore,
) -> Result<Vec<StoredWeight>, StoredError> {
    for key in ["version", "checkpoint_format", "format"] {
        if let Some(version) = config.optional_text(key)?
            && !version.eq_ignore_ascii_case("gemm")
        {
            let reason = format!("it's `{version}`; supported is `gemm`. {WAY_OUT}");
            return Err(config.refused(key, &reason).into());
        }
    }
    for key in ["bits", "w_bit"] {
        if let Some(bits) = config.optional_size(key)?
            && bits != 4
        {
            let reason = format!("it's {bits}; supported is 4. {WAY_OUT}");
            return Err(config.refused(key, &reason).into());
        }
    }
    let group_size = group_size(config)?;
    let names = store
        .names()
        .filter_map(|name| name.strip_suffix(".qweight"));
    names
        .map(|module| Ok(weight(store, module, group_size)?))
        .collect()
}

fn weight(
    store: &TensorStore,
    module: &str,
    group_size: Option<usize>,
) -> Result<StoredWeight, WeightsError> {
    let tensor = |part: &str| needed(store, &format!("{module}.{part}"));
    let [codes, zeros, scales] = [tensor("qweight")?, tensor("qzeros")?, tensor("scales")?];
    scales.view().dtype()?;
    let ([columns, _], [count, rows]) = (matrix(&codes)?, matrix(&scales)?);
    check(
        &codes,
        safetensors::Dtype::I32,
        &[columns, rows.div_ceil(8)],
    )?;
    check(&zeros, safetensors::Dtype::I32, &[count, rows.div_ceil(8)])?;
    let groups = groups_of(columns, count, group_size).ok_or_else(|| {
        let message = format!("has {count} groups, which {columns} inputs can't be split into");
        misshapen(&scales, &message)
    })?;
    Ok(StoredWeight {
        name: format!("{module}.weight"),
        shape: vec![rows, columns],
        codes: Codes::Awq(codes),
        values: Values::Integers {
            bits: 4,
            zeros: Zeros::Awq(zeros),
        },
        scales: Scales::ByGroup(scales),
        groups,
        rounded: Dtype::Float32,
    })
}
