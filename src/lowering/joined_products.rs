//! Joining products with the same input into one, whose weight is the concatenation of theirs.
//!
//! Every product starts and stops the threads once, which for a single token takes as long as
//! reading some hundred KB.

use std::collections::{HashMap, HashSet};

use super::products::{int, node, shape_constant, uses};
use crate::graph::proto::{Graph, Node};

/// Two or more products with the same input.
#[derive(Debug)]
pub struct ProductGroup {
    /// Their outputs, in the graph's order.
    pub outputs: Vec<String>,
    /// Their input.
    pub x: String,
    /// The attention node that takes all of them directly as queries, keys and values, if nothing
    /// else uses them.
    pub attention: Option<String>,
}

/// The groups among the nodes for which `is_product` is true, by the first product's output.
pub fn groups(graph: &Graph, is_product: impl Fn(&Node) -> bool) -> HashMap<String, ProductGroup> {
    let uses = uses(graph);
    let products = graph.node.iter().filter(|node| is_product(node));
    // `(output, input)` of each product, in the graph's order.
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
        parts.iter().all(fits).then(|| ProductGroup {
            outputs: parts.to_vec(),
            x: x.clone(),
            attention: Some(attention.name.clone()),
        })
    };
    let attention = graph.node.iter();
    let attention = attention.filter(|node| node.op_type == "GroupQueryAttention");
    let mut groups: Vec<ProductGroup> = attention.filter_map(triple).collect();
    let taken: HashSet<&String> = groups.iter().flat_map(|group| &group.outputs).collect();
    let mut others: HashMap<&String, Vec<String>> = HashMap::new();
    for (output, x) in &inputs {
        if !taken.contains(output) {
            others.entry(x).or_default().push((*output).clone());
        }
    }
    let several = others.into_iter().filter(|(_, outputs)| outputs.len() > 1);
    let others: Vec<ProductGroup> = several
        .map(|(x, outputs)| ProductGroup {
            outputs,
            x: x.clone(),
            attention: None,
        })
        .collect();
    groups.extend(others);
    let by_first = |group: ProductGroup| (group.outputs[0].clone(), group);
    groups.into_iter().map(by_first).collect()
}

/// Replaces the queries, keys and values of `attention` by the joined value `qkv`.
pub fn take_joined(attention: &mut Node, qkv: &str) {
    attention.input[0] = qkv.to_owned();
    attention.input[1].clear();
    attention.input[2].clear();
}

/// A node that splits `joined` along `axis` into `outputs`, whose sizes are `rows`.
pub fn split(graph: &mut Graph, joined: &str, outputs: &[String], rows: &[i64], axis: i64) -> Node {
    let sizes: Vec<String> = rows.iter().map(i64::to_string).collect();
    let parts = shape_constant(graph, &format!("parts.{}", sizes.join(".")), rows);
    let axis = vec![int("axis", axis)];
    let mut split = node("Split", &[joined, &parts], &outputs[0], axis);
    split.name = format!("{joined}/Split");
    split.output = outputs.to_vec();
    split
}
