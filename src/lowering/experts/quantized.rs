//! `QMoE`: codes and scales as `MatMulNBits` has them, and the same products of blocks.
//!
//! ONNX Runtime stacks them when a session starts, where it packs the codes anyway.

use super::{ExpertLayer, layers};
use crate::graph::proto::{Graph, Model, Node};
use crate::lowering::NotLowered;
use crate::lowering::products::{drop_unused, int, node, shape_constant};
use crate::lowering::quantized::{attribute, joined_initializer};

const OPERATOR: &str = "QMoE";

/// The place among the inputs of what each picked expert's output is multiplied with. Without it, it's the softmax over the
/// picked ones.
const ROUTER_WEIGHTS: usize = 14;

/// A quantized weight, by the names of its initializers.
#[derive(Debug, Clone)]
struct Quantized {
    codes: String,
    scales: String,
    form: Form,
}

/// The attributes of `MatMulNBits`.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Form {
    rows: i64,
    columns: i64,
    bits: i64,
    block: i64,
    accuracy: i64,
}

impl Form {
    /// Of the product `node`.
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

    /// Whether `QMoE` computes it as `MatMulNBits` does. It takes a single block of a row for scales of whole rows, and
    /// always rounds inputs where weights have 8 bits.
    fn is_same(self) -> bool {
        let whole = self.block > 0 && self.columns % self.block == 0;
        whole && self.columns > self.block && (self.bits == 4 || self.accuracy == 4)
    }
}

/// Makes one node of the quantized experts of each layer. Returns the layers that stay as they are.
pub fn fuse(model: &mut Model) -> Vec<NotLowered> {
    let mut refused = Vec::new();
    let Some(graph) = &mut model.graph else {
        return refused;
    };
    for layer in layers(graph, weight) {
        match layer {
            Ok(layer) if can_be_one(&layer) => replace(graph, &layer),
            Ok(layer) => refused.push(layer.refused(
                "ONNX Runtime's node for quantized experts would compute something else with blocks of this form",
            )),
            Err(reason) => refused.push(reason),
        }
    }
    drop_unused(graph);
    refused
}

/// Whether `model` has experts that ONNX Runtime stacks when its session starts.
pub fn has_stacked_at_start(model: &Model) -> bool {
    let mut nodes = model.graph.iter().flat_map(|graph| &graph.node);
    nodes.any(|node| node.op_type == OPERATOR)
}

fn weight(product: &Node) -> Result<Quantized, &'static str> {
    match (product.op_type.as_str(), &product.input[..]) {
        ("MatMulNBits", [_, codes, scales]) => Ok(Quantized {
            codes: codes.clone(),
            scales: scales.clone(),
            form: Form::of(product),
        }),
        _ => Err("ONNX Runtime's node for quantized experts has no such codes"),
    }
}

/// Whether all experts have the same form, and a kind of it that the node computes alike.
fn can_be_one(layer: &ExpertLayer<Quantized>) -> bool {
    let forms = |expert: &[Quantized; 3]| expert.each_ref().map(|weight| weight.form);
    let [gate, up, down] = forms(&layer.experts[0]);
    let alike = (down.bits, down.block, down.accuracy) == (gate.bits, gate.block, gate.accuracy);
    let same = |expert: &[Quantized; 3]| forms(expert) == [gate, up, down];
    gate == up && alike && gate.is_same() && down.is_same() && layer.experts.iter().all(same)
}

fn replace(graph: &mut Graph, layer: &ExpertLayer<Quantized>) {
    let form = layer.experts[0][0].form;
    let mut stack = Stack {
        graph,
        layer,
        nodes: Vec::new(),
    };
    let inner = stack.gate_up();
    let outer = stack.down();
    let made = stack.nodes;
    // They depend on no input, and come before everything.
    graph.node.splice(..0, made);
    let mut input = vec![String::new(); ROUTER_WEIGHTS + 1];
    input[0].clone_from(&layer.rows);
    // What isn't picked is 0 there, so that the node picks the same ones.
    input[1].clone_from(&layer.weights);
    [input[2], input[3]] = inner;
    [input[5], input[6]] = outer;
    input[ROUTER_WEIGHTS].clone_from(&layer.weights);
    let own = vec![
        int("expert_weight_bits", form.bits),
        int("block_size", form.block),
        int("accuracy_level", form.accuracy),
        int("normalize_routing_weights", 0),
    ];
    layer.replace(graph, OPERATOR, input, own);
}

/// Adds nodes that bring codes and scales of all experts behind one another.
struct Stack<'a> {
    graph: &'a mut Graph,
    layer: &'a ExpertLayer<Quantized>,
    nodes: Vec<Node>,
}

impl Stack<'_> {
    /// `down_proj`: codes `[experts, rows, bytes]` and scales `[experts, rows, blocks]`.
    fn down(&mut self) -> [String; 2] {
        let rows = self.layer.experts[0][2].form.rows;
        self.all("down", |[_, _, down]| down)
            .map(|all| self.cut(&all, rows))
    }

    /// `gate_proj` and `up_proj`, their rows in turn: a row of both is one twice as long before it's cut.
    fn gate_up(&mut self) -> [String; 2] {
        let rows = 2 * self.layer.experts[0][0].form.rows;
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

    /// Codes and scales of the same weight of all experts, `[experts · rows, …]`.
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

    /// `all` as `[experts, rows, …]`.
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
