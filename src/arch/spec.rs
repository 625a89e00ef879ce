//! What a decoder consists of, as data.
//!
//! Every module has two names: `path`, its place in the model that adapters address
//! (`model.layers.0.self_attn.q_proj`), and `source`, the checkpoint's module whose tensors it uses.
//! They differ where layers are replicated, and for a head that is tied to the embedding.

use super::RotarySpec;
use super::heads::Heads;
use crate::json_object::{ConfigError, JsonObject};

/// A decoder-only language model.
#[derive(Debug, Clone)]
pub struct DecoderSpec {
    /// `model_type` of `config.json`.
    pub model_type: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Rows of the embedding and of the head.
    pub vocab_size: usize,
    /// Positions that the model was made for, or fewer where only those are supported.
    pub max_position_embeddings: usize,
    /// Why there are no more, where the model was made for more.
    pub positions_end: Option<&'static str>,
    /// The first part of every checkpoint name that some checkpoints leave out (`model.`).
    pub base_prefix: &'static str,
    /// Modules that checkpoints may have under another name, with that name.
    pub other_names: &'static [(&'static str, &'static str)],
    /// Token embedding.
    pub embed_tokens: Embedding,
    /// What embeddings are multiplied by.
    pub embedding_scale: Option<EmbeddingScale>,
    /// A learned row for each position, added to the embedding.
    pub learned_positions: Option<LearnedPositions>,
    /// A norm of the embedding, before the first layer.
    pub embedding_norm: Option<Norm>,
    /// From the embedding's width to `hidden_size`, where they differ.
    pub project_in: Option<Linear>,
    /// One entry a layer.
    pub layers: Vec<Layer>,
    /// The norm behind the last layer.
    pub final_norm: Option<Norm>,
    /// From `hidden_size` back to the embedding's width.
    pub project_out: Option<Linear>,
    /// From hidden states to logits. Tied: its source is the embedding's.
    pub lm_head: Linear,
    /// Logits are multiplied by this.
    pub logit_scale: Option<f64>,
    /// Logits, scaled, become `cap * tanh(logits / cap)`.
    pub logit_softcap: Option<f64>,
}

/// A factor of the token embeddings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum EmbeddingScale {
    /// Of what the table gives: virtual tokens are left as they are.
    Rows(f64),
    /// Of everything, virtual tokens too.
    All(f64),
}

/// A table with a row a position: row `position + offset` is added to the embedding.
#[derive(Debug, Clone)]
pub struct LearnedPositions {
    /// The table.
    pub table: Embedding,
    /// Rows before the first position.
    pub offset: usize,
}

/// One layer: attention and a multilayer perceptron.
#[derive(Debug, Clone)]
pub struct Layer {
    /// `model.layers.0`
    pub path: String,
    /// Self-attention.
    pub attention: Attention,
    /// The perceptron.
    pub mlp: Mlp,
    /// How the two, their norms and the residual stream are put together.
    pub arrangement: Arrangement,
    /// What attention and perceptron give is multiplied by this before it's added to the residual.
    pub residual_scale: Option<f64>,
}

/// A layer's norms, and where they stand.
#[derive(Debug, Clone)]
pub enum Arrangement {
    /// `h = x + attention(norm(x))`, `y = h + mlp(norm(h))`
    Before {
        /// Before attention.
        attention: Norm,
        /// Before the perceptron.
        mlp: Norm,
    },
    /// The same with `norm(x)` in place of `x` as the residual: `n = norm(x)`, `h = n + attention(n)`, and so
    /// on.
    NormedResidual {
        /// Before attention.
        attention: Norm,
        /// Before the perceptron.
        mlp: Norm,
    },
    /// `h = norm(x + attention(x))`, `y = norm(h + mlp(h))`
    AfterResidual {
        /// Behind attention's residual.
        attention: Norm,
        /// Behind the perceptron's residual.
        mlp: Norm,
    },
    /// `h = x + norm(attention(x))`, `y = h + norm(mlp(h))`
    After {
        /// Behind attention.
        attention: Norm,
        /// Behind the perceptron.
        mlp: Norm,
    },
    /// `h = x + norm(attention(norm(x)))`, `y = h + norm(mlp(norm(h)))`
    Around {
        /// Before and behind attention.
        attention: [Norm; 2],
        /// Before and behind the perceptron.
        mlp: [Norm; 2],
    },
    /// `y = x + attention(norm(x)) + mlp(norm(x))`
    Parallel {
        /// Before attention, and before the perceptron if that has none of its own.
        attention: Norm,
        /// Before the perceptron.
        mlp: Option<Norm>,
    },
}

