//! How a session is opened.

use std::path::PathBuf;

use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::Session;
use serde::{Deserialize, Serialize};

use crate::lowering::{Lowering, WeightsMode, block_size};
use crate::onnxruntime::Provider;

/// How a session is opened.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EngineOptions {
    /// Where the graph runs.
    pub provider: Provider,
    /// Threads of the CPU provider.
    pub threads: usize,
    /// How weights are held.
    pub weights: WeightsMode,
    /// Sequences that are generated at once, all from the same prompt.
    pub batch_size: usize,
    /// Rows of the cache: virtual tokens, prompt and new tokens together.
    pub max_length: usize,
    /// Whether every step's logits are brought to the host.
    pub logits_on_host: bool,
    /// Whether decode steps on a GPU are replayed from a CUDA graph, where that gives the same.
    #[serde(default)]
    pub cuda_graph: bool,
    /// ONNX Runtime writes profiles of what runs into folders below this one, `prompt` and `step`, when the sessions are
    /// closed.
    #[serde(default)]
    pub profile: Option<PathBuf>,
}

/// Whether float32 products on a GPU may be rounded to TF32.
pub const TF32: bool = false;

impl EngineOptions {
    /// What graphs are rewritten for.
    pub(super) fn lowering(&self) -> Lowering {
        Lowering {
            provider: self.provider,
            weights: self.weights,
            sequences: self.batch_size,
        }
    }

    /// The size of blocks in which sessions read their weights, on a CPU; `None` where they read them as they're stored.
    pub(super) fn block(&self) -> Option<usize> {
        let laid_out = self.provider == Provider::Cpu && self.weights != WeightsMode::InPlace;
        laid_out.then(block_size::of_this_processor).flatten()
    }

    /// Options for the session `name`, whose profile goes into a folder of its own, or is left out if that can't be made.
    pub(super) fn for_session(&self, name: &str) -> Self {
        let own = self.profile.as_ref().map(|folder| folder.join(name));
        Self {
            profile: own.filter(|folder| std::fs::create_dir_all(folder).is_ok()),
            ..self.clone()
        }
    }

    /// The GPU's allocator; `None` on a CPU.
    pub(super) fn device_allocator(&self, session: &Session) -> ort::Result<Option<Allocator>> {
        let Provider::Cuda(device) = self.provider else {
            return Ok(None);
        };
        let info = MemoryInfo::new(
            AllocationDevice::CUDA,
            device as i32,
            AllocatorType::Device,
            MemoryType::Default,
        )?;
        Allocator::new(session, info).map(Some)
    }

    /// The session's arena where it runs; `None` if it has none.
    pub(super) fn arena(&self, session: &Session) -> Option<Allocator> {
        let (device, number, kind) = match self.provider {
            Provider::Cuda(device) => {
                (AllocationDevice::CUDA, device as i32, AllocatorType::Device)
            }
            Provider::Cpu => (AllocationDevice::CPU, 0, AllocatorType::Arena),
        };
        let info = MemoryInfo::new(device, number, kind, MemoryType::Default);
        Allocator::new(session, info.ok()?).ok()
    }
}
