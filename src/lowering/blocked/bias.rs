//! Moving biases into the convolution.

use std::collections::HashMap;

use super::selection::is_whole;
use super::{Rewriting, consumers};
use crate::graph::proto::{Graph, Tensor, element};
use crate::lowering::products::{Products, int, node};

/// Removes the `Add` nodes of biases whose product isn't used elsewhere: the product takes the name
/// of the sum. Returns the biases by these names.
pub(super) fn take_biases(
    graph: &mut Graph,
    products: &mut Products,
    block: usize,
) -> HashMap<String, String> {
    let consumers = consumers(&graph.node);
    let mut biases = HashMap::new();
    let mut sums: HashMap<String, String> = HashMap::new();
    for node in &graph.node {
        let Some(weight) = products.weight(node) else {
            continue;
        };
        let product = &node.output[0];
        let Some([add]) = consumers.get(product).map(Vec::as_slice) else {
            continue;
        };
        let bias = match &add.input[..] {
            [a, b] if a == product => b,
            [a, b] if b == product => a,
            _ => continue,
        };
        let fits = is_whole(weight, block) && products.is_constant_vector(graph, bias);
        if add.op_type == "Add" && fits {
            biases.insert(add.output[0].clone(), bias.clone());
            sums.insert(product.clone(), add.output[0].clone());
        }
    }
    graph
        .node
        .retain(|node| !biases.contains_key(&node.output[0]));
    for node in &mut graph.node {
        if let Some(sum) = sums.get(&node.output[0]) {
            products.rename(&node.output[0], sum);
            node.output[0].clone_from(sum);
        }
    }
    biases
}

/// A constant vector of `rows` zeros.
fn zeros(graph: &mut Graph, rows: i64) -> String {
    let name = format!("zeros.{rows}");
    if !graph.initializer.iter().any(|tensor| tensor.name == name) {
        graph.initializer.push(Tensor {
            dims: vec![rows],
            data_type: element::FLOAT32,
            name: name.clone(),
            raw_data: vec![0; 4 * rows as usize],
            ..Default::default()
        });
    }
    name
}

impl Rewriting<'_> {
    /// The biases of `outputs`, whose sizes are `rows`, as one vector; zeros for outputs without a
    /// bias.
    pub(super) fn joined_bias(
        &mut self,
        joined: &str,
        outputs: &[String],
        rows: &[i64],
    ) -> Option<String> {
        let biases: Vec<Option<String>> = outputs
            .iter()
            .map(|output| self.biases.get(output).cloned())
            .collect();
        biases.iter().flatten().next()?;
        let biases: Vec<String> = biases
            .into_iter()
            .zip(rows)
            .map(|(bias, &rows)| bias.unwrap_or_else(|| zeros(self.graph, rows)))
            .collect();
        let biases: Vec<&str> = biases.iter().map(String::as_str).collect();
        let bias = format!("{joined}/bias");
        let axis = vec![int("axis", 0)];
        self.graph.node.push(node("Concat", &biases, &bias, axis));
        Some(bias)
    }
}
