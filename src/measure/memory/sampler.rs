//! Memory peaks of each stage of a run.
//!
//! A thread takes readings at an interval; the kernel's high-water mark catches peaks between two
//! readings. The mark is reset at the start of each stage. If the system doesn't allow that, the
//! mark counts for a stage only if it rose during the stage.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{MemoryError, ProcessMemory, reset_peak};
use crate::engine::ArenaBytes;
use crate::measure::gpu::{GpuMemoryMethod, GpuProbe, GpuReading};

/// How the peak of the resident size was determined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeakMethod {
    /// From the kernel's high-water mark, which is exact.
    HighWaterMark,
    /// From the largest reading: a peak shorter than the interval may be missed.
    Samples,
}

/// Memory at the end of a stage, and the peaks during it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageMemory {
    /// The stage's name, such as `session_loaded` or `short`.
    pub stage: String,
    /// The reading at the stage's end.
    pub ram: ProcessMemory,
    /// The largest resident size during the stage.
    pub peak_rss_bytes: u64,
    /// How `peak_rss_bytes` was determined.
    pub peak_rss_method: PeakMethod,
    /// The largest anonymous memory among the readings; the kernel has no high-water mark of it.
    /// Linux only.
    pub peak_anonymous_bytes: Option<u64>,
    /// How often the process waited during the stage for a page to be read from a disk.
    #[serde(default)]
    pub disk_waits: Option<u64>,
    /// Bytes that ONNX Runtime's allocator had handed out on the accelerator at the stage's end.
    /// The sampler leaves it `None`; the owner of the session fills it in.
    pub accelerator_allocated_bytes: Option<u64>,
    /// ONNX Runtime's arena at the stage's end, in host or device memory, wherever the session
    /// runs. The owner of the session fills it in, too.
    #[serde(default)]
    pub arena: Option<ArenaBytes>,
    /// Bytes that the process held on the accelerator at the stage's end, its CUDA context
    /// included; `None` without a probe.
    pub accelerator_reserved_bytes: Option<u64>,
    /// The largest `accelerator_reserved_bytes` among the readings of the stage.
    pub peak_accelerator_bytes: Option<u64>,
    /// How the accelerator's figures were determined.
    pub accelerator_method: Option<GpuMemoryMethod>,
}

/// Several stages, and the peaks over them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryRecord {
    /// The stages in the order in which they ended.
    pub stages: Vec<StageMemory>,
    /// The largest resident size of any stage.
    pub peak_rss_bytes: u64,
    /// The largest anonymous memory of any stage.
    pub peak_anonymous_bytes: Option<u64>,
    /// The largest accelerator memory of any stage.
    pub peak_accelerator_bytes: Option<u64>,
}

impl MemoryRecord {
    /// The record of these stages. Loading may need more memory than generation, so callers select
    /// the stages.
    pub fn of_stages(stages: Vec<StageMemory>) -> Self {
        Self {
            peak_rss_bytes: stages.iter().map(|s| s.peak_rss_bytes).max().unwrap_or(0),
            peak_anonymous_bytes: stages.iter().filter_map(|s| s.peak_anonymous_bytes).max(),
            peak_accelerator_bytes: stages.iter().filter_map(|s| s.peak_accelerator_bytes).max(),
            stages,
        }
    }
}

