//! Adding nodes of any operator.

use super::value::attribute;
use super::{Attr, GraphBuilder, MICROSOFT, STANDARD, Value};
use crate::graph::{Role, proto};

impl GraphBuilder<'_> {
    /// Adds a standard operator with one output, which is named after the node.
    pub fn op(&mut self, op: &str, name: &str, inputs: &[&Value], attrs: &[(&str, Attr)]) -> Value {
        self.node(STANDARD, op, name, inputs, &[name], attrs)
            .remove(0)
    }

    /// Adds a standard operator with several named outputs.
    pub fn op_outputs<const N: usize>(
        &mut self,
        op: &str,
        name: &str,
        inputs: &[&Value],
        outputs: [String; N],
        attrs: &[(&str, Attr)],
    ) -> [Value; N] {
        let names = outputs.each_ref().map(String::as_str);
        let made = self.node(STANDARD, op, name, inputs, &names, attrs);
        made.try_into()
            .expect("a node has the outputs that were named")
    }

    /// Adds a contributed operator with one output, which is named after the node.
    pub fn contrib(
        &mut self,
        op: &str,
        name: &str,
        inputs: &[&Value],
        attrs: &[(&str, Attr)],
    ) -> Value {
        self.node(MICROSOFT, op, name, inputs, &[name], attrs)
            .remove(0)
    }

    /// Adds a contributed operator with several named outputs; an empty name leaves one out.
    pub fn contrib_outputs(
        &mut self,
        op: &str,
        name: &str,
        inputs: &[&Value],
        outputs: &[&str],
        attrs: &[(&str, Attr)],
    ) -> Vec<Value> {
        self.node(MICROSOFT, op, name, inputs, outputs, attrs)
    }

    fn node(
        &mut self,
        domain: &str,
        op: &str,
        name: &str,
        inputs: &[&Value],
        outputs: &[&str],
        attrs: &[(&str, Attr)],
    ) -> Vec<Value> {
        let outputs: Vec<String> = outputs.iter().map(|name| self.scoped(name)).collect();
        let is_last = |value: &&Value| self.last.contains(&value.0);
        if inputs.iter().any(is_last) {
            self.last.extend(outputs.iter().cloned());
        }
        self.graph.node.push(proto::Node {
            input: inputs.iter().map(|value| value.0.clone()).collect(),
            output: outputs.clone(),
            name: self.scoped(name),
            op_type: op.to_owned(),
            attribute: attrs
                .iter()
                .map(|(name, attr)| attribute(name, attr))
                .collect(),
            domain: domain.to_owned(),
            metadata_props: Vec::new(),
        });
        outputs.into_iter().map(Value).collect()
    }

    /// Sets the role of the node whose first output is `value`.
    pub fn set_role(&mut self, value: &Value, role: &Role) {
        // Searched from the end, where it usually is.
        let mut nodes = self.graph.node.iter_mut().rev();
        if let Some(node) = nodes.find(|node| node.output.first() == Some(&value.0)) {
            role.write_to(node);
        }
    }

    /// The value for an optional input that's left out.
    pub fn absent() -> Value {
        Value(String::new())
    }

    /// Renames `value`, which must not be the input of a node yet.
    pub fn renamed(&mut self, value: &Value, name: &str) -> Value {
        let outputs = self.graph.node.iter_mut().flat_map(|node| &mut node.output);
        for output in outputs.filter(|output| **output == value.0) {
            name.clone_into(output);
        }
        if self.last.remove(&value.0) {
            self.last.insert(name.to_owned());
        }
        Value(name.to_owned())
    }
}
