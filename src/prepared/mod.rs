//! The format of prepared folders, which `prepare` writes and the engine reads.

mod base_quantization;
mod foreign;
mod manifest;
mod portable;
mod precision;
mod quantization;
mod variant;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use base_quantization::BaseQuantization;
pub use foreign::{
    CacheTensor, CacheUse, ForeignGraph, ForeignGraphs, GraphFacts, IntegerInput, LogitsOf,
};
pub use manifest::{
    AdapterSummary, DecodeReads, HERE, LayerState, Manifest, ManifestError, PromptKind,
};
pub use portable::{FileDigest, Portable, PortableAdapter, Sample};
pub use precision::Precision;
pub use quantization::{QUANTIZED, QuantizationSummary, REPACKED};
pub use variant::Variant;

use crate::adapter::Task;

/// File name of the graph.
pub const GRAPH: &str = "model.onnx";
/// File name of the tensors that are bound to the inputs of an unmerged graph.
pub const ADAPTER: &str = "adapter.safetensors";
/// File name of the residual weights: the quantized weights without the part that the adapter
/// trains.
pub const RESIDUALS: &str = "residuals.safetensors";

/// A prepared variant, ready to run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PreparedVariant {
    /// Its folder.
    pub folder: PathBuf,
    /// Its manifest.
    pub manifest: Manifest,
    /// Whether it existed already and nothing had to be made.
    pub up_to_date: bool,
}

/// The task that the `variants` of an experiment were prepared for, if the adapter has tasks.
pub fn task_of(variants: &[PreparedVariant]) -> Option<Task> {
    let mut adapters = variants
        .iter()
        .filter_map(|one| one.manifest.adapter.as_ref());
    adapters.find_map(|adapter| adapter.task)
}

/// A placeholder for tests that read none of a variant's files.
#[cfg(test)]
pub(crate) fn stand_in(variant: Variant) -> PreparedVariant {
    let manifest = serde_json::json!({
        "version": "0", "fingerprint": "0", "variant": variant, "model_id": "m",
        "model_folder": "m", "synthetic": true, "dtype": "float32", "compute": "float32",
        "vocab_size": 2, "max_position_embeddings": 9, "embedding_dim": 2, "cache": [],
        "head_dim": 1, "base_params": 1, "base_bytes": 4,
        "prepare_seconds": 0.0,
        "reads": { "weight_bytes": 1, "adapter_bytes": 0, "cache_bytes_per_position": 0 }, "adapter": null,
    });
    PreparedVariant {
        folder: "nowhere".into(),
        manifest: serde_json::from_value(manifest).unwrap(),
        up_to_date: true,
    }
}
