//! Experts in one node.
//!
//! A prepared graph has a dozen nodes for each expert, which run whether a token picks it or not: with 64 experts in each of
//! 16 layers they take longer than reading the weights of those that are picked. ONNX Runtime's own nodes go through the
//! picked ones alone, several at a time: `MoE` with plain weights ([`stacked`]), `QMoE` with quantized ones ([`quantized`]). Both
//! want the experts' weights behind one another, the rows of `gate_proj` and `up_proj` in turn.
//!
//! Where an adapter's nodes come between, a layer stays as it is.

pub mod quantized;
pub mod stacked;

use std::collections::HashMap;

use super::products::{float, int, text};
use crate::graph::proto::{Attribute, Graph, Node, Tensor};

/// The experts of a layer, whose weights are each a `W`.
#[derive(Debug)]
struct Layer<W> {
    /// The node that adds the last expert's rows: its output is the sum of all.
    last: String,
    /// What goes in, `[tokens, hidden_size]`.
    rows: String,
    /// The router's, `[tokens, experts]`.
    logits: String,
    /// What becomes of them: 0 of experts that aren't picked.
    weights: String,
    /// Experts that a token goes through.
    per_token: i64,
    /// Whether their weights are divided by their sum.
    normalised: bool,
    /// `gate_proj`, `up_proj` and `down_proj` of each.
    experts: Vec<[W; 3]>,
}

impl<W> Layer<W> {
    /// What both operators are told.
    fn attributes(&self) -> Vec<Attribute> {
        vec![
            int("k", self.per_token),
            text("activation_type", "swiglu"),
            // Rows of the two in turn, the only order that the nodes know on a CPU.
            int("swiglu_fusion", 1),
            // swiglu = g * sigmoid(alpha * g) * (up + beta)
            float("activation_alpha", 1.0),
            float("activation_beta", 0.0),
        ]
    }

    /// Puts a node of `operator` in the place of the layer's last one. The others are then unused.
    fn replace(&self, graph: &mut Graph, operator: &str, input: Vec<String>, own: Vec<Attribute>) {
        let node = graph.node.iter_mut().find(|node| node.name == self.last);
        if let Some(node) = node {
            let mut attribute = self.attributes();
            attribute.extend(own);
            *node = Node {
                input,
                output: node.output.clone(),
                name: self.last.clone(),
                op_type: operator.to_owned(),
                attribute,
                domain: "com.microsoft".to_owned(),
            };
        }
    }
}

/// A product by its output: what goes in, and its weight.
type Products<'a, W> = HashMap<&'a str, (&'a str, W)>;

/// One of them.
struct Expert<'a, W> {
    /// The sum of those before it.
    before: &'a str,
    /// What goes into the layer.
    rows: &'a str,
    /// Of each expert for each token, `[tokens, experts]`.
    weights: &'a str,
    /// Its place among them.
    index: i64,
    /// `gate_proj`, `up_proj` and `down_proj`.
    parts: [W; 3],
}

/// Follows values back to the nodes that make them.
struct Reader<'a, W> {
    graph: &'a Graph,
    products: Products<'a, W>,
    makers: HashMap<&'a str, &'a Node>,
    constants: HashMap<&'a str, &'a Tensor>,
}

impl<'a, W: Clone> Reader<'a, W> {
    fn new(graph: &'a Graph, products: Products<'a, W>) -> Self {
        let outputs = |node: &'a Node| node.output.iter().map(move |name| (name.as_str(), node));
        let constants = graph.initializer.iter();
        Self {
            graph,
            products,
            makers: graph.node.iter().flat_map(outputs).collect(),
            constants: constants
                .map(|tensor| (tensor.name.as_str(), tensor))
                .collect(),
        }
    }

    /// All layers whose experts are perceptrons of plain weights and nothing else.
    fn layers(&self) -> Vec<Layer<W>> {
        let continued: Vec<&str> = self.sums().map(|node| node.input[0].as_str()).collect();
        self.sums()
            .filter(|node| !continued.contains(&node.output[0].as_str()))
            .filter_map(|last| self.layer(last))
            .collect()
    }

    /// The nodes that add an expert's rows.
    fn sums(&self) -> impl Iterator<Item = &'a Node> {
        self.graph
            .node
            .iter()
            .filter(|node| node.op_type == "ScatterND")
    }

    fn layer(&self, last: &'a Node) -> Option<Layer<W>> {
        let mut experts = Vec::new();
        let mut node = last;
        let (rows, weights) = loop {
            let expert = self.expert(node)?;
            let before = expert.before;
            let shared = (expert.rows, expert.weights);
            experts.push(expert);
            match self.made_by(before, "ScatterND") {
                Some(next) => node = next,
                None => break shared,
            }
        };
        experts.reverse();
        let same = |(index, expert): (usize, &Expert<W>)| {
            (expert.rows, expert.weights) == (rows, weights) && expert.index == index as i64
        };
        if !experts.iter().enumerate().all(same) {
            return None;
        }
        let scattered = self.made_by(weights, "ScatterElements")?;
        let [_, _, picked] = &scattered.input[..] else {
            return None;
        };
        let divided = self.made_by(picked, "Div");
        let picked = divided.map_or(picked, |node| &node.input[0]);
        let top = self.made_by(picked, "TopK")?;
        let chances = self.made_by(&top.input[0], "Softmax")?;
        Some(Layer {
            last: last.name.clone(),
            rows: rows.to_owned(),
            logits: chances.input[0].clone(),
            weights: weights.to_owned(),
            per_token: self.number(&top.input[1])?,
            normalised: divided.is_some(),
            experts: experts.into_iter().map(|expert| expert.parts).collect(),
        })
    }

    /// The expert whose rows `sum` adds; see [`crate::graph`] for its nodes.
    fn expert(&self, sum: &'a Node) -> Option<Expert<'a, W>> {
        let [before, _, weighted] = &sum.input[..] else {
            return None;
        };
        let [made, column] = self.inputs(weighted, "Mul")?;
        let (inner, down) = self.product(made)?;
        let [activated, up] = self.inputs(inner, "Mul")?;
        let activation = self.made_by(activated, "QuickGelu")?;
        let is_silu = activation
            .attribute
            .iter()
            .all(|a| a.name != "alpha" || a.f == 1.0);
        let (picked, gate) = self.product(&activation.input[0])?;
        let (also, up) = self.product(up)?;
        let [rows, tokens] = self.inputs(picked, "Gather")?;
        let column = self.made_by(column, "Reshape")?;
        let [weight, places] = self.inputs(&column.input[0], "Gather")?;
        let [weights, index] = self.inputs(weight, "Gather")?;
        (is_silu && also == picked && places == tokens).then_some(())?;
        Some(Expert {
            before,
            rows,
            weights,
            index: self.number(index)?,
            parts: [gate, up, down],
        })
    }

    fn made_by(&self, value: &str, operator: &str) -> Option<&'a Node> {
        let node = self.makers.get(value).copied();
        node.filter(|node| node.op_type == operator)
    }

    fn inputs(&self, value: &str, operator: &str) -> Option<[&'a str; 2]> {
        match &self.made_by(value, operator)?.input[..] {
            [a, b] => Some([a, b]),
            _ => None,
        }
    }

    /// What `value` is a product of.
    fn product(&self, value: &str) -> Option<(&'a str, W)> {
        self.products.get(value).cloned()
    }

    /// A constant of one whole number.
    fn number(&self, name: &str) -> Option<i64> {
        let bytes = &self.constants.get(name)?.raw_data;
        Some(i64::from_le_bytes(bytes.as_slice().try_into().ok()?))
    }
}
