//! ONNX graphs, built block by block.
//!
//! Inputs and outputs have the names that Optimum and onnxruntime-genai use;
//! [`decoder`](decoder::build) lists them. Node names contain the checkpoint's module paths, so
//! that a node in a profile can be traced to its weight.

mod activation;
mod adaptation;
mod alibi;
mod arithmetic;
mod attention;
mod before_layers;
mod builder;
mod decoder;
mod experts;
mod external_data;
pub mod lengths;
mod linear;
mod mask;
mod mlp;
mod norm;
mod parameters;
mod pass;
mod per_layer;
mod positions;
pub mod proto;
mod recurrence;
mod role;
mod router;
mod sparse_mlp;
mod streams;
mod unequal_lengths;

pub use adaptation::{Adaptation, Carried};
pub use arithmetic::{Arithmetic, Device};
pub use attention::{AbsorbedChange, AttentionOperator, AttentionPlace, AttentionSite, cache_size};
pub use before_layers::BeforeLayers;
pub use builder::{Attr, Dim, GraphBuilder, Scope, Value};
pub use decoder::build;
pub use linear::{EmbeddingSite, ExpertSite, LinearSite};
pub use parameters::{Parameter, Parameters};
pub use pass::{ACTIVE_FROM_INPUT, Export, PROMPT_INPUT, ROTARY_LENGTH};
pub use role::{Length, Projection, Role, Special};
pub use unequal_lengths::{for_one_length, for_unequal_lengths};
