//! How a graph that this program didn't prepare is fed: the names, types and shapes of its inputs
//! and outputs.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::weights::Dtype;

/// The graphs of a folder that another program exported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignGraphs {
    /// What a reader of the figures should know.
    pub facts: GraphFacts,
    /// Runs prompts, and decode steps where `step` is `None`.
    pub prompt: ForeignGraph,
    /// Runs decode steps.
    pub step: Option<ForeignGraph>,
    /// The cache: key and value of each layer in turn.
    pub cache: Vec<CacheTensor>,
    /// The type of the cache.
    pub cache_dtype: Dtype,
    /// Sequences at once, where the graphs have a fixed number of them.
    pub batch: Option<usize>,
}

/// One graph, with the names of what's bound to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignGraph {
    /// Its file.
    pub file: PathBuf,
    /// The tokens, `[batch, tokens]`.
    pub ids: IntegerInput,
    /// Ones for all cached and new tokens, `[batch, cached + tokens]`.
    pub mask: Option<IntegerInput>,
    /// The positions of the tokens, `[batch, tokens]`.
    pub positions: Option<IntegerInput>,
    /// The cached keys and values that it takes, in the order of the cache; empty if it takes none.
    pub past: Vec<String>,
    /// The keys and values that it gives, in the same order.
    pub present: Vec<String>,
    /// The output with the logits.
    pub logits: String,
    /// The type of the logits.
    pub logits_dtype: Dtype,
    /// The positions that it gives logits of.
    pub logits_of: LogitsOf,
}

/// An input of integers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntegerInput {
    /// Its name.
    pub name: String,
    /// Whether its elements have 32 bits, not 64.
    pub is_narrow: bool,
}

/// Keys or values of a layer, `[batch, heads, length, width]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheTensor {
    /// Heads of keys and values.
    pub heads: usize,
    /// Rows, where the graph has a fixed number of them.
    pub length: Option<usize>,
    /// Width of a head.
    pub width: usize,
}

/// What differs between graphs that compute the same, and costs time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GraphFacts {
    /// The program that wrote it, as far as it says.
    pub exporter: String,
    /// The version of ONNX's operators.
    pub opset: i64,
    /// Sessions: 2 where prompts and decode steps have a graph each.
    pub sessions: usize,
    /// The positions that logits of a prompt are computed for.
    pub logits: LogitsOf,
    /// How the cache grows.
    pub cache: CacheUse,
    /// Whether it takes an attention mask.
    pub attention_mask: bool,
    /// Whether it takes positions.
    pub position_ids: bool,
    /// The operator of attention; `None` where attention is made of several operators.
    pub attention: Option<String>,
    /// Bits of quantized weights; `None` if none are quantized.
    pub quantized_bits: Option<u8>,
}

/// The positions that logits are computed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogitsOf {
    /// Every position of the prompt: the head's product is as much larger.
    AllPositions,
    /// The last position, which is all that generation needs.
    LastPosition,
}

/// How the cache grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheUse {
    /// Each step writes its rows into buffers that stay where they are.
    Shared,
    /// Each step returns a longer copy.
    Copied,
}

impl GraphFacts {
    /// What makes its figures differ from those of another graph, in few words.
    pub fn protocol(&self) -> String {
        format!("{}, {}", self.logits, self.cache)
    }
}

impl fmt::Display for GraphFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "run as {} exported it", self.exporter)?;
        if let Some(bits) = self.quantized_bits {
            write!(f, ", weights of {bits} bits")?;
        }
        if self.sessions > 1 {
            f.write_str(", prompts and steps in a session each with weights of its own")?;
        }
        f.write_str(match self.logits {
            LogitsOf::AllPositions => "; logits of all positions of a prompt",
            LogitsOf::LastPosition => "; logits of the last position",
        })?;
        f.write_str(match self.cache {
            CacheUse::Shared => ", cache updated in place",
            CacheUse::Copied => ", each step copies the cache",
        })
    }
}

impl fmt::Display for LogitsOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AllPositions => "all logits",
            Self::LastPosition => "last logits",
        })
    }
}

impl fmt::Display for CacheUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shared => "shared cache",
            Self::Copied => "copied cache",
        })
    }
}
