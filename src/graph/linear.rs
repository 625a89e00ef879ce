//! Linear layers and the token embedding, with the adapter's nodes if there's an adapter.

use super::Projection;
use super::builder::{GraphBuilder, Value};
use super::pass::Pass;
use crate::arch::{Embedding, Linear};

/// A linear layer, as an adapter sees it.
#[derive(Debug)]
pub struct LinearSite<'a> {
    /// The module's path; adapter nodes are named below it.
    pub path: &'a str,
    /// The layer's input, `[batch, sequence, in_features]`.
    pub x: &'a Value,
    /// Each token's weights of the `n` adapters, `[batch, sequence, n]`, if the adaptation has
    /// them.
    pub token_gate: Option<&'a Value>,
}

/// A projection of an expert, as an adapter sees it.
#[derive(Debug)]
pub struct ExpertSite<'a> {
    /// The module's path; adapter nodes are named below it.
    pub path: &'a str,
    /// The expert's input rows, `[n, in_features]`; `n` may be 0.
    pub x: &'a Value,
    /// `x · A` and its `A`, which other projections of the same `x` may reuse.
    pub inner: &'a mut Option<(Value, Value)>,
}

/// Identifies a projection of an expert.
#[derive(Debug, Clone, Copy)]
pub struct ExpertProjection<'a> {
    /// The layer's path.
    pub layer: &'a str,
    /// The expert's number.
    pub index: usize,
    /// Which of its weights.
    pub projection: Projection,
}

/// An embedding, as an adapter sees it.
#[derive(Debug)]
pub struct EmbeddingSite<'a> {
    /// The module's path; adapter nodes are named below it.
    pub path: &'a str,
    /// Token ids, `[batch, sequence]`.
    pub ids: &'a Value,
    /// The base's rows, `[batch, sequence, embedding_dim]`.
    pub rows: &'a Value,
}

/// Adds `W x + b` with the module's adapter; `x` is `[batch, sequence, in_features]`.
pub(super) fn linear(graph: &mut GraphBuilder, pass: &Pass, layer: &Linear, x: &Value) -> Value {
    let made = unscaled(graph, pass, layer, x);
    match layer.output_scale {
        Some(factor) => times(graph, &format!("/{}/scale", layer.path), &made, factor),
        None => made,
    }
}

/// Adds `W x` in float32, with the weight as it's stored, whatever the graph's dtype. An adapter's
/// nodes compute in that dtype, and a quantized weight too; their output is widened.
pub(super) fn linear_in_f32(
    graph: &mut GraphBuilder,
    pass: &Pass,
    layer: &Linear,
    x: &Value,
) -> Value {
    let path = &layer.path;
    let weight = format!("{path}.weight");
    let site = LinearSite {
        path,
        x,
        token_gate: pass.token_gate.as_ref(),
    };
    let adapted = pass.adaptation.and_then(|own| own.linear(graph, &site));
    let made = match adapted {
        None if graph.is_quantized(&weight) => Some(linear(graph, pass, layer, x)),
        adapted => adapted,
    };
    if let Some(made) = made {
        return graph.to_f32(&format!("/{path}/widened"), &made);
    }
    let x = graph.to_f32(&format!("/{path}/x/float32"), x);
    let weight = graph.parameter_f32(&weight);
    graph.matmul_transposed(&format!("/{path}/MatMul"), &x, &weight)
}

/// Adds `x * factor`.
pub(super) fn times(graph: &mut GraphBuilder, name: &str, x: &Value, factor: f64) -> Value {
    let constant = graph.filled(&format!("{name}/factor"), &[], factor as f32);
    graph.mul(name, x, &constant)
}

fn unscaled(graph: &mut GraphBuilder, pass: &Pass, layer: &Linear, x: &Value) -> Value {
    let path = &layer.path;
    let site = LinearSite {
        path,
        x,
        token_gate: pass.token_gate.as_ref(),
    };
    let adapted = pass.adaptation.and_then(|own| own.linear(graph, &site));
    if let Some(adapted) = adapted {
        return adapted;
    }
    let bias = graph.find_parameter(&format!("{path}.bias"));
    let product = graph.product(&format!("/{path}/MatMul"), path, x);
    add_bias(graph, path, &product, bias.as_ref())
}

/// Adds `W x` for an expert's rows, with the module's adapter. Also returns whether it has one.
pub(super) fn expert_linear(
    graph: &mut GraphBuilder,
    pass: &Pass,
    name: &str,
    of: ExpertProjection,
    site: ExpertSite,
) -> (Value, bool) {
    let product = graph.expert_product(name, site.path, of, site.x);
    let adapted = pass.adaptation;
    match adapted.and_then(|own| own.expert(graph, site, &product)) {
        Some(adapted) => (adapted, true),
        None => (product, false),
    }
}

/// Adds the bias, if there's one.
pub fn add_bias(
    graph: &mut GraphBuilder,
    path: &str,
    product: &Value,
    bias: Option<&Value>,
) -> Value {
    match bias {
        Some(bias) => graph.add(&format!("/{path}/Add"), product, bias),
        None => product.clone(),
    }
}

/// Adds the embedding of `ids`, `[batch, sequence]`, with the module's adapter.
pub(super) fn embedding(
    graph: &mut GraphBuilder,
    pass: &Pass,
    table: &Embedding,
    ids: &Value,
) -> Value {
    let path = &table.path;
    let rows = graph.rows(&format!("/{path}/Gather"), path, ids);
    let site = EmbeddingSite {
        path,
        ids,
        rows: &rows,
    };
    let adapted = pass.adaptation.and_then(|own| own.embedding(graph, &site));
    adapted.unwrap_or(rows)
}