impl Arrangement {
    /// Its norms, in the order in which they're computed.
    pub fn norms(&self) -> Vec<&Norm> {
        match self {
            Self::Before { attention, mlp }
            | Self::NormedResidual { attention, mlp }
            | Self::AfterResidual { attention, mlp }
            | Self::After { attention, mlp } => vec![attention, mlp],
            Self::Around { attention, mlp } => attention.iter().chain(mlp).collect(),
            Self::Parallel { attention, mlp } => [attention].into_iter().chain(mlp).collect(),
        }
    }

    /// The same, to change them.
    pub fn norms_mut(&mut self) -> Vec<&mut Norm> {
        match self {
            Self::Before { attention, mlp }
            | Self::NormedResidual { attention, mlp }
            | Self::AfterResidual { attention, mlp }
            | Self::After { attention, mlp } => vec![attention, mlp],
            Self::Around { attention, mlp } => attention.iter_mut().chain(mlp).collect(),
            Self::Parallel { attention, mlp } => [attention].into_iter().chain(mlp).collect(),
        }
    }
}

/// Self-attention with grouped queries: `num_attention_heads / num_key_value_heads` query heads
/// share a key and a value head.
#[derive(Debug, Clone)]
pub struct Attention {
    /// Queries, keys and values.
    pub projections: Projections,
    /// `[hidden_size, num_attention_heads * head_dim]`
    pub o_proj: Linear,
    /// How Transformers orders the projections.
    pub declared: Declared,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads.
    pub num_key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Queries, keys and values are cut off at ± this, behind the norms.
    pub clip: Option<f64>,
    /// Norms of queries and of keys, before they're turned by their positions.
    pub query_key_norms: Option<[HeadNorm; 2]>,
    /// How scores depend on places.
    pub position: Position,
    /// A token sees itself and those before it, so many in all.
    pub window: Option<usize>,
    /// Scores are multiplied by this before the softmax.
    pub scale: f64,
    /// Scores, scaled, become `cap * tanh(scores / cap)`.
    pub softcap: Option<f64>,
}

/// Where queries, keys and values come from.
#[derive(Debug, Clone)]
pub enum Projections {
    /// A projection each.
    Separate {
        /// `[num_attention_heads * head_dim, hidden_size]`
        query: Linear,
        /// `[num_key_value_heads * head_dim, hidden_size]`
        key: Linear,
        /// `[num_key_value_heads * head_dim, hidden_size]`
        value: Linear,
    },
    /// One projection, `[(num_attention_heads + 2 * num_key_value_heads) * head_dim, hidden_size]`.
    Fused {
        /// The projection.
        qkv: Linear,
        /// What its rows are.
        rows: FusedRows,
    },
}

/// The order of a fused projection's rows, head by head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FusedRows {
    /// All queries, all keys, all values.
    Kinds,
    /// For each key head: the queries that share it, the key, the value.
    Groups,
}

/// A norm of queries or keys.
#[derive(Debug, Clone)]
pub struct HeadNorm {
    /// The norm: over a head, or over a whole projection.
    pub norm: Norm,
    /// How its parameters belong to heads.
    pub over: NormOver,
}

/// What a norm of queries or keys is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormOver {
    /// Each head, with the same parameters, `[head_dim]`.
    Head,
    /// Each head, with parameters of its own, `[heads, head_dim]`.
    HeadWithOwnWeight,
    /// The whole projection, `[heads * head_dim]`.
    Projection,
}

