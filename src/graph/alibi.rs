//! ALiBi: a bias on attention scores, linear in the key's position, which replaces position
//! embeddings.
//!
//! Source: Press, Smith and Lewis, "Train short, test long", arXiv:2108.12409.

use super::builder::{Attr, GraphBuilder, Value};
use super::lengths::Lengths;
use super::proto::element;
use crate::arch::Alibi;

/// The bias on the scores, `[1, heads, sequence, total]`.
pub fn alibi(graph: &mut GraphBuilder, alibi: &Alibi, lengths: &Lengths) -> Value {
    let zero = graph.constant_i64("zero", &[0], false);
    let places = graph.range("/alibi/Range", &zero, &lengths.total);
    let row = alibi_row(graph, alibi, &places);
    let one = graph.constant_i64("one", &[1], false);
    let attrs = [("axis", Attr::Int(0))];
    let shape = [&one, &one, &lengths.new, &one];
    let shape = graph.op("Concat", "/alibi/shape", &shape, &attrs);
    graph.op("Expand", "/alibi/Expand", &[&row, &shape], &[])
}

/// The bias on the scores of keys at the positions `places` (i64 `[length]`):
/// `[1, heads, 1, length]`.
pub fn alibi_row(graph: &mut GraphBuilder, alibi: &Alibi, places: &Value) -> Value {
    let mut places = graph.cast("/alibi/Range/float32", places, element::FLOAT32);
    let heads = alibi.slopes.len();
    let mut slopes = graph.constant_f32("alibi.slopes", &[1, heads, 1, 1], &alibi.slopes);
    if alibi.rounded_times.is_some() {
        places = rounded(graph, "/alibi/Range", &places);
        slopes = rounded(graph, "/alibi/slopes", &slopes);
    }
    let mut row = graph.mul("/alibi/Mul", &slopes, &places);
    if let Some(factor) = alibi.rounded_times {
        row = rounded(graph, "/alibi/Mul", &row);
        let factor = graph.constant_f32("alibi.factor", &[], &[factor]);
        row = graph.mul("/alibi/scaled", &row, &factor);
    }
    graph.to_compute("/alibi/row", &row)
}

/// `x`, rounded to bfloat16.
fn rounded(graph: &mut GraphBuilder, name: &str, x: &Value) -> Value {
    let bfloat16 = graph.cast(&format!("{name}/bfloat16"), x, element::BFLOAT16);
    graph.cast(&format!("{name}/rounded"), &bfloat16, element::FLOAT32)
}
