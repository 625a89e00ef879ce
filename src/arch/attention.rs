//! Self-attention, as data.

use super::alibi::Alibi;
use super::heads::Heads;
use super::{Latent, Linear, Module, ModuleKind, Norm, PlainParameter, RotarySpec};

/// Grouped-query self-attention: `num_attention_heads / num_key_value_heads` query heads share a
/// key and a value head.
#[derive(Debug, Clone)]
pub struct Attention {
    /// Queries, keys and values.
    pub projections: Projections,
    /// `[hidden_size, num_attention_heads * head_dim]`
    pub o_proj: Linear,
    /// The order in which Transformers declares the projections.
    pub declared: Declared,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads.
    pub num_key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// The input is multiplied by this.
    pub input_scale: Option<f64>,
    /// Whether the query projection has as many more rows for a gate: the rows of each head's query
    /// are followed by those of its gate, by whose sigmoid the head's output is multiplied.
    pub gated: bool,
    /// Queries, keys and values are clamped to ± this value, after their norms.
    pub clip: Option<f64>,
    /// Norms of queries and of keys. The second one isn't used with keys of another layer.
    pub query_key_norms: Option<[HeadNorm; 2]>,
    /// Whether these norms come before or after the rotary embedding.
    pub norm_order: NormOrder,
    /// The norm of values.
    pub value_norm: Option<HeadNorm>,
    /// A factor for queries that depends on their positions.
    pub query_scale: Option<QueryScale>,
    /// How scores depend on positions.
    pub position: Position,
    /// A token attends to tokens of the same chunk of this many positions only.
    pub chunk: Option<usize>,
    /// Sliding window: a token attends to this many tokens, itself and those before it.
    pub window: Option<usize>,
    /// What a prompt's tokens attend to.
    pub prompt: PromptAttention,
    /// Scores are multiplied by this before the softmax.
    pub scale: f64,
    /// Scaled scores become `cap * tanh(scores / cap)`.
    pub softcap: Option<f64>,
    /// One number for each query head: a score that takes part in the softmax, of a key without a
    /// value.
    pub sinks: Option<PlainParameter>,
}

/// The projections of queries, keys and values.
#[derive(Debug, Clone)]
pub enum Projections {
    /// One projection for each.
    Separate {
        /// `[num_attention_heads * head_dim, hidden_size]`
        query: Linear,
        /// `[num_key_value_heads * head_dim, hidden_size]`
        key: Linear,
        /// `[num_key_value_heads * head_dim, hidden_size]`
        value: Linear,
    },
    /// Values are what the key projection gives, before norm and rotation.
    KeyIsValue {
        /// `[num_attention_heads * head_dim, hidden_size]`
        query: Linear,
        /// `[num_key_value_heads * head_dim, hidden_size]`
        key: Linear,
    },
    /// Keys and values are those of an earlier layer.
    OfLayer {
        /// `[num_attention_heads * head_dim, hidden_size]`
        query: Linear,
        /// That layer's number.
        layer: usize,
    },
    /// One projection, `[(num_attention_heads + 2 * num_key_value_heads) * head_dim, hidden_size]`.
    Fused {
        /// The projection.
        qkv: Linear,
        /// The order of its rows.
        rows: FusedRows,
    },
    /// Keys and values are expanded from a short vector.
    Latent(Box<Latent>),
}

/// The order of the rows of a fused projection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FusedRows {
    /// All queries, all keys, all values.
    Kinds,
    /// For each key head: the queries that share it, the key, the value.
    Groups,
    /// So many blocks of equal size: queries, values and keys of each.
    Blocks(usize),
}

/// A norm of queries or keys.
#[derive(Debug, Clone)]
pub struct HeadNorm {
    /// The norm: over a head, or over a whole projection.
    pub norm: Norm,
    /// What it's computed over.
    pub over: NormOver,
}

/// The order of the norms of queries and keys and the rotary embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormOrder {
    /// `rotate(norm(x))`
    BeforeRotation,
    /// `norm(rotate(x))`
    AfterRotation,
}

/// Queries are multiplied by `1 + beta * ln(1 + floor((position + first) / original))`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueryScale {
    /// How fast the factor grows.
    pub beta: f64,
    /// The number of positions with the factor 1.
    pub original: usize,
    /// What counts as the position of the first token.
    pub first: usize,
}

/// The axis over which a norm of queries or keys is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormOver {
    /// Over each head, with shared parameters `[head_dim]`.
    Head,
    /// Over each head, with parameters per head `[heads, head_dim]`.
    HeadWithOwnWeight,
    /// Over each head, with a module per head: `norms.0`, `norms.1` and so on.
    HeadWithOwnModule,
    /// Over the whole projection, with parameters `[heads * head_dim]`.
    Projection,
}

/// How attention scores depend on the positions of query and key.
#[derive(Debug, Clone, PartialEq)]
pub enum Position {
    /// They don't: positions are added to the embedding, or there are none.
    None,
    /// Queries and keys get a rotary embedding.
    Rotary(RotarySpec),
    /// `slope * (key position - query position)` is added to the scores.
    Alibi(Alibi),
}