/// How attention scores depend on the places of query and key.
#[derive(Debug, Clone, PartialEq)]
pub enum Position {
    /// Not at all: positions are added to the embedding, or there are none.
    None,
    /// Queries and keys are turned.
    Rotary(RotarySpec),
    /// `slope * (key's place - query's place)` is added to a head's scores, one slope a head.
    Alibi(Vec<f32>),
}

/// The order in which Transformers declares an attention's projections. Adapters whose tensors are shared
/// or drawn module by module go by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Declared {
    /// Query, key, value, output.
    QueryFirst,
    /// Key, value, query, output.
    KeyFirst,
    /// Output, then the others.
    OutputFirst,
}

impl Attention {
    /// Attention over `heads` without anything special.
    pub(super) fn new(heads: Heads, projections: Projections, o_proj: Linear) -> Self {
        Self {
            projections,
            o_proj,
            declared: Declared::QueryFirst,
            num_attention_heads: heads.queries,
            num_key_value_heads: heads.keys,
            head_dim: heads.width,
            clip: None,
            query_key_norms: None,
            position: Position::None,
            window: None,
            scale: heads.scale(),
            softcap: None,
        }
    }

    /// Its place in the model: what its projections are below.
    pub fn path(&self) -> &str {
        let path = &self.o_proj.path;
        path.rsplit_once('.')
            .map_or(path, |(attention, _)| attention)
    }

    /// The projections, as Transformers orders them.
    pub fn linears(&self) -> Vec<&Linear> {
        let o = &self.o_proj;
        match (&self.projections, self.declared) {
            (Projections::Separate { query, key, value }, Declared::KeyFirst) => {
                vec![key, value, query, o]
            }
            (Projections::Separate { query, key, value }, _) => vec![query, key, value, o],
            (Projections::Fused { qkv, .. }, Declared::OutputFirst) => vec![o, qkv],
            (Projections::Fused { qkv, .. }, _) => vec![qkv, o],
        }
    }

    /// The same, to change them, in no particular order.
    pub fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let mut all = match &mut self.projections {
            Projections::Separate { query, key, value } => vec![query, key, value],
            Projections::Fused { qkv, .. } => vec![qkv],
        };
        all.push(&mut self.o_proj);
        all
    }
}

/// A multilayer perceptron.
#[derive(Debug, Clone)]
pub enum Mlp {
    /// `down_proj(act(gate_proj(x)) * up_proj(x))`
    Gated {
        /// `[intermediate_size, hidden_size]`
        gate_proj: Linear,
        /// `[intermediate_size, hidden_size]`
        up_proj: Linear,
        /// `[hidden_size, intermediate_size]`
        down_proj: Linear,
        /// On the gate.
        activation: Activation,
    },
    /// The same with gate and up in one projection.
    GatedFused {
        /// `[2 * intermediate_size, hidden_size]`: the rows of the gate, then those of up.
        gate_up_proj: Linear,
        /// `[hidden_size, intermediate_size]`
        down_proj: Linear,
        /// On the gate.
        activation: Activation,
    },
    /// The sum of some experts' outputs, each times the weight that the router gives it.
    Experts {
        /// `[experts, hidden_size]`
        router: Linear,
        /// All of them.
        experts: Vec<Expert>,
        /// How many a token goes through.
        per_token: usize,
        /// Whether their weights, a softmax over all experts, are divided by their sum.
        normalised: bool,
        /// On each gate.
        activation: Activation,
    },
    /// `fc2(act(fc1(x)))`
    Plain {
        /// `[intermediate_size, hidden_size]`
        fc1: Linear,
        /// `[hidden_size, intermediate_size]`
        fc2: Linear,
        /// Between the two.
        activation: Activation,
    },
}

/// One of the perceptrons that a router picks from: `down_proj(act(gate_proj(x)) * up_proj(x))`. Transformers holds all
/// experts of a layer in one tensor, so that they are no modules that an adapter could address.
#[derive(Debug, Clone)]
pub struct Expert {
    /// `[intermediate_size, hidden_size]`
    pub gate_proj: Linear,
    /// `[intermediate_size, hidden_size]`
    pub up_proj: Linear,
    /// `[hidden_size, intermediate_size]`
    pub down_proj: Linear,
}

