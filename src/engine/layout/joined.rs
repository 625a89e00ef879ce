//! Queries, keys and values by one product, with their weights behind one another.
//!
//! Each product starts and stops the threads once, which at one token costs as much as reading some hundred KB.
//! ONNX Runtime joins the weights when the session starts, and packs the result.

use std::collections::HashMap;

use super::products::{Products, drop_unused, int, node, shape_constant, uses};
use crate::graph::proto::{Graph, Model, Node};

/// The three products that an attention node takes as they are.
#[derive(Debug, Clone)]
pub struct Triple {
    /// Names of the products' values: queries, keys, values.
    pub products: [String; 3],
    /// What they are products with.
    pub x: String,
}

/// The attention nodes whose queries, keys and values are plain products with the same input, by their names.
pub fn triples(graph: &Graph, products: &Products) -> HashMap<String, Triple> {
    let uses = uses(graph);
    let makers: HashMap<&str, &Node> = graph
        .node
        .iter()
        .flat_map(|node| node.output.iter().map(move |name| (name.as_str(), node)))
        .collect();
    let triple = |attention: &Node| {
        let [q, k, v] = attention.input.get(..3)? else {
            return None;
        };
        let x = &makers.get(q.as_str())?.input.first()?;
        let fits = [q, k, v].iter().all(|value| {
            products.weight_of(value).is_some()
                && uses.get(value.as_str()) == Some(&1)
                && makers
                    .get(value.as_str())
                    .is_some_and(|node| &node.input[0] == *x)
        });
        fits.then(|| Triple {
            products: [q.clone(), k.clone(), v.clone()],
            x: (*x).clone(),
        })
    };
    graph
        .node
        .iter()
        .filter(|node| node.op_type == "GroupQueryAttention")
        .filter_map(|node| Some((node.name.clone(), triple(node)?)))
        .collect()
}

/// Makes `attention` take the joined value `qkv`.
pub fn take_joined(attention: &mut Node, qkv: &str) {
    attention.input[0] = qkv.to_owned();
    attention.input[1].clear();
    attention.input[2].clear();
}

/// Cuts the value `joined` into the products `outputs` that it's made of, each of so many `rows`.
pub fn split(graph: &mut Graph, joined: &str, outputs: &[String], rows: &[i64]) -> Node {
    let sizes: Vec<String> = rows.iter().map(i64::to_string).collect();
    let parts = shape_constant(graph, &format!("parts.{}", sizes.join(".")), rows);
    let axis = vec![int("axis", -1)];
    let mut split = node("Split", &[joined, &parts], &outputs[0], axis);
    split.name = format!("{joined}/Split");
    split.output = outputs.to_vec();
    split
}

/// Joins them all.
pub fn join(model: &mut Model) {
    let products = Products::of(model);
    let Some(graph) = &mut model.graph else {
        return;
    };
    let triples = triples(graph, &products);
    let weights: HashMap<String, String> = graph
        .node
        .iter()
        .filter(|node| products.weight(node).is_some())
        .map(|node| (node.output[0].clone(), node.input[1].clone()))
        .collect();
    let joined: Vec<&String> = triples.values().flat_map(|t| &t.products).collect();
    let mut nodes = Vec::new();
    for mut attention in std::mem::take(&mut graph.node) {
        if joined.contains(&&attention.output[0]) {
            continue;
        }
        if let Some(triple) = triples.get(&attention.name) {
            let parts: Vec<&str> = triple
                .products
                .iter()
                .map(|p| weights[p].as_str())
                .collect();
            let weight = format!("{}/qkv_weight", attention.name);
            nodes.push(node("Concat", &parts, &weight, vec![int("axis", 0)]));
            let qkv = format!("{}/qkv", attention.name);
            let mut product = node(
                "FusedMatMul",
                &[&triple.x, &weight],
                &qkv,
                vec![int("transB", 1)],
            );
            product.domain = "com.microsoft".to_owned();
            nodes.push(product);
            take_joined(&mut attention, &qkv);
        }
        nodes.push(attention);
    }
    graph.node = nodes;
    drop_unused(graph);
}
