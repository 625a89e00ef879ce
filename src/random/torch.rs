//! `torch.Generator` on the CPU: a Mersenne twister and PyTorch's distributions.
//!
//! - A 64-bit draw takes two words, the high one first.
//! - `rand` takes the low 24 bits of a word for float32, the low 53 bits of a 64-bit draw for
//!   float64.
//! - `uniform_(low, high)` is one fused `u * (high - low) + low`. For bfloat16 it's computed in
//!   float32 and rounded; a value that rounds up to `high` becomes `low`.
//! - `normal_` has two paths. Below 16 values: the Box–Muller transform in float64, whose second
//!   value is kept for the next call. From 16 values on: float32 uniforms are transformed in place,
//!   the first eight of each block of 16 with the last eight.
//!
//! All but the long path of `normal_` is exact to the bit. There PyTorch uses vectorised
//! logarithms, sines and cosines that differ between processors in the last bits; here they are
//! rounded from float64.
//!
//! Source: PyTorch 2.15, `aten/src/ATen/CPUGeneratorImpl.cpp`, `core/DistributionsHelper.h`,
//! `native/cpu/DistributionTemplates.h`.

use std::f64::consts::TAU;

use half::bf16;

use super::mt19937::Mt19937;
use super::permutation;

/// The block size of `normal_`'s long path, and the shortest length that takes it.
const BLOCK: usize = 16;

/// The generator after `torch.Generator().manual_seed(seed)`.
#[derive(Debug, Clone)]
pub struct TorchGenerator {
    twister: Mt19937,
    /// The second value of the last Box–Muller pair.
    kept_normal: Option<f64>,
}

impl TorchGenerator {
    /// The seed of a generator that isn't seeded.
    pub const DEFAULT_SEED: u64 = 67_280_421_310_721;

    /// `manual_seed(seed)`. Only the low 32 bits matter.
    pub fn new(seed: u64) -> Self {
        Self {
            twister: Mt19937::new(seed as u32),
            kept_normal: None,
        }
    }

    /// A 32-bit word.
    pub fn next_u32(&mut self) -> u32 {
        self.twister.next_u32()
    }

    /// A 64-bit draw.
    pub fn next_u64(&mut self) -> u64 {
        let high = u64::from(self.next_u32());
        (high << 32) | u64::from(self.next_u32())
    }

    /// A value of `torch.rand`, in `[0, 1)`.
    pub fn rand(&mut self) -> f32 {
        (self.next_u32() & 0x00ff_ffff) as f32 * 2_f32.powi(-24)
    }

    /// A value of `torch.rand(dtype=torch.float64)`, in `[0, 1)`.
    pub fn rand_f64(&mut self) -> f64 {
        (self.next_u64() & ((1 << 53) - 1)) as f64 * 2_f64.powi(-53)
    }

    /// `count` values of `uniform_(-bound, bound)` on a float32 tensor.
    pub fn uniform(&mut self, count: usize, bound: f64) -> Vec<f32> {
        let bound = bound as f32;
        let range = bound - -bound;
        (0..count)
            .map(|_| self.rand().mul_add(range, -bound))
            .collect()
    }

    /// `count` values of `uniform_(-bound, bound)` on a bfloat16 tensor.
    pub fn uniform_bf16(&mut self, count: usize, bound: f64) -> Vec<bf16> {
        let excluded = bf16::from_f32(bound as f32);
        let round = |value: f32| match bf16::from_f32(value) {
            rounded if rounded == excluded => -excluded,
            rounded => rounded,
        };
        self.uniform(count, bound).into_iter().map(round).collect()
    }

    /// `count` values of `normal_(0, deviation)` on a float32 tensor.
    pub fn normal(&mut self, count: usize, deviation: f64) -> Vec<f32> {
        if count < BLOCK {
            return (0..count)
                .map(|_| (self.next_normal() * deviation) as f32)
                .collect();
        }
        let mut values: Vec<f32> = (0..count).map(|_| self.rand()).collect();
        let (blocks, rest) = values.as_chunks_mut::<BLOCK>();
        for block in blocks {
            transform(block, deviation as f32);
        }
        if !rest.is_empty() {
            // If the length isn't a multiple of the block, the last 16 values are drawn again.
            let mut last: [f32; BLOCK] = std::array::from_fn(|_| self.rand());
            transform(&mut last, deviation as f32);
            values[count - BLOCK..].copy_from_slice(&last);
        }
        values
    }