/// What a prompt's tokens attend to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptAttention {
    /// Each token to itself and those before it.
    Causal,
    /// Each token to the whole prompt, also beyond a window. Tokens after the prompt attend to
    /// themselves and those before them, within the window.
    Whole,
}

/// The order in which Transformers declares the projections. It matters for adapters whose tensors
/// are shared or drawn module by module.
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
    /// Plain attention over `heads`.
    pub(super) fn new(heads: Heads, projections: Projections, o_proj: Linear) -> Self {
        Self {
            projections,
            o_proj,
            declared: Declared::QueryFirst,
            num_attention_heads: heads.queries,
            num_key_value_heads: heads.keys,
            head_dim: heads.width,
            input_scale: None,
            gated: false,
            clip: None,
            query_key_norms: None,
            norm_order: NormOrder::BeforeRotation,
            query_scale: None,
            value_norm: None,
            position: Position::None,
            chunk: None,
            window: None,
            prompt: PromptAttention::Causal,
            scale: heads.scale(),
            softcap: None,
            sinks: None,
        }
    }

    /// Its module path, the parent of its projections.
    pub fn path(&self) -> &str {
        let path = &self.o_proj.path;
        path.rsplit_once('.')
            .map_or(path, |(attention, _)| attention)
    }

    /// The width of a head's value.
    pub fn value_dim(&self) -> usize {
        let latent = self.projections.latent();
        latent.map_or(self.head_dim, |latent| latent.value)
    }

    /// The layer whose keys and values it uses, if they aren't its own.
    pub fn keys_of_layer(&self) -> Option<usize> {
        match self.projections {
            Projections::OfLayer { layer, .. } => Some(layer),
            _ => None,
        }
    }

    /// The modules of the norms of queries, keys and values.
    pub(super) fn norm_modules(&self) -> Vec<Module> {
        let (queries, keys) = (self.num_attention_heads, self.num_key_value_heads);
        let mut all = Vec::new();
        if let Some([query, key]) = &self.query_key_norms {
            all.extend(query.modules(queries));
            if self.keys_of_layer().is_none() {
                all.extend(key.modules(keys));
            }
        }
        let values = self.value_norm.iter();
        all.extend(values.flat_map(|value| value.modules(keys)));
        all
    }

    /// The projections, in the order in which Transformers declares them.
    pub fn linears(&self) -> Vec<&Linear> {
        let o = &self.o_proj;
        match (&self.projections, self.declared) {
            (Projections::Separate { query, key, value }, Declared::KeyFirst) => {
                vec![key, value, query, o]
            }
            (Projections::Separate { query, key, value }, _) => vec![query, key, value, o],
            (Projections::KeyIsValue { query, key }, _) => vec![query, key, o],
            (Projections::OfLayer { query, .. }, _) => vec![query, o],
            (Projections::Fused { qkv, .. }, Declared::OutputFirst) => vec![o, qkv],
            (Projections::Fused { qkv, .. }, _) => vec![qkv, o],
            (Projections::Latent(latent), _) => [latent.linears(), vec![o]].concat(),
        }
    }

    /// The projections, mutable, in no particular order.
    pub fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let mut all = self.projections.linears_mut();
        all.push(&mut self.o_proj);
        all
    }
}

impl Projections {
    /// All projections, mutable.
    pub(super) fn linears_mut(&mut self) -> Vec<&mut Linear> {
        match self {
            Self::Separate { query, key, value } => vec![query, key, value],
            Self::KeyIsValue { query, key } => vec![query, key],
            Self::OfLayer { query, .. } => vec![query],
            Self::Fused { qkv, .. } => vec![qkv],
            Self::Latent(latent) => latent.linears_mut(),
        }
    }

    /// Latent attention, if they are that.
    pub fn latent(&self) -> Option<&Latent> {
        match self {
            Self::Latent(latent) => Some(latent),
            _ => None,
        }
    }

    /// Latent attention with a compressed cache, if they are that.
    pub fn absorbed(&self) -> Option<&Latent> {
        self.latent().filter(|latent| latent.is_absorbed())
    }
}

impl HeadNorm {
    /// Its modules; `heads` is the number of heads.
    pub(super) fn modules(&self, heads: usize) -> Vec<Module> {
        let mut module = self.norm.module();
        if self.over == NormOver::HeadWithOwnModule {
            let of_head = |head: usize| Module {
                path: Self::of_head(&module.path, head),
                source: Self::of_head(&module.source, head),
                kind: module.kind.clone(),
            };
            return (0..heads).map(of_head).collect();
        }
        if let (NormOver::HeadWithOwnWeight, ModuleKind::Norm { shape, .. }) =
            (self.over, &mut module.kind)
        {
            shape.insert(0, heads);
        }
        vec![module]
    }

    /// The module of `head` within `path`, with [`NormOver::HeadWithOwnModule`].
    pub fn of_head(path: &str, head: usize) -> String {
        format!("{path}.norms.{head}")
    }
}
