//! Values of small floats.

use std::sync::LazyLock;

/// The values of e2m1, the 4-bit float of MXFP4.
pub const E2M1: [f32; 16] = [
    0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0,
];

/// The values of float8 e4m3 (`e4m3fn`: no infinities, 0x7f and 0xff are NaN).
pub static E4M3: LazyLock<[f32; 256]> = LazyLock::new(|| {
    std::array::from_fn(|code| match code & 0x7f {
        0x7f => f32::NAN,
        _ => small_float(code as u8, 3, 7),
    })
});

/// The values of float8 e5m2.
pub static E5M2: LazyLock<[f32; 256]> = LazyLock::new(|| {
    std::array::from_fn(|code| match code & 0x7f {
        0x7c.. => f32::NAN,
        _ => small_float(code as u8, 2, 15),
    })
});

/// A finite float of 8 bits with this many bits of mantissa.
fn small_float(code: u8, mantissa_bits: i32, bias: i32) -> f32 {
    let sign = if code & 0x80 == 0 { 1.0 } else { -1.0 };
    let mantissa = f32::from(code & ((1 << mantissa_bits) - 1));
    let exponent = i32::from((code & 0x7f) >> mantissa_bits);
    let unit = 2_f32.powi(-mantissa_bits);
    sign * match exponent {
        0 => mantissa * unit * 2_f32.powi(1 - bias),
        _ => (1.0 + mantissa * unit) * 2_f32.powi(exponent - bias),
    }
}

/// The value of an exponent stored as e8m0.
pub fn e8m0(code: u8) -> f32 {
    match code {
        0xff => f32::NAN,
        // 2^−127 has no normal form.
        0 => 2_f32.powi(-126) / 2.0,
        code => f32::from_bits(u32::from(code) << 23),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_of_eight_bits_have_their_values() {
        let e4m3 = |code: u8| E4M3[usize::from(code)];
        assert_eq!([e4m3(0x38), e4m3(0xb8)], [1.0, -1.0]);
        assert_eq!([e4m3(0x7e), e4m3(0x01)], [448.0, 2_f32.powi(-9)]);
        assert!(e4m3(0xff).is_nan());
        let e5m2 = |code: u8| E5M2[usize::from(code)];
        assert_eq!([e5m2(0x3c), e5m2(0x7b)], [1.0, 57344.0]);
        assert_eq!(
            [e8m0(127), e8m0(128), e8m0(0)],
            [1.0, 2.0, 2_f32.powi(-127)]
        );
    }
}
