//! bitsandbytes' types of 4 bits: codes whose values aren't evenly spaced.

/// The 16 values of a 4-bit type of bitsandbytes, before scaling.
#[derive(Debug, PartialEq)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// The values of the codes.
    pub values: [f32; 16],
    /// The attribute `quant_type` of `MatMulBnb4`.
    pub quant_type: i64,
}

/// Quantiles of a normal distribution, scaled to −1 … 1.
pub static NF4: Table = Table {
    name: "nf4",
    values: [
        -1.0,
        -0.696_192_8,
        -0.525_073_05,
        -0.394_917_5,
        -0.284_441_38,
        -0.184_773_43,
        -0.091_050_036,
        0.0,
        0.079_580_3,
        0.160_930_2,
        0.246_112_3,
        0.337_915_24,
        0.440_709_83,
        0.562_617,
        0.722_956_84,
        1.0,
    ],
    quant_type: 1,
};

/// bitsandbytes' own float of 4 bits, which isn't e2m1.
pub static FP4: Table = Table {
    name: "fp4",
    values: [
        0.0,
        0.005_208_333_3,
        0.666_666_7,
        1.0,
        0.333_333_34,
        0.5,
        0.166_666_67,
        0.25,
        -0.0,
        -0.005_208_333_3,
        -0.666_666_7,
        -1.0,
        -0.333_333_34,
        -0.5,
        -0.166_666_67,
        -0.25,
    ],
    quant_type: 0,
};
