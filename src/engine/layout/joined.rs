//! Products of one input as one product, with their weights behind one another.
//!
//! Each product starts and stops the threads once, which at one token costs as much as reading some hundred KB.

use std::collections::{HashMap, HashSet};

use super::products::{Products, drop_unused, int, node, shape_constant, uses};
use crate::graph::proto::{Graph, Model, Node};

/// Products of one input, two or more.
#[derive(Debug)]
pub struct Group {
    /// Their values, in the graph's order.
    pub outputs: Vec<String>,
    /// What they are products with.
    pub x: String,
    /// The node that takes them as they are, and nothing else does: queries, keys and values.
    pub attention: Option<String>,
}

/// The groups of those nodes that `is_product` tells, by the first one's output.
pub fn groups(graph: &Graph, is_product: impl Fn(&Node) -> bool) -> HashMap<String, Group> {
    let uses = uses(graph);
    let products = graph.node.iter().filter(|node| is_product(node));
    // By value, and in the graph's order.
    let inputs: Vec<(&String, &String)> = products
        .map(|node| (&node.output[0], &node.input[0]))
        .collect();
    let input_of: HashMap<&String, &String> = inputs.iter().copied().collect();
    let triple = |attention: &Node| {
        let parts = attention.input.get(..3)?;
        let x = *input_of.get(&parts[0])?;
        let fits = |value: &String| {
            input_of.get(value) == Some(&x) && uses.get(value.as_str()) == Some(&1)
        };
        parts.iter().all(fits).then(|| Group {
            outputs: parts.to_vec(),
            x: x.clone(),
            attention: Some(attention.name.clone()),
        })
    };
    let attention = graph.node.iter();
    let attention = attention.filter(|node| node.op_type == "GroupQueryAttention");
    let mut groups: Vec<Group> = attention.filter_map(triple).collect();
    let taken: HashSet<&String> = groups.iter().flat_map(|group| &group.outputs).collect();
    let mut others: HashMap<&String, Vec<String>> = HashMap::new();
    for (output, x) in &inputs {
        if !taken.contains(output) {
            others.entry(x).or_default().push((*output).clone());
        }
    }
    let several = others.into_iter().filter(|(_, outputs)| outputs.len() > 1);
    let others: Vec<Group> = several
        .map(|(x, outputs)| Group {
            outputs,
            x: x.clone(),
            attention: None,
        })
        .collect();
    groups.extend(others);
    let by_first = |group: Group| (group.outputs[0].clone(), group);
    groups.into_iter().map(by_first).collect()
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

/// Joins queries, keys and values where attention takes them as they are. Cutting other products apart again would cost
/// more in a prompt than joining them saves.
pub fn join(model: &mut Model) {
    let products = Products::of(model);
    let Some(graph) = &mut model.graph else {
        return;
    };
    let groups = groups(graph, |node| products.weight(node).is_some());
    let by_attention: HashMap<&String, &Group> = groups
        .values()
        .filter_map(|group| Some((group.attention.as_ref()?, group)))
        .collect();
    let joined: HashSet<&String> = by_attention.values().flat_map(|g| &g.outputs).collect();
    let weights: HashMap<String, String> = graph
        .node
        .iter()
        .filter(|node| joined.contains(&node.output[0]))
        .map(|node| (node.output[0].clone(), node.input[1].clone()))
        .collect();
    let mut nodes = Vec::new();
    for mut attention in std::mem::take(&mut graph.node) {
        if joined.contains(&attention.output[0]) {
            continue;
        }
        if let Some(group) = by_attention.get(&attention.name) {
            let parts: Vec<&str> = group.outputs.iter().map(|p| weights[p].as_str()).collect();
            let weight = format!("{}/qkv_weight", attention.name);
            nodes.push(node("Concat", &parts, &weight, vec![int("axis", 0)]));
            let qkv = format!("{}/qkv", attention.name);
            let transposed = vec![int("transB", 1)];
            let mut product = node("FusedMatMul", &[&group.x, &weight], &qkv, transposed);
            product.domain = "com.microsoft".to_owned();
            nodes.push(product);
            take_joined(&mut attention, &qkv);
        }
        nodes.push(attention);
    }
    graph.node = nodes;
    drop_unused(graph);
}
