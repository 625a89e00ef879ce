//! Merge PEFT adapters, export ONNX graphs and measure what an adapter costs at inference.
//!
//! ```text
//! experiments/<method>/<name>/   adapter_config.json [adapter_model.safetensors] [benchmark_params.json]
//! base model                     hub id, local folder, or synthetic/<shape>
//!     ▼ merge      overlay.safetensors: the touched tensors and no others
//!     ▼ export     model.onnx: its weights are references into safetensors files
//!     ▼ measure    one worker process a variant, interleaved; time, memory
//! results/<method>--<name>--<model>--<dtype>--<provider>.json
//! ```

pub mod adapter;
pub mod advice;
pub mod arch;
pub mod cache_dir;
pub mod cli;
pub mod config;
pub mod decomposition;
pub mod engine;
pub mod experiment;
mod file_names;
pub mod graph;
mod json_check;
pub mod json_object;
mod logits;
pub mod measure;
pub mod model;
pub mod prepare;
pub mod prompts;
pub mod quantize;
pub mod random;
pub mod results;
pub mod runtime;
pub mod system;
pub mod verify;
pub mod weights;
