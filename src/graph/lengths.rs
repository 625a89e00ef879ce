//! The number of cached and new tokens, computed from the attention mask.

use super::builder::{Attr, GraphBuilder, Value};
use super::proto::element;
use super::{AttentionOperator, Length, Role};

/// The name of [`Operands::GroupQuery::last_index`] in a graph.
pub const LAST_INDEX: &str = "/attention_mask/last_index";

/// The name of [`Operands::GroupQuery::total_i32`] in a graph.
pub const TOTAL_I32: &str = "/attention_mask/total/i32";

/// The name of [`Lengths::total`] in a graph.
pub const TOTAL: &str = "/attention_mask/total";

/// The name of [`Lengths::past`] in a graph.
pub const PAST: &str = "/attention_mask/past";

/// The name of [`Lengths::past`] for layers that get the last position only.
pub const LAST_PAST: &str = "/last/past";

/// The lengths that attention needs.
#[derive(Debug, Clone)]
pub struct Lengths {
    /// The lengths in the form that the attention operator takes.
    pub operands: Operands,
    /// Cached and new tokens, i64 `[1]`.
    pub total: Value,
    /// Cached tokens, i64 `[1]`.
    pub past: Value,
    /// New tokens, i64 `[1]`.
    pub new: Value,
}

/// The lengths in the form that an [`AttentionOperator`] takes.
#[derive(Debug, Clone)]
pub enum Operands {
    /// [`AttentionOperator::GroupQuery`]
    GroupQuery {
        /// Number of tokens of each sequence, minus one, i32 `[batch]`.
        last_index: Value,
        /// Cached and new tokens, i32 scalar.
        total_i32: Value,
    },
    /// [`AttentionOperator::Standard`]
    Standard {
        /// The first row of the cache that new tokens are written to, i64 `[batch]`.
        start: Value,
    },
}

impl Lengths {
    /// The lengths for layers that get the last position only, with all keys cached: as in a decode
    /// step.
    pub fn of_last_position(&self, graph: &mut GraphBuilder) -> Self {
        let one = graph.constant_i64("one", &[1], false);
        let past = graph.op("Sub", LAST_PAST, &[&self.total, &one], &[]);
        Self {
            past,
            new: one,
            ..self.clone()
        }
    }
}

/// Adds the lengths. `attention_mask` is `[batch, total]`, `hidden` is `[batch, sequence, …]`.
pub fn lengths(graph: &mut GraphBuilder, attention_mask: &Value, hidden: &Value) -> Lengths {
    let total = graph.size_of_axis(TOTAL, attention_mask, 1);
    let new = graph.size_of_axis("/hidden/sequence", hidden, 1);
    let past = graph.op("Sub", PAST, &[&total, &new], &[]);
    set_length(graph, &total, Length::Total);
    set_length(graph, &past, Length::Past);
    let operands = match graph.attention_operator() {
        AttentionOperator::GroupQuery => row_lengths(graph, attention_mask, &total),
        AttentionOperator::Standard => {
            let batch = graph.size_of_axis("/hidden/batch", hidden, 0);
            let start = graph.op("Expand", "/cache/start", &[&past, &batch], &[]);
            Operands::Standard { start }
        }
    };
    Lengths {
        operands,
        total,
        past,
        new,
    }
}

fn row_lengths(graph: &mut GraphBuilder, attention_mask: &Value, total: &Value) -> Operands {
    let one = graph.constant_i64("one", &[1], false);
    let tokens = graph.op(
        "ReduceSum",
        "/attention_mask/ReduceSum",
        &[attention_mask, &one],
        &[("keepdims", Attr::Int(0))],
    );
    let last = graph.op("Sub", "/attention_mask/Sub", &[&tokens, &one], &[]);
    let last_index = graph.cast(LAST_INDEX, &last, element::INT32);
    set_length(graph, &last_index, Length::LastIndex);
    let scalar = graph.constant_i64("empty", &[], false);
    let total_scalar = graph.op(
        "Reshape",
        "/attention_mask/total/scalar",
        &[total, &scalar],
        &[],
    );
    let total_i32 = graph.cast(TOTAL_I32, &total_scalar, element::INT32);
    set_length(graph, &total_i32, Length::TotalI32);
    Operands::GroupQuery {
        last_index,
        total_i32,
    }
}

fn set_length(graph: &mut GraphBuilder, value: &Value, length: Length) {
    graph.set_role(value, &Role::Length { length });
}
