//! ONNX Runtime's operators for products with quantized weights.

/// An operator that multiplies with a quantized weight. Its inputs are the other factor, the codes and the scales; its
/// attributes `K`, `N`, `block_size` and those that the format adds.
#[derive(Debug)]
pub struct Operator {
    /// Its name, in the domain `com.microsoft`.
    pub name: &'static str,
    /// Whether its arithmetic on a CPU can be chosen, by the attribute `accuracy_level`. If it can't, it computes in
    /// float32.
    pub has_accuracy_level: bool,
    /// Whether ONNX Runtime must pack the codes when it opens a session.
    pub packs_codes: bool,
}

/// Evenly spaced values.
pub const MAT_MUL_N_BITS: Operator = Operator {
    name: "MatMulNBits",
    has_accuracy_level: true,
    packs_codes: true,
};

/// The 4-bit types of bitsandbytes.
pub const MAT_MUL_BNB4: Operator = Operator {
    name: "MatMulBnb4",
    has_accuracy_level: false,
    packs_codes: false,
};
