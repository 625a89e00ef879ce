//! Weights on the left: `yᵀ = W xᵀ` in place of `y = x Wᵀ`, for runs of several tokens.
//!
//! In every run, ONNX Runtime copies the right factor of a product into panels before it
//! multiplies, and streams the left factor. With the weight on the left, only the few tokens are
//! copied, and reading the weight overlaps with multiplying. A weight that ONNX Runtime packed
//! beforehand has neither advantage.
//!
//! ```text
//! x ── W_gate xᵀ ── act ──┐
//! x ── W_up xᵀ ───────────┴─ Mul ── W_down · ── Transpose ── y
//! ```
//!
//! Elementwise operators after a product stay transposed, so the MLP needs one transposition, at
//! its end. After the last position is selected there's a single token, and nothing is transposed.

use std::collections::HashMap;

use super::products::{Products, drop_unused, int, ints, node, output_names, shape_constant};
use crate::graph::proto::{Graph, Model, Node};

/// Operators of one input that work element by element.
const ELEMENTWISE: [&str; 4] = ["QuickGelu", "Relu", "Gelu", "FastGelu"];

/// Transposes the products of `model`, which must be run with one sequence.
pub fn transpose_products(model: &mut Model) {
    let products = Products::of(model);
    let Some(graph) = &mut model.graph else {
        return;
    };
    let nodes = std::mem::take(&mut graph.node);
    let mut transposing = Transposing {
        graph,
        products,
        transposed: HashMap::new(),
    };
    for node in nodes {
        transposing.node(node);
    }
    for output in output_names(transposing.graph) {
        transposing.make_plain(&output);
    }
    drop_unused(graph);
}

struct Transposing<'a> {
    graph: &'a mut Graph,
    products: Products,
    /// Values that have a transposed form, `[1, n, sequence]`: its name, and whether the plain form
    /// exists as well.
    transposed: HashMap<String, (String, bool)>,
}

impl Transposing<'_> {
    fn node(&mut self, node: Node) {
        if self.products.out_in_weight(&node).is_some() && !self.products.is_last_position(&node) {
            return self.product(node);
        }
        if ELEMENTWISE.contains(&node.op_type.as_str())
            && let Some(x) = self.only_transposed(&node.input[0])
        {
            return self.elementwise(node, vec![x]);
        }
        if ["Mul", "Add"].contains(&node.op_type.as_str())
            && let Some(inputs) = self.both(&node)
        {
            return self.elementwise(node, inputs);
        }
        for input in &node.input {
            self.make_plain(input);
        }
        self.graph.node.push(node);
    }

    fn product(&mut self, product: Node) {
        let (x, weight) = (&product.input[0], &product.input[1]);
        let (x, trans_b) = match self.transposed.get(x) {
            Some((transposed, _)) => (transposed.clone(), 0),
            None => (x.clone(), 1),
        };
        let transposed = format!("{}/transposed", product.output[0]);
        let node = Node {
            input: vec![weight.clone(), x],
            output: vec![transposed.clone()],
            attribute: vec![int("transB", trans_b)],
            ..product.clone()
        };
        self.graph.node.push(node);
        self.transposed
            .insert(product.output[0].clone(), (transposed, false));
    }

    fn elementwise(&mut self, plain: Node, inputs: Vec<String>) {
        let transposed = format!("{}/transposed", plain.output[0]);
        let node = Node {
            input: inputs,
            output: vec![transposed.clone()],
            ..plain.clone()
        };
        self.graph.node.push(node);
        self.transposed
            .insert(plain.output[0].clone(), (transposed, false));
    }

    /// The transposed form of `value`, if it's the only one.
    fn only_transposed(&self, value: &str) -> Option<String> {
        let (transposed, both) = self.transposed.get(value)?;
        (!both).then(|| transposed.clone())
    }

    /// The transposed inputs of a sum or product: two transposed values, or one and a constant
    /// vector (a bias).
    fn both(&mut self, node: &Node) -> Option<Vec<String>> {
        let [a, b] = &node.input[..] else {
            return None;
        };
        match (self.only_transposed(a), self.only_transposed(b)) {
            (Some(a), Some(b)) => Some(vec![a, b]),
            (Some(a), None) if self.products.is_constant_vector(self.graph, b) => {
                Some(vec![a, self.column(b)])
            }
            _ => None,
        }
    }

    /// A constant vector as a column; ONNX Runtime folds the `Reshape`.
    fn column(&mut self, vector: &str) -> String {
        let shape = shape_constant(self.graph, "column", &[-1, 1]);
        let name = format!("{vector}/column");
        if !self.graph.node.iter().any(|node| node.name == name) {
            let reshape = node("Reshape", &[vector, &shape], &name, Vec::new());
            self.graph.node.push(reshape);
        }
        name
    }

    /// Adds the plain form of `value`, if only the transposed one exists.
    fn make_plain(&mut self, value: &str) {
        let Some((transposed, plain @ false)) = self.transposed.get_mut(value) else {
            return;
        };
        *plain = true;
        let perm = vec![ints("perm", &[0, 2, 1])];
        let mut back = node("Transpose", &[transposed], value, perm);
        back.name = format!("{value}/Transpose");
        self.graph.node.push(back);
    }
}
