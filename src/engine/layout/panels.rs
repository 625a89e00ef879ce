//! Weights in panels, for one token: `[rows / 32, columns, 32]`, each panel the transpose of 32 rows.
//!
//! A product of one row with a panel reads it from its first byte to its last, while with a weight of
//! `[out_features, in_features]` ONNX Runtime reads four rows side by side, at 0.8 to 0.9 of the rate. A weight is then a
//! batch of panels: `MatMul` of `x`, `[1, 1, columns]`, gives `[rows / 32, 1, 32]`, which read in order is `y`. It's
//! never packed when a session starts, so that the file stays mapped.
//!
//! Queries, keys and values follow each other in the file, and are one product where nothing comes between.

use std::collections::HashSet;

use super::joined::{take_joined, triples};
use super::pack::{PackError, Panel, PanelFiles};
use super::products::{Products, Weight, drop_unused, node, shape_constant};
use crate::graph::proto::{Entry, Graph, Model, Node, Tensor, element};

/// Rows of a panel.
pub const PANEL_ROWS: usize = 32;

/// Whether a weight can be cut into whole panels.
pub fn fits(weight: &Weight) -> bool {
    weight.rows > 0 && weight.rows.is_multiple_of(PANEL_ROWS)
}

/// The weights of `model` that are wanted in panels, in groups that shall follow each other.
pub fn wanted(model: &Model) -> Vec<Vec<Weight>> {
    let products = Products::of(model);
    let Some(graph) = &model.graph else {
        return Vec::new();
    };
    let triples = triples(graph, &products);
    let mut groups = Vec::new();
    let mut seen: HashSet<(String, u64)> = HashSet::new();
    let triple = |value: &String| triples.values().find(|t| t.products[0] == *value);
    for node in &graph.node {
        let Some(weight) = products.weight(node) else {
            continue;
        };
        let group: Vec<Weight> = match triple(&node.output[0]) {
            Some(triple) => triple
                .products
                .iter()
                .filter_map(|value| products.weight_of(value).cloned())
                .collect(),
            None => vec![weight.clone()],
        };
        let fresh = |weight: &Weight| !seen.contains(&(weight.location.clone(), weight.offset));
        if group.iter().all(fits) && group.iter().any(fresh) {
            let places = group
                .iter()
                .map(|weight| (weight.location.clone(), weight.offset));
            seen.extend(places);
            groups.push(group);
        }
    }
    groups
}

/// Rewrites every product of `model`, whose runs have one token.
///
/// # Errors
/// If a file of panels can't be read.
pub fn rewrite(model: &mut Model, files: &PanelFiles) -> Result<(), PackError> {
    rewrite_where(model, files, |_, _| true)
}

/// Rewrites the products of the last position alone, in a graph for prompts.
///
/// # Errors
/// If a file of panels can't be read.
pub fn rewrite_last(model: &mut Model, files: &PanelFiles) -> Result<(), PackError> {
    rewrite_where(model, files, Products::is_last)
}

fn rewrite_where(
    model: &mut Model,
    files: &PanelFiles,
    chosen: impl Fn(&Products, &Node) -> bool,
) -> Result<(), PackError> {
    let products = Products::of(model);
    let Some(graph) = &mut model.graph else {
        return Ok(());
    };
    let triples = triples(graph, &products);
    let nodes = std::mem::take(&mut graph.node);
    let is_chosen = |value: &String| {
        let maker = nodes.iter().find(|node| node.output.first() == Some(value));
        maker.is_some_and(|node| chosen(&products, node))
    };
    let mut joined: HashSet<&String> = HashSet::new();
    let mut panels = std::collections::HashMap::new();
    for (name, triple) in &triples {
        if !triple.products.iter().all(is_chosen) {
            continue;
        }
        let weights: Vec<&Weight> = triple
            .products
            .iter()
            .filter_map(|value| products.weight_of(value))
            .collect();
        if let Some(panel) = files.find_joined(&weights)? {
            joined.extend(&triple.products);
            panels.insert(name, panel);
        }
    }
    let mut rewritten = Vec::new();
    for node in &nodes {
        if node
            .output
            .first()
            .is_some_and(|name| joined.contains(name))
        {
            continue;
        }
        let mut node = node.clone();
        if let Some(panel) = panels.get(&node.name) {
            let qkv = format!("{}/qkv", node.name);
            add_product(graph, &mut rewritten, &triples[&node.name].x, panel, &qkv);
            take_joined(&mut node, &qkv);
        } else if let Some(weight) = products.weight(&node)
            && chosen(&products, &node)
            && let Some(panel) = files.find(weight)?
        {
            add_product(
                graph,
                &mut rewritten,
                &node.input[0],
                &panel,
                &node.output[0],
            );
            continue;
        }
        rewritten.push(node);
    }
    graph.node = rewritten;
    drop_unused(graph);
    Ok(())
}

fn add_product(graph: &mut Graph, nodes: &mut Vec<Node>, x: &str, panel: &Panel, output: &str) {
    let weight = format!("{output}/panels.weight");
    let count = panel.rows / PANEL_ROWS;
    let entry = |key: &str, value: String| Entry {
        key: key.to_owned(),
        value,
    };
    graph.initializer.push(Tensor {
        dims: vec![count as i64, panel.columns as i64, PANEL_ROWS as i64],
        data_type: element::FLOAT32,
        name: weight.clone(),
        external_data: vec![
            entry("location", panel.location.clone()),
            entry("offset", panel.offset.to_string()),
            entry("length", (4 * panel.rows * panel.columns).to_string()),
        ],
        data_location: 1,
        ..Default::default()
    });
    let panels = format!("{output}/panels");
    nodes.push(node("MatMul", &[x, &weight], &panels, Vec::new()));
    let rows = panel.rows as i64;
    let shape = shape_constant(graph, &format!("one_row.{rows}"), &[1, 1, rows]);
    let mut reshape = node("Reshape", &[&panels, &shape], output, Vec::new());
    reshape.name = format!("{output}/Reshape");
    nodes.push(reshape);
}
