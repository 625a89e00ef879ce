//! The floor of a decode step: reading as many bytes as the step must read, and doing nothing with them
//! but add them up.

use std::time::{Duration, Instant};

/// Adds all of `values` up on `threads` threads, and says how long that took. The sum is returned so that
/// it is really computed.
pub fn timed_sum(values: &[f32], threads: usize) -> (Duration, f32) {
    let start = Instant::now();
    let share = values.len().div_ceil(threads.max(1));
    let total = std::thread::scope(|scope| {
        let workers: Vec<_> = values
            .chunks(share.max(1))
            .map(|part| scope.spawn(move || sum(part)))
            .collect();
        let sums = workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or(f32::NAN));
        sums.sum()
    });
    (start.elapsed(), total)
}

/// Adds up with the widest registers that the processor has.
fn sum(values: &[f32]) -> f32 {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has the feature.
            #[expect(unsafe_code, reason = "features are found at run time")]
            return unsafe { sum_avx512(values) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has the feature.
            #[expect(unsafe_code, reason = "features are found at run time")]
            return unsafe { sum_avx2(values) };
        }
    }
    lanes(values)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn sum_avx512(values: &[f32]) -> f32 {
    lanes(values)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_avx2(values: &[f32]) -> f32 {
    lanes(values)
}

/// Independent sums, which the compiler keeps in vector registers: one alone would wait for itself.
#[inline(always)]
fn lanes(values: &[f32]) -> f32 {
    const LANES: usize = 128;
    let mut sums = [0.0_f32; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().sum();
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += value;
        }
    }
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_added_whatever_the_threads() {
        let values: Vec<f32> = (0..1003).map(|i| (i % 7) as f32).collect();
        let expected: f32 = values.iter().sum();
        for threads in [1, 2, 3, 2000] {
            assert_eq!(timed_sum(&values, threads).1, expected);
        }
        assert_eq!(timed_sum(&[], 2).1, 0.0);
    }
}
