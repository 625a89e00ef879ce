//! What a decoder consists of, as data.
//!
//! Every module has two names: `path`, its place in the model that adapters address
//! (`model.layers.0.self_attn.q_proj`), and `source`, the checkpoint's module whose tensors it uses.
//! They differ where layers are replicated, and for a head that is tied to the embedding.

use super::RotarySpec;

/// A decoder-only language model.
#[derive(Debug, Clone)]
pub struct DecoderSpec {
    /// `model_type` of `config.json`.
    pub model_type: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Rows of the embedding and of the head.
    pub vocab_size: usize,
    /// Positions that the model was made for.
    pub max_position_embeddings: usize,
    /// The first part of every checkpoint name that some checkpoints leave out (`model.`).
    pub base_prefix: &'static str,
    /// Token embedding.
    pub embed_tokens: Embedding,
    /// How a token's place is told.
    pub positions: Positions,
    /// From the embedding's width to `hidden_size`, where they differ.
    pub project_in: Option<Linear>,
    /// One entry a layer.
    pub layers: Vec<Layer>,
    /// Where the norms stand.
    pub norm_placement: NormPlacement,
    /// The norm behind the last layer.
    pub final_norm: Option<Norm>,
    /// From `hidden_size` back to the embedding's width.
    pub project_out: Option<Linear>,
    /// From hidden states to logits. Tied: its source is the embedding's.
    pub lm_head: Linear,
}

/// One layer: attention, then a multilayer perceptron, each with a norm and a residual.
#[derive(Debug, Clone)]
pub struct Layer {
    /// `model.layers.0`
    pub path: String,
    /// Self-attention.
    pub attention: Attention,
    /// Its norm.
    pub attention_norm: Norm,
    /// The perceptron.
    pub mlp: Mlp,
    /// Its norm.
    pub mlp_norm: Norm,
}

/// Self-attention with grouped queries: `num_attention_heads / num_key_value_heads` query heads
/// share a key and a value head.
#[derive(Debug, Clone)]
pub struct Attention {
    /// `[num_attention_heads * head_dim, hidden_size]`
    pub q_proj: Linear,
    /// `[num_key_value_heads * head_dim, hidden_size]`
    pub k_proj: Linear,
    /// `[num_key_value_heads * head_dim, hidden_size]`
    pub v_proj: Linear,
    /// `[hidden_size, num_attention_heads * head_dim]`
    pub o_proj: Linear,
    /// How Transformers orders the four.
    pub declared: Declared,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads.
    pub num_key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Scores are multiplied by this before the softmax.
    pub scale: f64,
}

/// The order in which Transformers declares an attention's projections. Adapters whose tensors are shared
/// or drawn module by module go by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Declared {
    /// Query, key, value, output.
    QueryFirst,
    /// Key, value, query, output.
    KeyFirst,
}

impl Attention {
    /// The projections, as Transformers orders them.
    pub fn linears(&self) -> [&Linear; 4] {
        let (q, k, v, o) = (&self.q_proj, &self.k_proj, &self.v_proj, &self.o_proj);
        match self.declared {
            Declared::QueryFirst => [q, k, v, o],
            Declared::KeyFirst => [k, v, q, o],
        }
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
            "gelu_new" | "gelu_pytorch_tanh" => Some(Self::GeluTanh),
            _ => None,
        }
    }

    /// Names for messages.
    pub const NAMES: &'static str = "one of silu, relu, gelu, gelu_new, gelu_pytorch_tanh";
}

/// `y = W x + b`, with `W` stored as `[out_features, in_features]`.
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
    /// `(x - mean(x)) / sqrt(var(x) + eps) * weight + bias`
    Layer,
    /// The same without weight and bias.
    LayerWithoutParameters,
}

impl NormKind {
    /// Names of its parameters.
    pub fn parameters(self) -> &'static [&'static str] {
        match self {
            Self::Rms => &["weight"],
            Self::Layer => &["weight", "bias"],
            Self::LayerWithoutParameters => &[],
        }
    }
}

/// Where the norms of a layer stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormPlacement {
    /// `x + sublayer(norm(x))`
    BeforeSublayer,
    /// `norm(x + sublayer(x))`
    AfterResidual,
}

/// How a token's place is told.
#[derive(Debug, Clone)]
pub enum Positions {
    /// Rotary embedding of queries and keys.
    Rotary(RotarySpec),
    /// A learned row is added to the embedding: row `position + offset`.
    Learned {
        /// The table.
        table: Embedding,
        /// Rows before the first position.
        offset: usize,
    },
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
    },
    /// The token embedding, or another table.
    Embedding {
        /// Rows.
        num_embeddings: usize,
        /// Width of a row.
        embedding_dim: usize,
    },
    /// A normalisation.
    Norm {
        /// Width.
        size: usize,
        /// Which one.
        kind: NormKind,
    },
}

impl Module {
    /// Names and shapes of its parameters, `weight` first.
    pub fn parameters(&self) -> Vec<(&'static str, Vec<usize>)> {
        match self.kind {
            ModuleKind::Linear {
                in_features,
                out_features,
                bias,
            } => {
                let mut all = vec![("weight", vec![out_features, in_features])];
                if bias {
                    all.push(("bias", vec![out_features]));
                }
                all
            }
            ModuleKind::Embedding {
                num_embeddings,
                embedding_dim,
            } => vec![("weight", vec![num_embeddings, embedding_dim])],
            ModuleKind::Norm { size, kind } => kind
                .parameters()
                .iter()
                .map(|&name| (name, vec![size]))
                .collect(),
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
                size: self.size,
                kind: self.kind,
            },
        }
    }
}

impl Mlp {
    /// Its linear layers, in order.
    pub fn linears(&self) -> Vec<&Linear> {
        match self {
            Self::Gated {
                gate_proj,
                up_proj,
                down_proj,
                ..
            } => vec![gate_proj, up_proj, down_proj],
            Self::Plain { fc1, fc2, .. } => vec![fc1, fc2],
        }
    }

    /// The same, to change them.
    pub fn linears_mut(&mut self) -> Vec<&mut Linear> {
        match self {
            Self::Gated {
                gate_proj,
                up_proj,
                down_proj,
                ..
            } => vec![gate_proj, up_proj, down_proj],
            Self::Plain { fc1, fc2, .. } => vec![fc1, fc2],
        }
    }
}

impl DecoderSpec {
    /// Whether head and embedding share one tensor.
    pub fn tied(&self) -> bool {
        self.lm_head.source == self.embed_tokens.source
    }

    /// All modules with parameters (and norms without any), embedding first, head last. Linear layers are in
    /// Transformers' order.
    pub fn modules(&self) -> Vec<Module> {
        let mut all = vec![self.embed_tokens.module()];
        if let Positions::Learned { table, .. } = &self.positions {
            all.push(table.module());
        }
        all.extend(self.project_out.iter().map(Linear::module));
        all.extend(self.project_in.iter().map(Linear::module));
        for layer in &self.layers {
            all.extend(layer.attention.linears().map(Linear::module));
            all.extend(layer.mlp.linears().into_iter().map(Linear::module));
            all.push(layer.attention_norm.module());
            all.push(layer.mlp_norm.module());
        }
        all.extend(self.final_norm.iter().map(Norm::module));
        all.push(self.lm_head.module());
        all
    }
}