/// An element-wise function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`
    Silu,
    /// `max(x, 0)`
    Relu,
    /// `x/2 * (1 + erf(x / sqrt(2)))`
    Gelu,
    /// `x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))`
    GeluTanh,
}

impl Activation {
    /// The activation that Transformers calls `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "silu" | "swish" => Some(Self::Silu),
            "relu" => Some(Self::Relu),
            "gelu" => Some(Self::Gelu),
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Some(Self::GeluTanh),
            _ => None,
        }
    }

    /// Names for messages.
    pub const NAMES: &'static str =
        "one of silu, relu, gelu, gelu_new, gelu_fast, gelu_pytorch_tanh";
}

/// `y = W x + b`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linear {
    /// Place in the model.
    pub path: String,
    /// Module of the checkpoint whose tensors it uses.
    pub source: String,
    /// Columns of the weight.
    pub in_features: usize,
    /// Rows of the weight.
    pub out_features: usize,
    /// Whether the checkpoint has a bias.
    pub bias: bool,
    /// How the checkpoint stores `W`.
    pub stored: Stored,
    /// The key of `config.json` that gives it a bias, and others with it.
    pub bias_key: Option<&'static str>,
}

impl Linear {
    /// A layer whose tensors have its own name, as most checkpoints store it.
    pub fn new(path: String, out_features: usize, in_features: usize, bias: bool) -> Self {
        Self {
            source: path.clone(),
            path,
            in_features,
            out_features,
            bias,
            stored: Stored::OutIn,
            bias_key: None,
        }
    }

    /// The same with the key that gives it a bias.
    pub fn with_bias_key(self, key: &'static str) -> Self {
        Self {
            bias_key: Some(key),
            ..self
        }
    }
}

/// How a checkpoint stores the weight of a linear layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// `[out_features, in_features]`, PyTorch's `Linear`.
    OutIn,
    /// `[in_features, out_features]`, Transformers' `Conv1D`.
    InOut,
}

/// A table with a row a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Embedding {
    /// Place in the model.
    pub path: String,
    /// Module of the checkpoint whose tensor it uses.
    pub source: String,
    /// Rows.
    pub num_embeddings: usize,
    /// Width of a row.
    pub embedding_dim: usize,
}

/// Normalisation over the last axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Norm {
    /// Place in the model.
    pub path: String,
    /// Module of the checkpoint whose tensors it uses.
    pub source: String,
    /// Width.
    pub size: usize,
    /// Which one.
    pub kind: NormKind,
    /// Added to the variance.
    pub epsilon: f64,
}

/// Which normalisation, and which parameters it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// `x / sqrt(mean(x^2) + eps) * weight`
    Rms,
    /// `x / sqrt(mean(x^2) + eps) * (1 + weight)`
    RmsPlusOne,
    /// `(x - mean(x)) / sqrt(var(x) + eps) * weight + bias`
    Layer,
    /// The same without bias.
    LayerWithoutBias,
    /// The same without weight and bias.
    LayerWithoutParameters,
}

impl NormKind {
    /// Names of its parameters.
    pub fn parameters(self) -> &'static [&'static str] {
        match self {
            Self::Rms | Self::RmsPlusOne | Self::LayerWithoutBias => &["weight"],
            Self::Layer => &["weight", "bias"],
            Self::LayerWithoutParameters => &[],
        }
    }
}

/// A module with parameters, as adapters see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Module {
    /// Place in the model.
    pub path: String,
    /// Module of the checkpoint whose tensors it uses.
    pub source: String,
    /// What it is.
    pub kind: ModuleKind,
}

/// What a module is.
#[derive(Debug, Clone, PartialEq)]
pub enum ModuleKind {
    /// A linear layer.
    Linear {
        /// Columns of the weight.
        in_features: usize,
        /// Rows of the weight.
        out_features: usize,
        /// Whether the base has a bias.
        bias: bool,
        /// How the checkpoint stores the weight.
        stored: Stored,
    },
    /// The token embedding, or another table.
    Embedding {
        /// Rows.
        num_embeddings: usize,
        /// Width of a row.
        embedding_dim: usize,
    },
    /// A matrix of a router or an expert, `[out_features, in_features]`, which Transformers has no linear layer for.
    Routed {
        /// Columns of the weight.
        in_features: usize,
        /// Rows of the weight.
        out_features: usize,
        /// How many of so many are read for a token.
        share: [usize; 2],
    },
    /// A normalisation.
    Norm {
        /// Shape of its parameters: its width, or heads and their width.
        shape: Vec<usize>,
        /// Which one.
        kind: NormKind,
    },
}

