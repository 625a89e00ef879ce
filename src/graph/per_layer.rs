//! Per-layer embeddings: see [`PerLayerEmbeddings`](crate::arch::PerLayerEmbeddings) for the
//! formulas.

use super::activation::activate;
use super::builder::{GraphBuilder, Value};
use super::linear::{embedding, linear, times};
use super::norm::{named, norm};
use super::pass::Pass;
use crate::arch::PerLayerEmbeddings;

/// Adds the slices of all layers, `[batch, sequence, layers, width]`. `embedded` are the token
/// embeddings. Without `ids` (behind virtual tokens, which have none), only the projection counts,
/// as in Transformers, and it isn't divided by the square root of 2.
pub(super) fn slices(
    graph: &mut GraphBuilder,
    pass: &Pass,
    own: &PerLayerEmbeddings,
    ids: Option<&Value>,
    embedded: &Value,
) -> Value {
    let path = &own.projection.path;
    let split = [0, 0, own.layers.len() as i64, own.width as i64];
    let projected = linear(graph, pass, &own.projection, embedded);
    let factor = (pass.spec.hidden_size as f64).powf(-0.5);
    let projected = times(graph, &format!("/{path}/scale"), &projected, factor);
    let projected = graph.reshape(&format!("/{path}/layers"), &projected, &split);
    let projected = named(graph, &format!("/{}", own.norm.path), &own.norm, &projected);
    let Some(ids) = ids else {
        return projected;
    };
    let path = &own.table.path;
    let known = match pass.spec.vocab_size > own.table.num_embeddings {
        true => known_ids(graph, own, ids),
        false => ids.clone(),
    };
    let rows = embedding(graph, pass, &own.table, &known);
    let factor = (own.width as f64).sqrt();
    let rows = times(graph, &format!("/{path}/scale"), &rows, factor);
    let rows = graph.reshape(&format!("/{path}/layers"), &rows, &split);
    let sum = graph.add("/per_layer/Add", &projected, &rows);
    times(graph, "/per_layer/scale", &sum, 0.5_f64.sqrt())
}

/// The ids that the table has, and 0 for the others.
fn known_ids(graph: &mut GraphBuilder, own: &PerLayerEmbeddings, ids: &Value) -> Value {
    let size = own.table.num_embeddings as i64;
    let size = graph.constant_i64("/per_layer/size", &[size], false);
    let known = graph.op("Less", "/per_layer/Less", &[ids, &size], &[]);
    let zero = graph.constant_i64("zero", &[0], false);
    graph.op("Where", "/per_layer/known_ids", &[&known, ids, &zero], &[])
}

/// Adds what layer `index` adds to the residual stream `x` for its slice of `slices`. Both have the
/// same positions.
pub(super) fn addition(
    graph: &mut GraphBuilder,
    pass: &Pass,
    own: &PerLayerEmbeddings,
    index: usize,
    slices: &Value,
    x: &Value,
) -> Value {
    let layer = &own.layers[index];
    let gate = linear(graph, pass, &layer.gate, x);
    let name = format!("/{}/act_fn", layer.gate.path);
    let gate = activate(graph, &layer.gate.path, &name, own.activation, &gate);
    let number = graph.constant_i64(&format!("layer.{index}"), &[index as i64], true);
    let name = format!("/{}/slice", layer.gate.path);
    let slice = graph.gather(&name, slices, &number, 2);
    let slice = graph.gate_for(&slice, x);
    let product = graph.mul(&format!("/{}/Mul", layer.gate.path), &gate, &slice);
    let made = linear(graph, pass, &layer.projection, &product);
    norm(graph, &layer.norm, &made)
}
