//! ONNX graphs, built block by block.
//!
//! The graph's inputs and outputs are named as Optimum and onnxruntime-genai name them; see
//! [`decoder`](decoder::build) for the list. Node names repeat the checkpoint's path, so that a node in
//! a profile leads to its weight.

mod activation;
mod alibi;
mod arithmetic;
mod attention;
mod builder;
mod decoder;
mod experts;
mod export;
pub mod lengths;
mod linear;
mod mask;
mod mlp;
mod norm;
mod parameters;
mod positions;
pub mod proto;

pub use arithmetic::Arithmetic;
pub use attention::{AttentionOperator, AttentionSite};
pub use builder::{Attr, Dim, GraphBuilder, LAST_POSITION, Value};
pub use decoder::{build, cache_head_dim};
pub use export::{ACTIVE_FROM_INPUT, Export, PROMPT_INPUT, ROTARY_LENGTH};
pub use linear::{EmbeddingSite, LinearSite, RoutedSite};
pub use parameters::{Parameter, Parameters, find_base_tensor, find_whole_tensor};
