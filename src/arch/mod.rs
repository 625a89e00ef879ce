//! Architectures as data: `config.json` becomes a [`DecoderSpec`], and one builder reads it.
//!
//! A new architecture is a new value of these types; a new operator is a new block in `graph` and a
//! variant here.

mod alibi;
mod arrangement;
mod attention;
mod experts;
mod families;
mod heads;
mod latent;
mod latent_cache;
mod layer_kinds;
mod mamba;
mod mlp;
mod module;
mod names;
mod per_layer;
mod read;
mod recurrence;
mod rope;
mod shared_keys;
mod spec;
mod spec_changes;
mod streams;
mod windows;
mod wrappers;

pub use alibi::Alibi;
pub use arrangement::{Arrangement, Residual, SublayerNorms};
pub use attention::{
    Attention, Declared, FusedRows, HeadNorm, NormOrder, NormOver, Position, Projections,
    PromptAttention, QueryScale,
};
pub use experts::{
    Apart, Expert, ExpertInner, GateUpRows, Glu, GroupScore, Groups, Mixture, Normalised, Router,
    RouterModule, Scores, SharedExpert, StackNames, Weighs,
};
pub use families::{DefaultTargets, FAMILIES, Family, Shape, family, spec};
pub use latent::{LATENT_FAMILIES, Latent, LatentQuery};
pub use latent_cache::LatentCache;
pub use mlp::{Activation, Mlp};
pub use module::{Embedding, Linear, Module, ModuleKind, Norm, NormKind, PlainParameter, Stored};
pub use names::{bare, last_name};
pub use per_layer::{PerLayerEmbeddings, PerLayerInput};
pub use recurrence::{
    Convolution, DeltaProjections, GatedDelta, Gating, Mamba2, MambaScales, Recurrence,
    ShortConvolution, State, StateKind,
};
pub use rope::{LongFrequencies, Pairs, RotarySpec};
pub use spec::{DecoderSpec, EmbeddingScale, Layer, LearnedPositions, Tower};
pub use streams::{Alternation, Streams};
pub use wrappers::{Text, WRAPPERS, Wrapper, locate};

/// The most layers that are accepted: each one is described before the weights are checked.
const MOST_LAYERS: usize = 1 << 12;