    /// The first `count` numbers of `torch.randperm(n)`, a permutation of `0..n`.
    ///
    /// # Panics
    /// If `count` exceeds `n`.
    pub fn permutation(&mut self, n: u64, count: usize) -> Vec<u64> {
        permutation::first_of(self, n, count)
    }

    /// One value of `normal_`'s short path, with standard deviation 1.
    fn next_normal(&mut self) -> f64 {
        if let Some(kept) = self.kept_normal.take() {
            return kept;
        }
        let angle = TAU * self.rand_f64();
        let radius = (-2.0 * (-self.rand_f64()).ln_1p()).sqrt();
        self.kept_normal = Some(radius * angle.sin());
        radius * angle.cos()
    }
}

/// Transforms a block of uniform values into normal ones. Every step is rounded to float32, as in
/// PyTorch: rounding the angle alone moves a value by up to 1e-6.
fn transform(block: &mut [f32; BLOCK], deviation: f32) {
    for index in 0..BLOCK / 2 {
        // 1 - u, to avoid the logarithm of 0.
        let logarithm = f64::from(1.0 - block[index]).ln() as f32;
        let radius = (-2.0 * logarithm).sqrt();
        let angle = f64::from(TAU as f32 * block[index + BLOCK / 2]);
        block[index] = radius * angle.cos() as f32 * deviation;
        block[index + BLOCK / 2] = radius * angle.sin() as f32 * deviation;
    }
}

#[cfg(test)]
mod tests {
    use super::super::recorded::{Recorded, as_f32, as_u64s};
    use super::*;

    fn generator(case: &serde_json::Value) -> TorchGenerator {
        TorchGenerator::new(case["seed"].as_u64().unwrap())
    }

    #[test]
    fn uniform_numbers_in_float32_are_pytorchs() {
        for case in Recorded::read().cases("rand_f32") {
            let mut generator = generator(&case);
            for bits in as_u64s(&case["bits"]) {
                assert_eq!(u64::from(generator.rand().to_bits()), bits);
            }
        }
    }

    #[test]
    fn uniform_numbers_in_float64_are_pytorchs() {
        for case in Recorded::read().cases("rand_f64") {
            let mut generator = generator(&case);
            for bits in as_u64s(&case["bits"]) {
                assert_eq!(generator.rand_f64().to_bits(), bits);
            }
        }
    }

    #[test]
    fn uniform_numbers_between_bounds_are_pytorchs() {
        for case in Recorded::read().cases("uniform_f32") {
            let expected = as_u64s(&case["bits"]);
            let bound = case["bound"].as_f64().unwrap();
            let values = generator(&case).uniform(expected.len(), bound);
            let bits: Vec<u64> = values.iter().map(|v| u64::from(v.to_bits())).collect();
            assert_eq!(bits, expected);
        }
    }

    #[test]
    fn uniform_numbers_in_bfloat16_are_pytorchs() {
        for case in Recorded::read().cases("uniform_bf16") {
            let expected = as_u64s(&case["bits"]);
            let bound = case["bound"].as_f64().unwrap();
            let values = generator(&case).uniform_bf16(expected.len(), bound);
            let bits: Vec<u64> = values.iter().map(|v| u64::from(v.to_bits())).collect();
            assert_eq!(bits, expected);
        }
    }

    #[test]
    fn normal_numbers_are_pytorchs_call_by_call() {
        for case in Recorded::read().cases("normal_f32") {
            let mut generator = generator(&case);
            let deviation = case["std"].as_f64().unwrap();
            let calls = case["bits"].as_array().unwrap();
            for (count, call) in as_u64s(&case["counts"]).into_iter().zip(calls) {
                let values = generator.normal(count as usize, deviation);
                let expected = as_f32(call);
                assert_eq!(values.len(), expected.len());
                // The long path depends on the processor's vector functions.
                let units = if count < 16 { 0.0 } else { 4.0 };
                for (value, expected) in values.into_iter().zip(expected) {
                    let error = (value - expected).abs();
                    assert!(
                        error <= units * f32::EPSILON * expected.abs(),
                        "{value} for {expected}"
                    );
                }
            }
        }
    }
}