/// Samples this process's memory from its own thread.
///
/// A process should have only one, since each resets the kernel's high-water mark at its stages.
#[derive(Debug)]
pub struct MemorySampler {
    shared: Arc<Mutex<Watch>>,
    stages: Vec<StageMemory>,
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl MemorySampler {
    /// Starts the thread, which takes a reading every `interval`, and the first stage. With a
    /// probe, the accelerator's memory is read as well.
    ///
    ///
    /// # Errors
    /// If this process's memory can't be read, or the thread can't be started.
    pub fn start(interval: Duration, gpu: Option<GpuProbe>) -> Result<Self, MemoryError> {
        let shared = Arc::new(Mutex::new(Watch::begin(gpu)?));
        let (stop, stopped) = mpsc::channel();
        let watch = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("memory-sampler".to_string())
            .spawn(move || {
                while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                    lock(&watch).sample();
                }
            })
            .map_err(MemoryError::Thread)?;
        Ok(Self {
            shared,
            stages: Vec::new(),
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Ends the present stage, names it, and begins the next.
    ///
    /// Returns the stage that [`finish`](Self::finish) will return, so that the caller can fill in
    /// its fields.
    ///
    /// # Errors
    /// If this process's memory can't be read.
    pub fn stage(&mut self, name: &str) -> Result<&mut StageMemory, MemoryError> {
        let stage = lock(&self.shared).end_stage(name)?;
        self.stages.push(stage);
        Ok(self.stages.last_mut().expect("it was pushed just now"))
    }

    /// Stops the thread and returns all ended stages.
    pub fn finish(mut self) -> MemoryRecord {
        self.stop_thread();
        MemoryRecord::of_stages(std::mem::take(&mut self.stages))
    }

    fn stop_thread(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // `join` fails only if the thread panicked, and then it has stopped, too.
            let _ = thread.join();
        }
    }
}

impl Drop for MemorySampler {
    fn drop(&mut self) {
        self.stop_thread();
    }
}

/// The readings of the present stage. Each is taken under the lock, so that none counts for the
/// next stage.
#[derive(Debug)]
struct Watch {
    gpu: Option<GpuProbe>,
    gpu_peak: Option<GpuReading>,
    rss: u64,
    anonymous: Option<u64>,
    /// The high-water mark at the stage's start, if it couldn't be reset. A mark that doesn't
    /// exceed it belongs to an earlier stage.
    mark_before: Option<u64>,
    /// Waits for the disk until the stage's start.
    waits_before: Option<u64>,
}

fn lock(watch: &Mutex<Watch>) -> std::sync::MutexGuard<'_, Watch> {
    // A panic can't leave the state inconsistent: the fields are independent maxima.
    watch.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    fn begin(gpu: Option<GpuProbe>) -> Result<Self, MemoryError> {
        let mut watch = Self {
            gpu,
            gpu_peak: None,
            rss: 0,
            anonymous: None,
            mark_before: None,
            waits_before: None,
        };
        let ram = ProcessMemory::read()?;
        watch.begin_stage(&ram);
        watch.note(&ram);
        Ok(watch)
    }

    fn begin_stage(&mut self, ram: &ProcessMemory) {
        self.mark_before = if reset_peak() {
            None
        } else {
            ram.peak_rss_bytes
        };
        self.gpu_peak = None;
        self.rss = 0;
        self.anonymous = None;
        self.waits_before = disk_waits();
    }

    /// A reading that fails is skipped; the one at the stage's end must succeed.
    fn sample(&mut self) {
        if let Ok(ram) = ProcessMemory::read() {
            self.note(&ram);
        }
        self.note_gpu();
    }

    fn note(&mut self, ram: &ProcessMemory) {
        self.rss = self.rss.max(ram.rss_bytes);
        self.anonymous = self.anonymous.max(ram.anonymous_bytes);
    }

    fn note_gpu(&mut self) -> Option<GpuReading> {
        let reading = self.gpu.as_mut()?.read()?;
        self.gpu_peak = Some(match self.gpu_peak {
            Some(peak) => peak.max(reading),
            None => reading,
        });
        Some(reading)
    }

    fn end_stage(&mut self, name: &str) -> Result<StageMemory, MemoryError> {
        let ram = ProcessMemory::read()?;
        self.note(&ram);
        let gpu = self.note_gpu();
        let (peak_rss_bytes, peak_rss_method) =
            stage_peak(self.rss, ram.peak_rss_bytes, self.mark_before);

        let stage = StageMemory {
            stage: name.to_string(),
            ram,
            peak_rss_bytes,
            peak_rss_method,
            peak_anonymous_bytes: self.anonymous,
            disk_waits: disk_waits()
                .zip(self.waits_before)
                .map(|(now, before)| now - before),
            accelerator_allocated_bytes: None,
            arena: None,
            accelerator_reserved_bytes: gpu.map(GpuReading::bytes),
            peak_accelerator_bytes: self.gpu_peak.map(GpuReading::bytes),
            accelerator_method: self.gpu_peak.map(GpuReading::method),
        };
        self.begin_stage(&ram);
        self.note(&ram);
        Ok(stage)
    }
}

/// How often this process waited for a page to be read from a disk, since it began.
#[cfg(target_os = "linux")]
fn disk_waits() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name, in brackets, may have blanks; `majflt` is the tenth field after it.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(9)?.parse().ok()
}

#[cfg(not(target_os = "linux"))]
fn disk_waits() -> Option<u64> {
    None
}

