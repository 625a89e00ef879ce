//! Weights in panels, for one token: `[rows / 32, columns, 32]`, each panel the transpose of 32 rows.
//!
//! A product of one row with a panel reads it from its first byte to its last, while with a weight of
//! `[out_features, in_features]` ONNX Runtime reads four rows side by side, at 0.8 to 0.9 of the rate. A weight is then a
//! batch of panels: `MatMul` of `x`, `[1, 1, columns]`, gives `[rows / 32, 1, 32]`, which read in order is `y`. It's
//! never packed when a session starts, so that the file stays mapped.
//!
//! Products with the same input follow each other in the file and are one product, so that the threads are started once:
//! queries, keys and values, which attention takes as they are, or, where an adapter's nodes or biases come between, cut
//! apart, and with a parallel residual the perceptron's too.

use std::collections::{HashMap, HashSet};

use super::joined::{groups, split, take_joined};
use super::pack::{Found, PackError, PanelFiles};
use super::piece::Piece;
use super::products::{Products, Weight, drop_unused, node, shape_constant};
use crate::graph::proto::{Graph, Model, Node};

/// Rows of a panel.
pub const PANEL_ROWS: usize = 32;

/// Rows of a weight from which on a panel that isn't full costs little.
const MANY_ROWS: usize = 128;

/// Whether a weight makes whole panels.
fn is_whole(weight: &Weight) -> bool {
    weight.rows > 0 && weight.rows.is_multiple_of(PANEL_ROWS)
}

/// Whether a weight is worth laying out by itself.
fn fits(weight: &Weight) -> bool {
    is_whole(weight) || weight.rows >= MANY_ROWS
}

/// The weights of `model` that are wanted in panels, in groups that shall follow each other.
pub fn wanted(model: &Model) -> Vec<Vec<Piece>> {
    let products = Products::of(model);
    let Some(graph) = &model.graph else {
        return Vec::new();
    };
    let groups_of = groups(graph, |node| products.weight(node).is_some());
    let mut groups = Vec::new();
    let mut seen: HashSet<(String, u64)> = HashSet::new();
    for node in &graph.node {
        let Some(weight) = products.any_weight(node) else {
            continue;
        };
        let joined: Vec<Weight> = groups_of
            .get(&node.output[0])
            .into_iter()
            .flat_map(|group| &group.outputs)
            .filter_map(|value| products.weight_of(value).cloned())
            .collect();
        let group = match !joined.is_empty() && joined.iter().all(is_whole) {
            true => joined,
            false => vec![weight.clone()],
        };
        let fresh = |weight: &Weight| !seen.contains(&(weight.location.clone(), weight.offset));
        if group.iter().all(fits) && group.iter().any(fresh) {
            let places = group
                .iter()
                .map(|weight| (weight.location.clone(), weight.offset));
            seen.extend(places);
            groups.push(group.into_iter().map(Piece::Panels).collect());
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
    let groups_of = groups(graph, |node| products.weight(node).is_some());
    let nodes = std::mem::take(&mut graph.node);
    let chosen: HashSet<&String> = nodes
        .iter()
        .filter(|node| products.any_weight(node).is_some() && chosen(&products, node))
        .map(|node| &node.output[0])
        .collect();
    let mut done: HashSet<&String> = HashSet::new();
    let mut taken: HashMap<&String, String> = HashMap::new();
    let mut rewritten = Vec::new();
    for node in &nodes {
        if let Some(qkv) = taken.get(&node.name) {
            let mut node = node.clone();
            take_joined(&mut node, qkv);
            rewritten.push(node);
            continue;
        }
        let output = node.output.first().filter(|name| chosen.contains(name));
        let Some((output, weight)) = output.zip(products.any_weight(node)) else {
            rewritten.push(node.clone());
            continue;
        };
        if done.contains(output) {
            continue;
        }
        let x = &node.input[0];
        let group = groups_of.get(output);
        let weights: Vec<&Weight> = group
            .into_iter()
            .flat_map(|group| &group.outputs)
            .filter_map(|value| products.weight_of(value))
            .collect();
        let joined = match group {
            Some(group) if group.outputs.iter().all(|value| chosen.contains(value)) => {
                let pieces: Vec<Piece> = weights.iter().map(panels_of).collect();
                files.find(&pieces)?.zip(Some(group))
            }
            _ => None,
        };
        if let Some((panel, group)) = joined {
            let joined = format!("{output}/joined");
            add_product(graph, &mut rewritten, x, &panel, &joined, panel.rows);
            match &group.attention {
                Some(name) => {
                    taken.insert(name, joined);
                }
                None => {
                    let rows: Vec<i64> = weights.iter().map(|weight| weight.rows as i64).collect();
                    rewritten.push(split(graph, &joined, &group.outputs, &rows));
                }
            }
            done.extend(&group.outputs);
        } else if let Some(panel) = files.find(&[panels_of(&weight)])? {
            add_product(graph, &mut rewritten, x, &panel, output, weight.rows);
        } else {
            rewritten.push(node.clone());
        }
    }
    graph.node = rewritten;
    drop_unused(graph);
    Ok(())
}

fn panels_of(weight: &&Weight) -> Piece {
    Piece::Panels((*weight).clone())
}

/// Adds the product of `x` with `panels`, of which the first `rows` are wanted.
fn add_product(
    graph: &mut Graph,
    nodes: &mut Vec<Node>,
    x: &str,
    panels: &Found,
    output: &str,
    rows: usize,
) {
    let weight = format!("{output}/panels.weight");
    let dims = [panels.rows / PANEL_ROWS, panels.columns, PANEL_ROWS].map(|size| size as i64);
    let initializer = panels.initializer(&weight, dims.to_vec());
    graph.initializer.push(initializer);
    let product = format!("{output}/panels");
    nodes.push(node("MatMul", &[x, &weight], &product, Vec::new()));
    let one_row = match rows == panels.rows {
        true => output.to_owned(),
        false => format!("{output}/filled"),
    };
    let [all, rows] = [panels.rows, rows].map(|rows| rows as i64);
    let shape = shape_constant(graph, &format!("one_row.{all}"), &[1, 1, all]);
    let mut reshape = node("Reshape", &[&product, &shape], &one_row, Vec::new());
    reshape.name = format!("{output}/Reshape");
    nodes.push(reshape);
    if rows != all {
        let start = shape_constant(graph, "first", &[0]);
        let end = shape_constant(graph, &format!("rows.{rows}"), &[rows]);
        let axis = shape_constant(graph, "axis.2", &[2]);
        let mut cut = node(
            "Slice",
            &[&one_row, &start, &end, &axis],
            output,
            Vec::new(),
        );
        cut.name = format!("{output}/Slice");
        nodes.push(cut);
    }
}
