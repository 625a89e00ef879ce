//! The rate of a GPU's memory: a copy within it, which reads as much as it writes.

use std::time::Instant;

use super::RateMeter;
use crate::measure::stats::median;
use crate::onnxruntime::cuda::{CopyKind, DeviceMemory, Stream};

/// What's copied at once: far beyond any cache.
const BYTES: usize = 256 << 20;
/// Copies in a reading, one behind the other, so that starting them weighs nothing.
const COPIES: usize = 8;
/// A reading takes the middle one of so many.
const READINGS: usize = 3;

/// Copies within a GPU's memory. Both halves of a copy count: what's read and what's written.
///
/// It holds 512 MiB of that memory, and does its work in this process.
#[derive(Debug)]
pub struct DeviceCopier {
    memory: [DeviceMemory; 2],
    stream: Stream,
}

impl DeviceCopier {
    /// One on `device`; `None` where there's no CUDA runtime, no such device, or no memory left on it.
    pub fn open(device: u32) -> Option<Self> {
        let stream = Stream::new(device).ok()?;
        let memory = [stream.allocate(BYTES).ok()?, stream.allocate(BYTES).ok()?];
        let copier = Self { memory, stream };
        // The first copies find a device that sleeps.
        copier.seconds()?;
        Some(copier)
    }

    #[expect(unsafe_code, reason = "a copy between two memories")]
    fn seconds(&self) -> Option<f64> {
        let [target, source] = &self.memory;
        let start = Instant::now();
        for _ in 0..COPIES {
            // SAFETY: both are memory on the device of so many bytes, and live as long as `self`.
            let started = unsafe {
                let kind = CopyKind::WithinDevice;
                self.stream
                    .copy(target.start(), source.start(), BYTES, kind)
            };
            started.ok()?;
        }
        self.stream.synchronize().ok()?;
        Some(start.elapsed().as_secs_f64())
    }
}

impl RateMeter for DeviceCopier {
    fn read(&self) -> Option<f64> {
        let all: Option<Vec<f64>> = (0..READINGS).map(|_| self.seconds()).collect();
        let seconds = median(&all?)?;
        (seconds > 0.0).then(|| (2 * BYTES * COPIES) as f64 / seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_does_not_exist_has_no_rate() {
        assert!(DeviceCopier::open(u32::MAX).is_none());
    }
}
