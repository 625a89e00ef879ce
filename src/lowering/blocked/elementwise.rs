//! Elementwise operators after a product, which stay in blocks.

use super::Rewriting;
use super::reorder::Blocked;
use crate::graph::proto::Node;

/// Elementwise operators with one input.
const ELEMENTWISE: [&str; 4] = ["QuickGelu", "Relu", "Gelu", "FastGelu"];

impl Rewriting<'_> {
    /// Whether all nodes that use the product `value` can take it in blocks.
    pub(super) fn stays_blocked(&self, value: &str) -> bool {
        let consumers = self.consumers.get(value).into_iter().flatten();
        let mut consumers = consumers.peekable();
        consumers.peek().is_some()
            && consumers.all(|node| {
                let pair = ["Mul", "Add"].contains(&node.op_type.as_str())
                    && !node
                        .input
                        .iter()
                        .any(|name| self.products.is_constant(name));
                pair || ELEMENTWISE.contains(&node.op_type.as_str())
            })
    }

    /// The blocked inputs of an elementwise node, if each of them has only the blocked form.
    pub(super) fn elementwise_inputs(&self, node: &Node) -> Option<Vec<Blocked>> {
        let operator = node.op_type.as_str();
        let known = match node.input.len() {
            1 => ELEMENTWISE.contains(&operator),
            2 => ["Mul", "Add"].contains(&operator),
            _ => false,
        };
        let only = |name: &String| self.blocked.get(name).filter(|blocked| !blocked.plain);
        let inputs: Option<Vec<Blocked>> =
            known.then(|| node.input.iter().map(|name| only(name).cloned()).collect())?;
        inputs.filter(|inputs| {
            let same = |input: &Blocked| {
                (input.channels, input.one_position) == (inputs[0].channels, inputs[0].one_position)
            };
            inputs.iter().all(same)
        })
    }

    /// Adds the elementwise node `plain` over blocked `inputs`.
    pub(super) fn elementwise(&mut self, plain: &Node, inputs: &[Blocked]) {
        let name = format!("{}/blocked", plain.output[0]);
        self.graph.node.push(Node {
            input: inputs.iter().map(|input| input.name.clone()).collect(),
            output: vec![name.clone()],
            ..plain.clone()
        });
        let made = Blocked {
            name,
            ..inputs[0].clone()
        };
        self.blocked.insert(plain.output[0].clone(), made);
    }
}
