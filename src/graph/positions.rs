//! Where tokens are: lengths from the attention mask, rotary tables, learned rows.

use super::builder::{Attr, Dim, GraphBuilder, Value};
use super::export::{ACTIVE_FROM_INPUT, ROTARY_LENGTH};
use super::proto::{element, element_type};
use crate::arch::RotarySpec;

/// Lengths that attention needs, from the attention mask `[batch, total]`.
#[derive(Debug)]
pub struct Lengths {
    /// Tokens of each row less one, i32 `[batch]`.
    pub last_index: Value,
    /// Cached and new tokens, i32 scalar.
    pub total_i32: Value,
    /// Cached and new tokens, i64 `[1]`.
    pub total: Value,
    /// Cached tokens, i64 `[1]`.
    pub past: Value,
}

/// Adds the lengths; `hidden` is `[batch, sequence, …]`.
pub fn lengths(graph: &mut GraphBuilder, attention_mask: &Value, hidden: &Value) -> Lengths {
    let one = graph.constant_i64("one", &[1], false);
    let tokens = graph.op(
        "ReduceSum",
        "/attention_mask/ReduceSum",
        &[attention_mask, &one],
        &[("keepdims", Attr::Int(0))],
    );
    let last = graph.op("Sub", "/attention_mask/Sub", &[&tokens, &one], &[]);
    let last_index = graph.cast("/attention_mask/last_index", &last, element::INT32);
    let total = axis_1(graph, "/attention_mask/total", attention_mask);
    let scalar = graph.constant_i64("empty", &[], false);
    let total_scalar = graph.op(
        "Reshape",
        "/attention_mask/total/scalar",
        &[&total, &scalar],
        &[],
    );
    let total_i32 = graph.cast("/attention_mask/total/i32", &total_scalar, element::INT32);
    let new = axis_1(graph, "/hidden/sequence", hidden);
    let past = graph.op("Sub", "/attention_mask/past", &[&total, &new], &[]);
    Lengths {
        last_index,
        total_i32,
        total,
        past,
    }
}

/// Adds the mask of the tokens at and behind position `active_from`, an input: 1 there and 0 before,
/// `[batch, sequence, 1]`.
pub fn active_mask(graph: &mut GraphBuilder, lengths: &Lengths) -> Value {
    let start = graph.input_i64(ACTIVE_FROM_INPUT, &[Dim::symbol("batch"), 1.into()]);
    let scalar = graph.constant_i64("empty", &[], false);
    let mut as_scalar = |name: &str, x: &Value| graph.op("Reshape", name, &[x, &scalar], &[]);
    let past = as_scalar("/active/past", &lengths.past);
    let total = as_scalar("/active/total", &lengths.total);
    let step = graph.constant_i64("one.scalar", &[1], true);
    let positions = graph.op("Range", "/active/positions", &[&past, &total, &step], &[]);
    let active = graph.op(
        "GreaterOrEqual",
        "/active/GreaterOrEqual",
        &[&positions, &start],
        &[],
    );
    let mask = graph.cast("/active/Cast", &active, element_type(graph.compute()));
    graph.reshape("/active/mask", &mask, &[0, 0, 1])
}

/// The size of axis 1, i64 `[1]`.
fn axis_1(graph: &mut GraphBuilder, name: &str, x: &Value) -> Value {
    let attrs = [("start", Attr::Int(1)), ("end", Attr::Int(2))];
    graph.op("Shape", name, &[x], &attrs)
}

/// Tables of cosines and sines, each `[positions, head_dim / 2]`.
#[derive(Debug)]
pub struct RotaryTables {
    /// Cosines.
    pub cos: Value,
    /// Sines.
    pub sin: Value,
}

/// Adds the tables for `max_positions`. They are computed by nodes over constants, which ONNX Runtime
/// folds when the session starts: the file stays small, and whoever loads it may set
/// [`ROTARY_LENGTH`] to the positions that are needed.
pub fn rotary_tables(
    graph: &mut GraphBuilder,
    rotary: &RotarySpec,
    max_positions: usize,
) -> RotaryTables {
    let zero = graph.constant_i64("zero.scalar", &[0], true);
    let step = graph.constant_i64("one.scalar", &[1], true);
    let limit = graph.constant_i64(ROTARY_LENGTH, &[max_positions as i64], true);
    let range = graph.op("Range", "/rotary/Range", &[&zero, &limit, &step], &[]);
    let range = graph.cast("/rotary/Range/float32", &range, element::FLOAT32);
    let positions = graph.reshape("/rotary/positions", &range, &[-1, 1]);
    let pairs = rotary.inv_freq.len();
    let inv_freq = graph.constant_f32("rotary.inv_freq", &[1, pairs], &rotary.inv_freq);
    let angles = graph.mul("/rotary/angles", &positions, &inv_freq);
    let cos = graph.op("Cos", "/rotary/Cos", &[&angles], &[]);
    let sin = graph.op("Sin", "/rotary/Sin", &[&angles], &[]);
    RotaryTables {
        cos: graph.to_compute("/rotary/cos_cache", &cos),
        sin: graph.to_compute("/rotary/sin_cache", &sin),
    }
}

/// Adds the rows of the new tokens' positions from the learned table `path`:
/// `[sequence, hidden_size]`.
pub fn learned_rows(
    graph: &mut GraphBuilder,
    path: &str,
    offset: usize,
    lengths: &Lengths,
) -> Value {
    let table = graph.parameter(&format!("{path}.weight"));
    let offset = graph.constant_i64(&format!("{path}.offset"), &[offset as i64], false);
    let start = graph.add(&format!("/{path}/start"), &lengths.past, &offset);
    let end = graph.add(&format!("/{path}/end"), &lengths.total, &offset);
    let axis = graph.constant_i64("zero", &[0], false);
    graph.op(
        "Slice",
        &format!("/{path}/Slice"),
        &[&table, &start, &end, &axis],
        &[],
    )
}
