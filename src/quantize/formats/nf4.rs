//! `nf4`: blocks of 64 values, rounded to the 16 quantiles of a normal distribution, as in
//! bitsandbytes.
//!
//! A block's scale is the largest magnitude in it. Blocks run through all rows.
//!
//! Sources: Dettmers et al., arXiv:2305.14314; bitsandbytes, `csrc/kernels.cu`; onnxruntime,
//! `contrib_ops/cpu/quantization/blockwise_quant_block_bnb4.h`.

use super::{FormatSpec, Keys, Quantized, Sensitive, Switch, Tolerance};
use crate::quantize::encoding::Encoding;
use crate::quantize::table::NF4;

const BLOCK: usize = 64;

/// The entry of [`Format`](super::Format).
pub(super) const FORMAT: FormatSpec = FormatSpec {
    name: "nf4",
    about: "Blocks of 64 values in bitsandbytes' NF4",
    keys: Keys {
        switch: Some(Switch::Use4Bit),
        scheme: "nf4",
    },
    encoding: Encoding::Table {
        table: &NF4,
        block_size: BLOCK,
    },
    quantize: |values, _, _| nf4(values),
    has_zeros: false,
    // As in bitsandbytes.
    sensitive: Sensitive::FloatHead,
    // ONNX Runtime has no operator that looks up rows of such codes.
    has_row_lookup: false,
    tolerance: Tolerance {
        dense: 7.5e-1,
        routed: 1.0,
    },
};

/// A value above `i` of these thresholds is rounded to value `i` of [`NF4`]. They are bitsandbytes': the
/// midpoints, except for the twelfth, which is a millionth higher.
const THRESHOLDS: [f32; 15] = [
    -0.848_096_43,
    -0.610_632_9,
    -0.459_995_27,
    -0.339_679_42,
    -0.234_607_4,
    -0.137_911_74,
    -0.045_525_018,
    0.039_790_15,
    0.120_255_254,
    0.203_521_25,
    0.292_013_76,
    0.389_312_54,
    0.501_663_4,
    0.642_786_9,
    0.861_478_4,
];

fn nf4(values: &[f32]) -> Quantized {
    let mut codes = Vec::with_capacity(values.len().div_ceil(2));
    let mut scales = Vec::with_capacity(values.len().div_ceil(BLOCK));
    for block in values.chunks(BLOCK) {
        let scale = block
            .iter()
            .fold(0.0_f32, |most, value| most.max(value.abs()));
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        let code = |value: f32| {
            let value = value * inverse;
            let above = THRESHOLDS.iter().filter(|&&threshold| value > threshold);
            above.count() as u8
        };
        for pair in block.chunks(2) {
            let second = pair.get(1).map_or(0, |&value| code(value));
            codes.push((code(pair[0]) << 4) | second);
        }
        scales.push(scale);
    }
    Quantized {
        codes,
        scales,
        zeros: Vec::new(),
    }
}