impl Module {
    /// Names of its parameters and their shapes as the checkpoint stores them, `weight` first.
    pub fn parameters(&self) -> Vec<(&'static str, Vec<usize>)> {
        match &self.kind {
            &ModuleKind::Linear {
                in_features,
                out_features,
                bias,
                stored,
            } => {
                let shape = match stored {
                    Stored::OutIn => vec![out_features, in_features],
                    Stored::InOut => vec![in_features, out_features],
                };
                let mut all = vec![("weight", shape)];
                if bias {
                    all.push(("bias", vec![out_features]));
                }
                all
            }
            &ModuleKind::Embedding {
                num_embeddings,
                embedding_dim,
            } => vec![("weight", vec![num_embeddings, embedding_dim])],
            &ModuleKind::Routed {
                in_features,
                out_features,
                ..
            } => vec![("weight", vec![out_features, in_features])],
            ModuleKind::Norm { shape, kind } => kind
                .parameters()
                .iter()
                .map(|&name| (name, shape.clone()))
                .collect(),
        }
    }

    /// Whether it's a linear layer that is stored as `[in_features, out_features]`.
    pub fn is_stored_in_out(&self) -> bool {
        matches!(
            self.kind,
            ModuleKind::Linear {
                stored: Stored::InOut,
                ..
            }
        )
    }
}

impl Embedding {
    /// A table whose tensor has its own name.
    pub fn new(path: &str, num_embeddings: usize, embedding_dim: usize) -> Self {
        Self {
            path: path.to_owned(),
            source: path.to_owned(),
            num_embeddings,
            embedding_dim,
        }
    }
}

impl Norm {
    /// A norm whose tensors have its own name.
    pub fn new(path: String, size: usize, kind: NormKind, epsilon: f64) -> Self {
        Self {
            source: path.clone(),
            path,
            size,
            kind,
            epsilon,
        }
    }
}

impl Linear {
    /// The same as adapters see it.
    pub fn module(&self) -> Module {
        Module {
            path: self.path.clone(),
            source: self.source.clone(),
            kind: ModuleKind::Linear {
                in_features: self.in_features,
                out_features: self.out_features,
                bias: self.bias,
                stored: self.stored,
            },
        }
    }
}

impl Embedding {
    fn module(&self) -> Module {
        Module {
            path: self.path.clone(),
            source: self.source.clone(),
            kind: ModuleKind::Embedding {
                num_embeddings: self.num_embeddings,
                embedding_dim: self.embedding_dim,
            },
        }
    }
}

impl Norm {
    fn module(&self) -> Module {
        Module {
            path: self.path.clone(),
            source: self.source.clone(),
            kind: ModuleKind::Norm {
                shape: vec![self.size],
                kind: self.kind,
            },
        }
    }
}

impl HeadNorm {
    fn module(&self, heads: usize) -> Module {
        let mut module = self.norm.module();
        if let (NormOver::HeadWithOwnWeight, ModuleKind::Norm { shape, .. }) =
            (self.over, &mut module.kind)
        {
            shape.insert(0, heads);
        }
        module
    }
}

impl Mlp {
    /// Its router and experts, if it has them.
    fn routed(&self) -> Vec<Module> {
        let Self::Experts {
            router,
            experts,
            per_token,
            ..
        } = self
        else {
            return Vec::new();
        };
        let module = |linear: &Linear, share: [usize; 2]| Module {
            path: linear.path.clone(),
            source: linear.source.clone(),
            kind: ModuleKind::Routed {
                in_features: linear.in_features,
                out_features: linear.out_features,
                share,
            },
        };
        let share = [*per_token, experts.len()];
        let inner = experts
            .iter()
            .flat_map(|expert| [&expert.gate_proj, &expert.up_proj, &expert.down_proj]);
        let all = inner.map(|linear| module(linear, share));
        [module(router, [1, 1])].into_iter().chain(all).collect()
    }

