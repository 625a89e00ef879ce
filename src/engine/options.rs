//! Options for opening sessions.

use std::path::PathBuf;

use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::Session;
use serde::{Deserialize, Serialize};

use crate::lowering::{LoweringTarget, WeightsMode, block_size};
use crate::onnxruntime::Provider;

/// Options for opening a variant's sessions.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EngineOptions {
    /// The execution provider.
    pub provider: Provider,
    /// Number of threads of the CPU provider.
    pub threads: usize,
    /// How weights are held in memory.
    pub weights: WeightsMode,
    /// Sequences generated at once, all from the same prompt.
    pub batch_size: usize,
    /// Number of cache rows: virtual tokens, prompt and new tokens together.
    pub max_length: usize,
    /// Whether every step's logits are copied to the host.
    pub logits_on_host: bool,
    /// How many layers, from the first on, are computed on the GPU and the others on the CPU; `None`
    /// for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_layers: Option<usize>,
    /// Whether decode steps on a GPU are replayed from a CUDA graph, provided that this gives the
    /// same logits.
    #[serde(default)]
    pub cuda_graph: bool,
    /// The folder for ONNX Runtime's profiles, if wanted. Each session writes its own into the
    /// subfolder `prompt` or `step` when it's closed.
    #[serde(default)]
    pub profile: Option<PathBuf>,
}

/// Whether float32 products on a GPU may be rounded to TF32.
pub const TF32: bool = false;

impl EngineOptions {
    /// What graphs are lowered for.
    pub(super) fn lowering_target(&self) -> LoweringTarget {
        LoweringTarget {
            provider: self.provider,
            weights: self.weights,
            sequences: self.batch_size,
        }
    }

    /// The block size of laid-out weights on a CPU; `None` if sessions read weights as they're
    /// stored.
    pub(super) fn block(&self) -> Option<usize> {
        let laid_out = self.provider == Provider::Cpu && self.weights != WeightsMode::InPlace;
        laid_out.then(block_size::of_this_processor).flatten()
    }

    /// Options for the session `name`, with its own folder for the profile. If the folder can't be
    /// created, there's no profile.
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

    /// The session's arena, on the GPU if it runs there; `None` if it has none.
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
