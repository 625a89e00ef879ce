//! Bandwidth of a GPU's memory, from copies within it.

use std::time::Instant;

use super::RateMeter;
use crate::measure::stats::median;
use crate::onnxruntime::cuda::{CopyKind, DeviceMemory, Stream};

/// Bytes of a copy: far more than any cache holds.
const BYTES: usize = 256 << 20;
/// Copies in a reading, one after the other, so that their start is negligible.
const COPIES: usize = 8;
/// The median of this many readings counts.
const READINGS: usize = 3;

/// Copies within a GPU's memory. A copy counts twice: the bytes read and the bytes written.
///
/// It holds 512 MiB of that memory, and runs in this process.
#[derive(Debug)]
pub struct DeviceCopier {
    memory: [DeviceMemory; 2],
    stream: Stream,
}

impl DeviceCopier {
    /// Allocates the memory on `device`. `None` without a CUDA runtime, such a device, or enough
    /// free memory.
    pub fn open(device: u32) -> Option<Self> {
        let stream = Stream::new(device).ok()?;
        let memory = [stream.allocate(BYTES).ok()?, stream.allocate(BYTES).ok()?];
        let copier = Self { memory, stream };
        // The first copies wake the device up.
        copier.seconds()?;
        Some(copier)
    }

    #[expect(unsafe_code, reason = "a copy between two memories")]
    fn seconds(&self) -> Option<f64> {
        let [target, source] = &self.memory;
        let start = Instant::now();
        for _ in 0..COPIES {
            // SAFETY: both are device memory of `BYTES` bytes, and live as long as `self`.
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
