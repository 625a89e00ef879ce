//! ALiBi: a bias on attention scores, linear in the key's position, which replaces position
//! embeddings.
//!
//! Source: Press, Smith and Lewis, "Train short, test long", arXiv:2108.12409.

use super::builder::{Attr, GraphBuilder, Value};
use super::lengths::Lengths;
use super::proto::element;

/// The bias on the scores, `[1, heads, sequence, total]`.
pub fn alibi(graph: &mut GraphBuilder, slopes: &[f32], lengths: &Lengths) -> Value {
    let zero = graph.constant_i64("zero", &[0], false);
    let places = graph.range("/alibi/Range", &zero, &lengths.total);
    let row = alibi_row(graph, slopes, &places);
    let one = graph.constant_i64("one", &[1], false);
    let attrs = [("axis", Attr::Int(0))];
    let shape = [&one, &one, &lengths.new, &one];
    let shape = graph.op("Concat", "/alibi/shape", &shape, &attrs);
    graph.op("Expand", "/alibi/Expand", &[&row, &shape], &[])
}

/// The bias on the scores of keys at the positions `places` (i64 `[length]`):
/// `[1, heads, 1, length]`.
pub fn alibi_row(graph: &mut GraphBuilder, slopes: &[f32], places: &Value) -> Value {
    let places = graph.cast("/alibi/Range/float32", places, element::FLOAT32);
    let heads = slopes.len();
    let slopes = graph.constant_f32("alibi.slopes", &[1, heads, 1, 1], slopes);
    let row = graph.mul("/alibi/Mul", &slopes, &places);
    graph.to_compute("/alibi/row", &row)
}
