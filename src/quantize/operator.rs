//! ONNX Runtime's operators for products with quantized weights.

/// An operator for products with quantized weights. Its inputs are the other factor, the codes and
/// the scales; its attributes are `K`, `N`, `block_size` and those of the format.
#[derive(Debug)]
pub struct Operator {
    /// Its name, in the domain `com.microsoft`.
    pub name: &'static str,
    /// Whether it has the attribute `accuracy_level`, which sets the arithmetic on a CPU. Without
    /// it, the operator computes in float32.
    pub has_accuracy_level: bool,
    /// Whether ONNX Runtime must pack the codes when it opens a session.
    pub packs_codes: bool,
}

impl Operator {
    /// All of them.
    pub const ALL: [&'static Self; 2] = [&MAT_MUL_N_BITS, &MAT_MUL_BNB4];
}

/// For evenly spaced values.
pub const MAT_MUL_N_BITS: Operator = Operator {
    name: "MatMulNBits",
    has_accuracy_level: true,
    packs_codes: true,
};

/// For the 4-bit types of bitsandbytes.
pub const MAT_MUL_BNB4: Operator = Operator {
    name: "MatMulBnb4",
    has_accuracy_level: false,
    packs_codes: false,
};