/// The peak of a stage from its largest sample and the high-water mark at its end.
///
/// `mark_before` is the mark at the stage's start, if it couldn't be reset. A mark that hasn't
/// risen above it belongs to an earlier stage.
fn stage_peak(sampled: u64, mark: Option<u64>, mark_before: Option<u64>) -> (u64, PeakMethod) {
    match mark {
        Some(mark) if mark_before.is_none_or(|before| mark > before) => {
            (sampled.max(mark), PeakMethod::HighWaterMark)
        }
        _ => (sampled, PeakMethod::Samples),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::memory::tests::{MIB, alone, touched};

    /// Longer than any test, so that readings are taken only at the ends of stages.
    const NEVER: Duration = Duration::from_secs(3_600);

    #[cfg(target_os = "linux")]
    #[test]
    fn a_peak_between_two_samples_belongs_to_its_stage_and_not_to_the_next() {
        alone(
            module_path!(),
            "a_peak_between_two_samples_belongs_to_its_stage_and_not_to_the_next",
            || {
                let mut sampler = MemorySampler::start(NEVER, None).unwrap();
                let start = sampler.stage("start").unwrap().clone();
                drop(touched(96 * MIB));
                let spike = sampler.stage("spike").unwrap().clone();
                let quiet = sampler.stage("quiet").unwrap().clone();

                assert_eq!(spike.peak_rss_method, PeakMethod::HighWaterMark);
                assert!(spike.peak_rss_bytes >= start.ram.rss_bytes + 90 * MIB);
                assert!(spike.ram.rss_bytes < start.ram.rss_bytes + 20 * MIB);
                assert!(quiet.peak_rss_bytes < start.ram.rss_bytes + 20 * MIB);

                let record = sampler.finish();
                assert_eq!(record.stages, [start, spike.clone(), quiet]);
                assert_eq!(record.peak_rss_bytes, spike.peak_rss_bytes);
            },
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_thread_sees_the_anonymous_peak_that_the_kernel_does_not_mark() {
        alone(
            module_path!(),
            "the_thread_sees_the_anonymous_peak_that_the_kernel_does_not_mark",
            || {
                let mut sampler = MemorySampler::start(Duration::from_millis(1), None).unwrap();
                let start = sampler.stage("start").unwrap().ram.anonymous_bytes.unwrap();
                let block = touched(96 * MIB);
                // Held until the thread has seen it, however busy the machine is.
                while lock(&sampler.shared).anonymous.unwrap() < start + 90 * MIB {
                    thread::sleep(Duration::from_millis(1));
                }
                drop(block);
                let stage = sampler.stage("spike").unwrap();
                assert!(stage.peak_anonymous_bytes.unwrap() >= start + 90 * MIB);
                assert!(stage.ram.anonymous_bytes.unwrap() < start + 20 * MIB);
            },
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_that_is_not_in_memory_is_waited_for_and_one_that_is_is_not() {
        alone(
            module_path!(),
            "a_file_that_is_not_in_memory_is_waited_for_and_one_that_is_is_not",
            || {
                let folder = std::env::current_exe().unwrap();
                let mut file = tempfile::tempfile_in(folder.parent().unwrap()).unwrap();
                std::io::Write::write_all(&mut file, &touched(8 * MIB)).unwrap();
                file.sync_all().unwrap();
                rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
                // SAFETY: nobody else has this file, which has no name.
                #[expect(unsafe_code, reason = "a mapped file must not change")]
                let map = unsafe { memmap2::Mmap::map(&file) }.unwrap();
                // Each page is read by itself.
                map.advise(memmap2::Advice::Random).unwrap();
                let mut sampler = MemorySampler::start(NEVER, None).unwrap();
                let mut waits = |name| {
                    let pages = map.iter().step_by(4096);
                    assert_eq!(
                        pages.map(|byte| u64::from(*byte)).sum::<u64>(),
                        8 * MIB / 4096
                    );
                    sampler.stage(name).unwrap().disk_waits.unwrap()
                };
                let (first, second) = (waits("cold"), waits("warm"));
                // Some file systems have no disk, or keep what isn't needed.
                assert!(second <= first, "{first} and then {second}");
                if !is_in_memory_alone(folder.parent().unwrap()) {
                    assert!(first >= 100 && second == 0, "{first} and then {second}");
                }
            },
        );
    }

    /// Whether the file system of `folder` has no disk.
    #[cfg(target_os = "linux")]
    fn is_in_memory_alone(folder: &std::path::Path) -> bool {
        const TMPFS: i64 = 0x0102_1994;
        const OVERLAY: i64 = 0x794c_7630;
        let kind = rustix::fs::statfs(folder).unwrap().f_type as i64;
        [TMPFS, OVERLAY].contains(&kind)
    }

    #[test]
    fn a_mark_that_could_not_be_set_back_counts_only_if_it_rose() {
        use PeakMethod::{HighWaterMark, Samples};
        assert_eq!(stage_peak(50, Some(80), None), (80, HighWaterMark));
        assert_eq!(stage_peak(50, Some(80), Some(70)), (80, HighWaterMark));
        assert_eq!(stage_peak(50, Some(80), Some(80)), (50, Samples));
        assert_eq!(stage_peak(50, None, None), (50, Samples));
        assert_eq!(stage_peak(81, Some(80), None), (81, HighWaterMark));
    }

    #[test]
    fn finishing_does_not_wait_for_the_interval() {
        // With an interval of an hour, this test ends only if the thread is woken.
        let record = MemorySampler::start(NEVER, None).unwrap().finish();
        assert_eq!(record, MemoryRecord::of_stages(Vec::new()));
    }

    #[test]
    fn a_stage_keeps_what_its_owner_fills_in_and_survives_json() {
        let mut sampler = MemorySampler::start(NEVER, None).unwrap();
        let stage = sampler.stage("session_loaded").unwrap();
        assert_eq!(stage.accelerator_method, None);
        stage.accelerator_allocated_bytes = Some(42);

        let record = sampler.finish();
        assert_eq!(record.stages[0].stage, "session_loaded");
        assert_eq!(record.stages[0].accelerator_allocated_bytes, Some(42));
        let json = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<MemoryRecord>(&json).unwrap(), record);
    }
}
