//! Self-attention, as data.

use super::heads::Heads;
use super::{Linear, Module, ModuleKind, Norm, RotarySpec};

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
        let mut all = self.projections.linears_mut();
        all.push(&mut self.o_proj);
        all
    }
}

impl Projections {
    /// All of them, to change them.
    pub(super) fn linears_mut(&mut self) -> Vec<&mut Linear> {
        match self {
            Self::Separate { query, key, value } => vec![query, key, value],
            Self::Fused { qkv, .. } => vec![qkv],
        }
    }
}

impl HeadNorm {
    pub(super) fn module(&self, heads: usize) -> Module {
        let mut module = self.norm.module();
        if let (NormOver::HeadWithOwnWeight, ModuleKind::Norm { shape, .. }) =
            (self.over, &mut module.kind)
        {
            shape.insert(0, heads);
        }
        module
    }
}
