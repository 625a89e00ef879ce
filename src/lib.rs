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
//!
//! A [`Study`](study::Study) does all of it, as `peft-bench measure` does:
//!
//! ```no_run
//! use peft_bench::study::{Settings, Study, become_worker};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     // Each variant is measured in a process of its own: this program, started once more.
//!     if become_worker()? {
//!         return Ok(());
//!     }
//!     let study = Study {
//!         targets: vec!["experiments/lora/lora_r16".into()],
//!         settings: Settings {
//!             model: Some("synthetic/llama-135m".to_owned()),
//!             ..Settings::default()
//!         },
//!         ..Study::default()
//!     };
//!     for result in study.run(&mut ())? {
//!         println!("{}: {:?}", result.name, result.report.run_info.status);
//!     }
//!     Ok(())
//! }
//! ```

pub mod adapter;
pub mod advice;
pub mod arch;
pub mod cli;
pub mod config;
pub mod decomposition;
pub mod engine;
pub mod experiment;
mod file_names;
pub mod files;
pub mod graph;
pub mod json;
pub mod lowering;
pub mod machine;
pub mod measure;
pub mod model;
pub mod onnxruntime;
pub mod parity;
pub mod prepare;
pub mod prepared;
pub mod prompts;
pub mod quantize;
pub mod random;
pub mod report;
pub mod study;
pub mod system;
pub mod weights;
