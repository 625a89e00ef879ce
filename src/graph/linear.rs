//! Linear layers and the token embedding, with an adapter's nodes beside them.

use super::builder::{GraphBuilder, Value};
use super::export::Export;
use crate::arch::{Embedding, Linear};

/// A linear layer that an adapter's nodes are built around.
#[derive(Debug)]
pub struct LinearSite<'a> {
    /// The module's path; adapter nodes are named below it.
    pub path: &'a str,
    /// The layer's input, `[batch, sequence, in_features]`.
    pub x: &'a Value,
}

/// A projection of an expert that an adapter's nodes are built around.
#[derive(Debug)]
pub struct RoutedSite<'a> {
    /// The module's path; adapter nodes are named below it.
    pub path: &'a str,
    /// The rows that the expert gets, `[n, in_features]`; there may be none.
    pub x: &'a Value,
    /// `x` times an `A` and that `A`, where another projection of the same `x` may share it.
    pub inner: &'a mut Option<(Value, Value)>,
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
pub fn linear(graph: &mut GraphBuilder, export: &Export, layer: &Linear, x: &Value) -> Value {
    let path = &layer.path;
    if let Some((form, naming)) = export.module_form(path) {
        return form.linear(graph, &naming, &LinearSite { path, x });
    }
    let bias = graph.find_parameter(&format!("{path}.bias"));
    let product = graph.product(&format!("/{path}/MatMul"), path, x);
    add_bias(graph, path, &product, bias.as_ref())
}

/// Adds `W x` for the rows of an expert, with the adapter of that module.
pub fn routed(graph: &mut GraphBuilder, export: &Export, name: &str, site: RoutedSite) -> Value {
    let product = graph.routed_product(name, site.path, site.x);
    match export.module_form(site.path) {
        Some((form, naming)) => form.routed(graph, &naming, site, &product),
        None => product,
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
pub fn embedding(
    graph: &mut GraphBuilder,
    export: &Export,
    table: &Embedding,
    ids: &Value,
) -> Value {
    let path = &table.path;
    let rows = graph.rows(&format!("/{path}/Gather"), path, ids);
    match export.module_form(path) {
        Some((form, naming)) => {
            let site = EmbeddingSite {
                path,
                ids,
                rows: &rows,
            };
            form.embedding(graph, &naming, &site)
        }
        None => rows,
    }
}
