//! Linear layers and the token embedding, with an adapter's nodes where there's one.

use super::Projection;
use super::builder::{GraphBuilder, Value};
use super::pass::Pass;
use crate::arch::{Embedding, Linear};

/// A linear layer that an adapter's nodes are built around.
#[derive(Debug)]
pub struct LinearSite<'a> {
    /// The module's path; adapter nodes are named below it.
    pub path: &'a str,
    /// The layer's input, `[batch, sequence, in_features]`.
    pub x: &'a Value,
    /// The gate of each token's adapters, `[batch, sequence, n]`, where there's one.
    pub token_gate: Option<&'a Value>,
}

/// A projection of an expert that an adapter's nodes are built around.
#[derive(Debug)]
pub struct ExpertSite<'a> {
    /// The module's path; adapter nodes are named below it.
    pub path: &'a str,
    /// The rows that the expert gets, `[n, in_features]`; there may be none.
    pub x: &'a Value,
    /// `x` times an `A` and that `A`, where another projection of the same `x` may share it.
    pub inner: &'a mut Option<(Value, Value)>,
}

/// Which projection of which expert a product belongs to.
#[derive(Debug, Clone, Copy)]
pub struct OfExpert<'a> {
    /// The layer's path.
    pub layer: &'a str,
    /// The expert's number.
    pub index: usize,
    /// Which of its weights.
    pub projection: Projection,
}

/// An embedding that an adapter's nodes are built around.
#[derive(Debug)]
pub struct EmbeddingSite<'a> {
    /// The module's path; adapter nodes are named below it.
    pub path: &'a str,
    /// Token ids, `[batch, sequence]`.
    pub ids: &'a Value,
    /// The base's rows, `[batch, sequence, embedding_dim]`.
    pub rows: &'a Value,
}

/// Adds `W x + b` for `x` of `[batch, sequence, in_features]`, with the adapter of that module.
pub(super) fn linear(graph: &mut GraphBuilder, pass: &Pass, layer: &Linear, x: &Value) -> Value {
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

/// Adds `W x` for the rows of an expert, with the adapter of that module; also tells whether it has one.
pub(super) fn expert_linear(
    graph: &mut GraphBuilder,
    pass: &Pass,
    name: &str,
    of: OfExpert,
    site: ExpertSite,
) -> (Value, bool) {
    let product = graph.expert_product(name, site.path, of, site.x);
    let adapted = pass.adaptation;
    match adapted.and_then(|own| own.expert(graph, site, &product)) {
        Some(adapted) => (adapted, true),
        None => (product, false),
    }
}

/// Adds the bias, where there is one.
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

/// Adds the rows of `ids` (`[batch, sequence]`), with the adapter of that module.
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
