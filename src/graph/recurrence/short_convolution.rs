//! LFM2's short convolution.

use super::{Passed, convolved};
use crate::arch::ShortConvolution;
use crate::graph::builder::{GraphBuilder, Value};
use crate::graph::linear::linear;
use crate::graph::pass::Pass;

/// Adds the convolution of layer `index`, between its two gates.
///
/// ```text
///              ┌─ B ─ Mul ─ CausalConvWithState ─ Mul ─ out_proj ─
/// x ─ in_proj ─┼─ x ──┘       │                    │
///              └─ C ──────────┼────────────────────┘
/// past_key_values.{i}.conv_state ─ present.{i}.conv_state
/// ```
pub fn short_convolution(
    graph: &mut GraphBuilder,
    pass: &Pass,
    index: usize,
    short: &ShortConvolution,
    x: &Value,
) -> Value {
    let path = &short.convolution.path;
    let at = |part: &str| format!("/{path}/{part}");
    let width = short.convolution.channels;
    let joined = linear(graph, pass, &short.in_proj, x);
    let parts = ["B", "C", "x"].map(&at);
    let [before, mut after, x] = graph.split(&at("Split"), &joined, -1, [width; 3], parts);
    let gated = graph.mul(&at("before"), &before, &x);
    let state = Passed::new(graph, pass, index, &short.convolution.state());
    let mut made = convolved(graph, &short.convolution, "none", &state, &gated);
    if pass.is_last_layer(index) {
        made = graph.last_position(&at("last"), &made);
        after = graph.last_position(&at("C/last"), &after);
    }
    let made = graph.mul(&at("after"), &after, &made);
    linear(graph, pass, &short.out_proj, &made)
}
