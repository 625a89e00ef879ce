//! Converts between stored bytes and `f32`. Widening is exact; rounding is done once, to nearest
//! even.

use half::{bf16, f16};
use thiserror::Error;

use super::Dtype;

/// A value that is a NaN or an infinity, or that overflowed when it was rounded.
#[derive(Debug, Error, PartialEq)]
#[error("element {index} is {value} after rounding to {dtype}")]
pub struct NonFinite {
    /// Index in row-major order.
    pub index: usize,
    /// The value before rounding.
    pub value: f32,
    /// The dtype that it was rounded to.
    pub dtype: Dtype,
}

/// Widens little-endian `bytes` of `dtype` to `f32`. A trailing incomplete element is ignored;
/// callers pass whole tensors, whose length has been checked against the file's header.
pub fn widen(bytes: &[u8], dtype: Dtype) -> Vec<f32> {
    // Plain loops here and below: `collect` and `fold` are calls for each value in a build without
    // link-time optimisation.
    let mut values = vec![0.0; bytes.len() / dtype.size()];
    match dtype {
        Dtype::Float32 => {
            for (value, bytes) in values.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *value = f32::from_le_bytes(*bytes);
            }
        }
        Dtype::Float16 => {
            for (value, bytes) in values.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *value = f16::from_le_bytes(*bytes).to_f32();
            }
        }
        Dtype::BFloat16 => {
            for (value, bytes) in values.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *value = bf16::from_le_bytes(*bytes).to_f32();
            }
        }
    }
    values
}

/// Rounds little-endian float64 `bytes` to `f32`, as PyTorch does when it copies between the types.
pub fn narrow(bytes: &[u8]) -> Vec<f32> {
    let (chunks, _) = bytes.as_chunks::<8>();
    let values = chunks.iter().map(|&chunk| f64::from_le_bytes(chunk) as f32);
    values.collect()
}

/// Rounds one value to `dtype` and widens it again.
pub fn round_to(value: f32, dtype: Dtype) -> f32 {
    match dtype {
        Dtype::Float32 => value,
        Dtype::Float16 => f16::from_f32(value).to_f32(),
        Dtype::BFloat16 => bf16::from_f32(value).to_f32(),
    }
}

/// Appends `values`, rounded to `dtype`, to `out` as little-endian bytes. `first` is the tensor
/// index of the first value, for errors.
///
/// # Errors
/// If a value isn't finite, or overflows `dtype`.
pub fn encode(
    values: &[f32],
    dtype: Dtype,
    first: usize,
    out: &mut Vec<u8>,
) -> Result<(), NonFinite> {
    out.reserve(values.len() * dtype.size());
    for (index, &value) in values.iter().enumerate() {
        let finite = match dtype {
            Dtype::Float32 => {
                out.extend_from_slice(&value.to_le_bytes());
                value.is_finite()
            }
            Dtype::Float16 => {
                let rounded = f16::from_f32(value);
                out.extend_from_slice(&rounded.to_le_bytes());
                rounded.is_finite()
            }
            Dtype::BFloat16 => {
                let rounded = bf16::from_f32(value);
                out.extend_from_slice(&rounded.to_le_bytes());
                rounded.is_finite()
            }
        };
        if !finite {
            return Err(NonFinite {
                index: first + index,
                value,
                dtype,
            });
        }
    }
    Ok(())
}

/// The first NaN or infinity in little-endian `bytes` of `dtype`: its index and value.
pub fn first_non_finite(bytes: &[u8], dtype: Dtype) -> Option<(usize, f32)> {
    // The bits of the largest magnitude decide for all elements at once; the compiler vectorizes
    // this.
    let all_finite = match dtype {
        Dtype::Float32 => {
            let mut largest = 0;
            for bytes in bytes.as_chunks::<4>().0 {
                largest = largest.max(u32::from_le_bytes(*bytes) & 0x7fff_ffff);
            }
            largest < f32::INFINITY.to_bits()
        }
        Dtype::Float16 | Dtype::BFloat16 => {
            let mut largest = 0;
            for bytes in bytes.as_chunks::<2>().0 {
                largest = largest.max(u16::from_le_bytes(*bytes) & 0x7fff);
            }
            let infinity = match dtype {
                Dtype::BFloat16 => bf16::INFINITY.to_bits(),
                _ => f16::INFINITY.to_bits(),
            };
            largest < infinity
        }
    };
    if all_finite {
        return None;
    }
    let mut values = widen(bytes, dtype).into_iter().enumerate();
    values.find(|(_, value)| !value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_that_is_not_finite_is_found_in_every_dtype() {
        for dtype in [Dtype::Float32, Dtype::Float16, Dtype::BFloat16] {
            let infinity = match dtype {
                Dtype::Float32 => f32::INFINITY.to_le_bytes().to_vec(),
                Dtype::Float16 => f16::NEG_INFINITY.to_le_bytes().to_vec(),
                Dtype::BFloat16 => bf16::NAN.to_le_bytes().to_vec(),
            };
            let mut bytes = Vec::new();
            encode(&[0.0, -65_000.0, 1e-7], dtype, 0, &mut bytes).unwrap();
            assert_eq!(first_non_finite(&bytes, dtype), None);
            bytes.extend(infinity);
            let (index, value) = first_non_finite(&bytes, dtype).unwrap();
            assert!(index == 3 && !value.is_finite());
        }
    }

    #[test]
    fn rounding_is_to_nearest_even_and_widening_is_exact() {
        let mut bytes = Vec::new();
        // 1 + 2^-8 is halfway between two bfloat16 values; the even one is 1.
        encode(&[1.0 + 1.0 / 256.0, 1.5], Dtype::BFloat16, 0, &mut bytes).unwrap();
        assert_eq!(widen(&bytes, Dtype::BFloat16), [1.0, 1.5]);
    }

    #[test]
    fn a_value_that_overflows_float16_is_an_error_with_its_index() {
        let mut bytes = Vec::new();
        let error = encode(&[1.0, 70_000.0], Dtype::Float16, 10, &mut bytes).unwrap_err();
        assert_eq!(error.index, 11);
        assert!(encode(&[f32::NAN], Dtype::Float32, 0, &mut bytes).is_err());
    }
}
