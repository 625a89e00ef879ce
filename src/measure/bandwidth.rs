//! Memory bandwidth, which bounds a decode step from below. On a CPU it's measured by summing up
//! the weights' bytes, on a GPU by a copy.

mod device;

use std::fs::File;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use memmap2::Mmap;

pub use device::DeviceCopier;

use super::stats::median;

/// Measures memory bandwidth.
pub trait RateMeter {
    /// Bytes per second now; `None` if it can't be measured.
    fn read(&self) -> Option<f64>;
}

/// Sums in a reading; their median counts. The first one may find other data in the caches, unlike
/// a decode step, which follows another step.
const SUMS: usize = 3;
/// A sum reads at most this many bytes, so that a reading stays short for a large model. It's far
/// more than any cache holds.
const MOST_BYTES: usize = 1 << 30;
/// A sum reads at least this many bytes, if necessary the same ones several times, so that the
/// start of its threads is negligible.
const LEAST_BYTES: usize = 32 << 20;

/// Endings of files of weights: a checkpoint's, and a portable folder's.
const WEIGHTS: [&str; 2] = ["safetensors", "data"];

/// Measures the rate at which a model's mapped weights are read, with the session's number of
/// threads.
///
/// Weights that fit into the processor's caches are read from there, as in a decode step.
#[derive(Debug)]
pub struct WeightsReader {
    map: Mmap,
    bytes: usize,
    threads: usize,
}

impl WeightsReader {
    /// Maps the largest file of weights in `model_folder`. A reading reads `bytes` of it, or all
    /// if it's smaller. `None` if no file can be mapped.
    #[expect(unsafe_code, reason = "mapping a file is unsafe")]
    pub fn open(model_folder: &Path, bytes: u64, threads: usize) -> Option<Self> {
        let files = std::fs::read_dir(model_folder).ok()?.flatten();
        let path = files
            .map(|entry| entry.path())
            .filter(|path| {
                path.extension()
                    .is_some_and(|end| WEIGHTS.iter().any(|one| end == *one))
            })
            .max_by_key(|path: &PathBuf| std::fs::metadata(path).map_or(0, |found| found.len()))?;
        let file = File::open(path).ok()?;
        // SAFETY: a model's files aren't written to while it's measured; the sessions map them as
        // well.
        let map = unsafe { Mmap::map(&file) }.ok()?;
        let wanted = usize::try_from(bytes).unwrap_or(usize::MAX);
        let bytes = wanted.min(MOST_BYTES).min(map.len());
        let reader = Self {
            map,
            bytes,
            threads,
        };
        // The first access to a page is a page fault, which takes longer than reading it.
        (bytes > 0).then(|| black_box(timed_sum(reader.values(), threads)))?;
        Some(reader)
    }

    #[expect(unsafe_code, reason = "the bytes of a map are seen as numbers")]
    fn values(&self) -> &[f32] {
        let start = self.map.len() - self.bytes;
        // SAFETY: any bits are an `f32`; `align_to` gives the aligned middle.
        unsafe { self.map[start..].align_to::<f32>().1 }
    }
}

impl RateMeter for WeightsReader {
    fn read(&self) -> Option<f64> {
        let values = self.values();
        let bytes = std::mem::size_of_val(values);
        let passes = LEAST_BYTES.div_ceil(bytes.max(1));
        let sums: Vec<f64> = (0..SUMS)
            .map(|_| timed_sums(values, self.threads, passes).0.as_secs_f64())
            .collect();
        let seconds = median(&sums)?;
        (bytes > 0 && seconds > 0.0).then(|| (bytes * passes) as f64 / seconds)
    }
}

/// A meter that can't measure.
impl RateMeter for () {
    fn read(&self) -> Option<f64> {
        None
    }
}

/// Sums up `values` on `threads` threads. Returns the time and the sum; without a use of the sum,
/// the compiler might leave it out.
pub fn timed_sum(values: &[f32], threads: usize) -> (Duration, f32) {
    timed_sums(values, threads, 1)
}

/// Sums up `values` `passes` times; each thread goes over its own part again.
fn timed_sums(values: &[f32], threads: usize, passes: usize) -> (Duration, f32) {
    let start = Instant::now();
    let share = values.len().div_ceil(threads.max(1));
    let total = std::thread::scope(|scope| {
        let workers: Vec<_> = values
            .chunks(share.max(1))
            .map(|part| {
                // `black_box`, or the compiler computes the sum of one pass only.
                scope.spawn(move || (0..passes).map(|_| sum(black_box(part))).sum::<f32>())
            })
            .collect();
        let sums = workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or(f32::NAN));
        sums.sum()
    });
    (start.elapsed(), total)
}

/// Sums up with the processor's widest vector registers.
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

/// Independent partial sums, which the compiler keeps in vector registers. With a single one, every
/// addition would wait for the one before.
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
    fn the_rate_of_a_models_weights_is_read_and_absent_without_a_file() {
        let folder = tempfile::tempdir().unwrap();
        assert!(WeightsReader::open(folder.path(), 1 << 20, 2).is_none());
        std::fs::write(folder.path().join("m.safetensors"), vec![1_u8; 1 << 20]).unwrap();
        std::fs::write(folder.path().join("other.bin"), vec![1_u8; 2 << 20]).unwrap();
        let reader = WeightsReader::open(folder.path(), 3 << 20, 2).unwrap();
        assert_eq!(reader.values().len(), (1 << 20) / 4);
        let part = WeightsReader::open(folder.path(), 1 << 10, 1).unwrap();
        assert_eq!(part.values().len(), 256);
        // Wide bounds, since the machine may be busy: 10 kB to 100 TB per second.
        let rate = reader.read().unwrap();
        assert!((1e4..1e14).contains(&rate), "{rate}");
    }

    #[test]
    fn every_value_is_added_whatever_the_threads() {
        let values: Vec<f32> = (0..1003).map(|i| (i % 7) as f32).collect();
        let expected: f32 = values.iter().sum();
        for threads in [1, 2, 3, 2000] {
            assert_eq!(timed_sum(&values, threads).1, expected);
            assert_eq!(timed_sums(&values, threads, 3).1, 3.0 * expected);
        }
        assert_eq!(timed_sum(&[], 2).1, 0.0);
    }
}
