//! Experts in one node: `MoE`, with the weights of all experts stacked.
//!
//! A prepared graph has a dozen nodes for each expert, which run whether a token picks it or not: with 64 experts in each of
//! 16 layers they take longer than reading the weights of those that are picked. ONNX Runtime's own node goes through the
//! picked ones alone, several at a time. It wants the experts' weights behind one another, the rows of `gate_proj` and
//! `up_proj` in turn, so that they're copied once, like others ([`super::pack`]).
//!
//! Where an adapter's nodes come between, a layer stays as it is.

use std::collections::HashMap;

use super::pack::{Found, LaidOutFiles, PackError};
use super::piece::Piece;
use super::products::{Products, Weight, drop_unused, float, int, text};
use crate::graph::proto::{Graph, Model, Node, Tensor};

/// The experts of a layer.
#[derive(Debug)]
struct Layer {
    /// The node that adds the last expert's rows: its output is the sum of all.
    last: String,
    /// What goes in, `[tokens, hidden_size]`.
    rows: String,
    /// The router's, `[tokens, experts]`.
    logits: String,
    /// Experts that a token goes through.
    per_token: i64,
    /// Whether their weights are divided by their sum.
    normalised: bool,
    /// `gate_proj` and `up_proj` of all experts, and `down_proj`.
    weights: [Vec<Piece>; 2],
}

/// The weights that `model` wants stacked, in groups that shall follow each other.
pub fn wanted(model: &Model) -> Vec<Vec<Piece>> {
    let layers = model.graph.iter().flat_map(|graph| {
        let products = Products::of(model);
        Reader::new(graph, &products).layers()
    });
    layers.flat_map(|layer| layer.weights).collect()
}

/// Makes one node of each layer's experts whose weights are stacked in `files`.
///
/// # Errors
/// If a file can't be read.
pub fn fuse(model: &mut Model, files: &LaidOutFiles) -> Result<(), PackError> {
    let products = Products::of(model);
    let Some(graph) = &mut model.graph else {
        return Ok(());
    };
    for layer in Reader::new(graph, &products).layers() {
        let [inner, outer] = &layer.weights;
        if let (Some(inner), Some(outer)) = (files.find(inner)?, files.find(outer)?) {
            replace(graph, &layer, &inner, &outer);
        }
    }
    drop_unused(graph);
    Ok(())
}

fn replace(graph: &mut Graph, layer: &Layer, inner: &Found, outer: &Found) {
    let experts = layer.weights[0].len();
    let mut stacked = |part: &str, found: &Found| {
        let name = format!("{}/{part}", layer.last);
        let dims = [experts, found.rows / experts, found.columns].map(|size| size as i64);
        let tensor = found.initializer(&name, dims.to_vec());
        graph.initializer.push(tensor);
        name
    };
    let inner = stacked("gate_up.weight", inner);
    let outer = stacked("down.weight", outer);
    let none = String::new;
    let node = graph.node.iter_mut().find(|node| node.name == layer.last);
    let Some(node) = node else {
        return;
    };
    let output = node.output.clone();
    *node = Node {
        input: vec![
            layer.rows.clone(),
            layer.logits.clone(),
            inner,
            none(),
            outer,
        ],
        output,
        name: layer.last.clone(),
        op_type: "MoE".to_owned(),
        attribute: vec![
            int("k", layer.per_token),
            text("activation_type", "swiglu"),
            // Rows of the two in turn, the only order that the node knows on a CPU.
            int("swiglu_fusion", 1),
            // swiglu = g * sigmoid(alpha * g) * (up + beta)
            float("activation_alpha", 1.0),
            float("activation_beta", 0.0),
            int("normalize_routing_weights", layer.normalised.into()),
        ],
        domain: "com.microsoft".to_owned(),
    };
}

/// One of them.
struct Expert<'a> {
    /// The sum of those before it.
    before: &'a str,
    /// What goes into the layer.
    rows: &'a str,
    /// Of each expert for each token, `[tokens, experts]`.
    weights: &'a str,
    /// Its place among them.
    index: i64,
    gate: &'a Weight,
    up: &'a Weight,
    down: &'a Weight,
}

/// Follows values back to the nodes that make them.
struct Reader<'a> {
    graph: &'a Graph,
    products: &'a Products,
    makers: HashMap<&'a str, &'a Node>,
    constants: HashMap<&'a str, &'a Tensor>,
}

impl<'a> Reader<'a> {
    fn new(graph: &'a Graph, products: &'a Products) -> Self {
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
    fn layers(&self) -> Vec<Layer> {
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

    fn layer(&self, last: &'a Node) -> Option<Layer> {
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
        let same = |(index, expert): (usize, &Expert)| {
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
        let pair = |expert: &Expert| Piece::Alternating(expert.gate.clone(), expert.up.clone());
        let down = |expert: &Expert| Piece::Rows(expert.down.clone());
        Some(Layer {
            last: last.name.clone(),
            rows: rows.to_owned(),
            logits: chances.input[0].clone(),
            per_token: self.number(&top.input[1])?,
            normalised: divided.is_some(),
            weights: [
                experts.iter().map(pair).collect(),
                experts.iter().map(down).collect(),
            ],
        })
    }

    /// The expert whose rows `sum` adds; see [`crate::graph`] for its nodes.
    fn expert(&self, sum: &'a Node) -> Option<Expert<'a>> {
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
            gate,
            up,
            down,
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
    fn product(&self, value: &str) -> Option<(&'a str, &'a Weight)> {
        let weight = self.products.routed_weight_of(value)?;
        Some((&self.made_by(value, "FusedMatMul")?.input[0], weight))
    }

    /// A constant of one whole number.
    fn number(&self, name: &str) -> Option<i64> {
        let bytes = &self.constants.get(name)?.raw_data;
        Some(i64::from_le_bytes(bytes.as_slice().try_into().ok()?))
    }
}
