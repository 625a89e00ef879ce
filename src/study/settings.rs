//! How models are found, prepared and run: what a study shares with the program's other commands.

use std::path::PathBuf;

use crate::adapter::{AdapterForm, ValuesFrom};
use crate::arch::LatentCache;
use crate::lowering::WeightsMode;
use crate::quantize::stored::KeptBase;
use crate::quantize::{Accuracy, Format, FormatChoice};
use crate::weights::Dtype;

/// How models are found, prepared and run. `None` leaves a choice to the parameters, or to the
/// machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The base model: a folder, a hub id (`org/name[@revision]`) or `synthetic/<shape>`; `None`
    /// for the one that the adapter or the parameters name.
    pub model: Option<String>,
    /// The type that weights are rounded to.
    pub dtype: Option<Dtype>,
    /// What the weights of linear layers are quantized to.
    pub quantize: Option<FormatChoice>,
    /// How weights are rounded: `rtn` or `k_quant`; `None` for what the parameters say.
    pub quantize_algorithm: Option<&'static str>,
    /// Values that share a scale; `None` for what the parameters say.
    pub quantize_block: Option<usize>,
    /// What the head is quantized to.
    pub quantize_head: Option<FormatChoice>,
    /// What layers are quantized to that compute keys or values alone.
    pub quantize_kv_proj: Option<Format>,
    /// What the token embedding is quantized to.
    pub quantize_embedding: Option<FormatChoice>,
    /// The arithmetic of a CPU with 4 and 8 bits.
    pub quantize_accuracy: Option<Accuracy>,
    /// What of a quantized base stays in codes; `None` for the usual.
    pub quantized_base: Option<KeptBase>,
    /// The arithmetic of a CPU with a quantized base's codes; `None` for the usual.
    pub quantized_base_accuracy: Option<Accuracy>,
    /// Whether weights that are merged into a quantized base are rounded to its scheme again.
    pub requantize: bool,
    /// What the cache of latent attention holds; `None` for what the parameters say.
    pub mla: Option<LatentCache>,
    /// Where to run.
    pub provider: ProviderChoice,
    /// The number of the GPU.
    pub device: u32,
    /// How many layers are computed on the GPU.
    pub gpu_layers: GpuLayers,
    /// Whether decode steps on a GPU are started as a CUDA graph, where that's possible and gives
    /// the same.
    pub cuda_graph: bool,
    /// Threads of the CPU provider; `None` for the physical cores.
    pub threads: Option<usize>,
    /// How the CPU provider holds weights; `None` for what suits the purpose.
    pub weights: Option<WeightsMode>,
    /// How an unmerged adapter is computed.
    pub adapter_form: AdapterForm,
    /// Which values an adapter is used with.
    pub values: ValuesFrom,
    /// Whether the network is left alone.
    pub offline: bool,
    /// Parameters in place of `default_benchmark_params.json`.
    pub parameters: Option<PathBuf>,
    /// The folder of exported models.
    pub export_dir: PathBuf,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            model: None,
            dtype: None,
            quantize: None,
            quantize_algorithm: None,
            quantize_block: None,
            quantize_head: None,
            quantize_kv_proj: None,
            quantize_embedding: None,
            quantize_accuracy: None,
            quantized_base: None,
            quantized_base_accuracy: None,
            requantize: false,
            mla: None,
            provider: ProviderChoice::Auto,
            device: 0,
            gpu_layers: GpuLayers::Auto,
            cuda_graph: false,
            threads: None,
            weights: None,
            adapter_form: AdapterForm::Reduced,
            values: ValuesFrom::AsFound,
            offline: false,
            parameters: None,
            export_dir: PathBuf::from("exported_models"),
        }
    }
}

/// How many layers are computed on a GPU; the others are computed on the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuLayers {
    /// All of them, or as many as have room where not all have.
    Auto,
    /// All of them; an error where they have no room.
    All,
    /// The first so many.
    First(usize),
}

/// Where to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProviderChoice {
    /// On the processor.
    Cpu,
    /// On an NVIDIA GPU; an error where there's none.
    Cuda,
    /// On a GPU where there is one that can be used, else on the processor.
    Auto,
}