    /// Its linear layers that adapters may address, in order.
    pub fn linears(&self) -> Vec<&Linear> {
        match self {
            Self::Experts { .. } => Vec::new(),
            Self::Gated {
                gate_proj,
                up_proj,
                down_proj,
                ..
            } => vec![gate_proj, up_proj, down_proj],
            Self::GatedFused {
                gate_up_proj,
                down_proj,
                ..
            } => vec![gate_up_proj, down_proj],
            Self::Plain { fc1, fc2, .. } => vec![fc1, fc2],
        }
    }

    /// All its layers, to change them.
    pub fn linears_mut(&mut self) -> Vec<&mut Linear> {
        match self {
            Self::Experts {
                router, experts, ..
            } => experts
                .iter_mut()
                .flat_map(|expert| {
                    [
                        &mut expert.gate_proj,
                        &mut expert.up_proj,
                        &mut expert.down_proj,
                    ]
                })
                .chain([router])
                .collect(),
            Self::Gated {
                gate_proj,
                up_proj,
                down_proj,
                ..
            } => vec![gate_proj, up_proj, down_proj],
            Self::GatedFused {
                gate_up_proj,
                down_proj,
                ..
            } => vec![gate_up_proj, down_proj],
            Self::Plain { fc1, fc2, .. } => vec![fc1, fc2],
        }
    }
}

impl DecoderSpec {
    /// A decoder of these parts and nothing else; the residual stream is as wide as the embedding.
    pub(super) fn plain(
        config: &JsonObject,
        max_position_embeddings: usize,
        embed_tokens: Embedding,
        layers: Vec<Layer>,
        lm_head: Linear,
    ) -> Result<Self, ConfigError> {
        Ok(Self {
            model_type: config.optional_text("model_type")?.unwrap_or("").to_owned(),
            hidden_size: embed_tokens.embedding_dim,
            vocab_size: embed_tokens.num_embeddings,
            max_position_embeddings,
            positions_end: None,
            base_prefix: "",
            other_names: &[],
            embed_tokens,
            embedding_scale: None,
            learned_positions: None,
            embedding_norm: None,
            project_in: None,
            layers,
            final_norm: None,
            project_out: None,
            lm_head,
            logit_scale: None,
            logit_softcap: None,
        })
    }

    /// Whether head and embedding share one tensor.
    pub fn tied(&self) -> bool {
        self.lm_head.source == self.embed_tokens.source
    }

    /// All modules with parameters (and norms without any), embedding first, head last. Linear layers are in
    /// Transformers' order.
    pub fn modules(&self) -> Vec<Module> {
        let mut all = vec![self.embed_tokens.module()];
        all.extend(self.learned_positions.iter().map(|p| p.table.module()));
        all.extend(self.embedding_norm.iter().map(Norm::module));
        all.extend(self.project_out.iter().map(Linear::module));
        all.extend(self.project_in.iter().map(Linear::module));
        for layer in &self.layers {
            let attention = &layer.attention;
            all.extend(attention.linears().into_iter().map(Linear::module));
            if let Some([query, key]) = &attention.query_key_norms {
                all.push(query.module(attention.num_attention_heads));
                all.push(key.module(attention.num_key_value_heads));
            }
            all.extend(layer.mlp.linears().into_iter().map(Linear::module));
            all.extend(layer.mlp.routed());
            all.extend(layer.arrangement.norms().into_iter().map(Norm::module));
        }
        all.extend(self.final_norm.iter().map(Norm::module));
        all.push(self.lm_head.module());
        all
    }

    /// The linear layers, in no particular order.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        let layers = self.layers.iter();
        let inner = layers
            .flat_map(|layer| [layer.attention.linears(), layer.mlp.linears()])
            .flatten();
        let outer = [&self.project_in, &self.project_out];
        inner
            .chain(outer.into_iter().flatten())
            .chain([&self.lm_head])
    }
}
