//! Fusing quantized experts into `QMoE`, which takes codes and scales in the layout of
//! `MatMulNBits` and computes the same products.
//!
//! The experts' codes and scales are concatenated by nodes that ONNX Runtime folds when it opens a
//! session; it packs the codes then anyway.

use super::{ExpertLayer, layers};
use crate::graph::proto::{Graph, Model, Node};
use crate::lowering::NotLowered;
use crate::lowering::products::{drop_unused, int, node, shape_constant};
use crate::lowering::quantized::{attribute, joined_initializer};

const OPERATOR: &str = "QMoE";

/// Index of the input with the experts' weights. Without it, the node uses the softmax over the
/// picked experts' logits.
const ROUTER_WEIGHTS: usize = 14;

/// A quantized weight: the names of its initializers, and its product's attributes.
#[derive(Debug, Clone)]
struct Quantized {
    codes: String,
    scales: String,
    format: BlockFormat,
}

/// The attributes of `MatMulNBits`.
#[derive(Debug, Clone, Copy, PartialEq)]
struct BlockFormat {
    rows: i64,
    columns: i64,
    bits: i64,
    block: i64,
    accuracy: i64,
}

impl BlockFormat {
    /// The attributes of `node`.
    fn of(node: &Node) -> Self {
        let number = |name| attribute(node, name);
        Self {
            rows: number("N"),
            columns: number("K"),
            bits: number("bits"),
            block: number("block_size"),
            accuracy: number("accuracy_level"),
        }
    }

    /// Whether `QMoE` computes the same as `MatMulNBits`. It interprets one block per row as scales
    /// per row, and with 8-bit weights it always rounds its inputs to 8 bits.
    fn computes_alike(self) -> bool {
        let whole = self.block > 0 && self.columns % self.block == 0;
        whole && self.columns > self.block && (self.bits == 4 || self.accuracy == 4)
    }
}

/// Fuses the quantized experts of each layer. Returns the layers that couldn't be fused.
pub fn fuse(model: &mut Model) -> Vec<NotLowered> {
    let mut refused = Vec::new();
    let Some(graph) = &mut model.graph else {
        return refused;
    };
    for layer in layers(graph, weight) {
        match layer {
            Ok(layer) if can_be_fused(&layer) => replace(graph, &layer),
            Ok(layer) => refused.push(layer.refused(
                "ONNX Runtime's operator for quantized experts computes something else with this block size",
            )),
            Err(reason) => refused.push(reason),
        }
    }
    drop_unused(graph);
    refused
}

/// Whether `model` has experts that ONNX Runtime concatenates when it opens a session.
pub fn has_stacked_at_start(model: &Model) -> bool {
    let mut nodes = model.graph.iter().flat_map(|graph| &graph.node);
    nodes.any(|node| node.op_type == OPERATOR)
}

fn weight(product: &Node) -> Result<Quantized, &'static str> {
    match (product.op_type.as_str(), &product.input[..]) {
        ("MatMulNBits", [_, codes, scales]) => Ok(Quantized {
            codes: codes.clone(),
            scales: scales.clone(),
            format: BlockFormat::of(product),
        }),
        _ => Err("ONNX Runtime's operator for quantized experts doesn't have their format"),
    }
}

/// Whether all experts have the same attributes, with which `QMoE` computes the same.
fn can_be_fused(layer: &ExpertLayer<Quantized>) -> bool {
    let formats = |expert: &[Quantized; 3]| expert.each_ref().map(|weight| weight.format);
    let [gate, up, down] = formats(&layer.experts[0]);
    let alike = (down.bits, down.block, down.accuracy) == (gate.bits, gate.block, gate.accuracy);
    let same = |expert: &[Quantized; 3]| formats(expert) == [gate, up, down];
    gate == up
        && alike
        && gate.computes_alike()
        && down.computes_alike()
        && layer.experts.iter().all(same)
}

fn replace(graph: &mut Graph, layer: &ExpertLayer<Quantized>) {
    let format = layer.experts[0][0].format;
    let mut stack = Stack {
        graph,
        layer,
        nodes: Vec::new(),
    };
    let inner = stack.gate_up();
    let outer = stack.down();
    let made = stack.nodes;
    // They depend on no input, so they're put first.
    graph.node.splice(..0, made);
    let mut input = vec![String::new(); ROUTER_WEIGHTS + 1];
    input[0].clone_from(&layer.rows);
    // Experts that aren't picked have weight 0, so the node picks the same ones.
    input[1].clone_from(&layer.weights);
    [input[2], input[3]] = inner;
    [input[5], input[6]] = outer;
    input[ROUTER_WEIGHTS].clone_from(&layer.weights);
    let own = vec![
        int("expert_weight_bits", format.bits),
        int("block_size", format.block),
        int("accuracy_level", format.accuracy),
        int("normalize_routing_weights", 0),
    ];
    layer.replace(graph, OPERATOR, input, own);
}

/// Adds nodes that concatenate the codes and scales of all experts.
struct Stack<'a> {
    graph: &'a mut Graph,
    layer: &'a ExpertLayer<Quantized>,
    nodes: Vec<Node>,
}

impl Stack<'_> {
    /// `down_proj`: codes `[experts, rows, bytes]` and scales `[experts, rows, blocks]`.
    fn down(&mut self) -> [String; 2] {
        let rows = self.layer.experts[0][2].format.rows;
        self.all("down", |[_, _, down]| down)
            .map(|all| self.cut(&all, rows))
    }

    /// `gate_proj` and `up_proj` with alternating rows. They're concatenated along the columns, so
    /// that reshaping makes two rows of each.
    fn gate_up(&mut self) -> [String; 2] {
        let rows = 2 * self.layer.experts[0][0].format.rows;
        let gate = self.all("gate", |[gate, _, _]| gate);
        let up = self.all("up", |[_, up, _]| up);
        [0, 1].map(|part| {
            let both = format!("{}/beside", up[part]);
            let inputs = [gate[part].as_str(), up[part].as_str()];
            let made = node("Concat", &inputs, &both, vec![int("axis", 1)]);
            self.nodes.push(made);
            self.cut(&both, rows)
        })
    }

    /// Codes and scales of one weight of all experts, concatenated, `[experts · rows, …]`.
    fn all(&mut self, name: &str, weight: impl Fn(&[Quantized; 3]) -> &Quantized) -> [String; 2] {
        let weights = self.layer.experts.iter().map(weight);
        let (codes, scales): (Vec<_>, Vec<_>) = weights
            .map(|weight| (weight.codes.clone(), weight.scales.clone()))
            .unzip();
        [("codes", codes), ("scales", scales)].map(|(what, names)| {
            let joined = format!("{}/{name}.{what}", self.layer.sum);
            joined_initializer(self.graph, &mut self.nodes, &names, &joined)
        })
    }

    /// `all` reshaped to `[experts, rows, …]`.
    fn cut(&mut self, all: &str, rows: i64) -> String {
        let shape = [self.layer.experts.len() as i64, rows, -1];
        let name = format!("experts.{}.{rows}", shape[0]);
        let shape = shape_constant(self.graph, &name, &shape);
        let cut = format!("{all}/cut");
        self.nodes
            .push(node("Reshape", &[all, &shape], &cut, Vec::new()));
        cut
    }
}
