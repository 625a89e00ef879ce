//! Architectures as data: `config.json` becomes a [`DecoderSpec`], and one builder reads it.
//!
//! A new architecture is a new value; a new operator is a new block in `graph` and a variant here.

mod alibi;
mod attention;
mod bloom;
mod change;
mod cohere;
mod experts;
mod falcon;
mod families;
mod gemma;
mod gemma2;
mod gemma3;
mod gpt2;
mod gpt_neox;
mod gptj;
mod granite;
mod heads;
mod llama;
mod mistral;
mod mixtral;
mod mlp;
mod module;
mod mpt;
mod names;
mod olmo;
mod olmo2;
mod olmoe;
mod opt;
mod phi;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_moe;
mod read;
mod rope;
mod smollm3;
mod spec;
mod stablelm;
mod starcoder2;
mod windows;
mod wrappers;

pub use attention::{Attention, Declared, FusedRows, HeadNorm, NormOver, Position, Projections};
pub use families::{FAMILIES, Family, spec};
pub use mlp::{Activation, Expert, Mlp};
pub use module::{Embedding, Linear, Module, ModuleKind, Norm, NormKind, Stored};
pub use names::bare;
pub use rope::{Pairs, RotarySpec};
pub use spec::{Arrangement, DecoderSpec, EmbeddingScale, Layer, LearnedPositions, Tower};
pub use wrappers::{Text, WRAPPERS, Wrapper, locate};

/// No model has more layers; each is described before the weights are looked at.
const MOST_LAYERS: usize = 1 << 12;
