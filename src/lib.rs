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

// What a user of the library needs.
pub mod adapter;
pub mod audit;
pub mod config;
pub mod convert;
pub mod engine;
pub mod experiment;
pub mod judge;
pub mod model;
pub mod prepare;
pub mod prepared;
pub mod prompts;
pub mod quantize;
pub mod report;
pub mod study;
pub mod weights;

// Public for the program, its tests and benches alone: these may change at any time.
#[doc(hidden)]
pub mod arch;
#[doc(hidden)]
pub mod cli;
#[doc(hidden)]
pub mod files;
#[doc(hidden)]
pub mod foreign;
#[doc(hidden)]
pub mod graph;
#[doc(hidden)]
pub mod lowering;
#[doc(hidden)]
pub mod machine;
#[doc(hidden)]
pub mod measure;
#[doc(hidden)]
pub mod onnxruntime;
#[doc(hidden)]
pub mod parity;
#[doc(hidden)]
pub mod portable;
#[doc(hidden)]
pub mod sweep;
#[doc(hidden)]
pub mod system;

mod advice;
mod decomposition;
mod file_names;
mod json;
mod random;
