//! Finds the matrix products of a graph, and has helpers to rewrite them.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::model_file::ROOT;
use crate::graph::Role;
use crate::graph::proto::{Attribute, Graph, Model, Node, Tensor, dtype, element};
use crate::weights::ByteSpan;

/// A weight stored in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weight {
    /// The weight's bytes.
    pub span: ByteSpan,
    /// `out_features`
    pub rows: usize,
    /// `in_features`
    pub columns: usize,
    /// Whether it's stored as `[columns, rows]` instead of `[rows, columns]`.
    pub in_out: bool,
    /// Element types: that in the file, then those that the graph casts it to, in order.
    pub types: Vec<i32>,
}

/// The products of a graph whose weights are stored in files, found by the roles of their nodes.
#[derive(Debug, Default)]
pub struct Products {
    /// Products of linear layers, by the name of their output.
    linear: HashMap<String, LinearProduct>,
    /// Weights of experts' projections, by the name of the product's output.
    experts: HashMap<String, Weight>,
    /// Weights that are divided into rows of heads, by the name of the first part.
    divided: HashMap<String, Weight>,
    /// Values that don't depend on the graph's inputs: initializers, and casts of them.
    constants: HashSet<String>,
}

#[derive(Debug)]
struct LinearProduct {
    weight: Weight,
    /// Whether its input is always the last position only.
    last_position: bool,
}

impl Products {
    /// Finds the products of `model`.
    pub fn of(model: &Model) -> Self {
        let mut found = Self::default();
        let Some(graph) = &model.graph else {
            return found;
        };
        // The initializer of an input is a default, which other values may take the place of.
        let inputs: HashSet<&str> = graph
            .input
            .iter()
            .map(|input| input.name.as_str())
            .collect();
        let initializers: HashMap<&str, &Tensor> = graph
            .initializer
            .iter()
            .map(|tensor| (tensor.name.as_str(), tensor))
            .filter(|(name, _)| !inputs.contains(name))
            .collect();
        found.constants = initializers.keys().map(|&name| name.to_owned()).collect();
        let mut casts: HashMap<&str, &Node> = HashMap::new();
        for node in &graph.node {
            let is_constant =
                |found: &Self| node.input.iter().all(|name| found.constants.contains(name));
            if node.op_type == "Cast" && is_constant(&found) {
                casts.insert(&node.output[0], node);
                found.constants.insert(node.output[0].clone());
            }
            let role = Role::of(node);
            if let Some(Role::Divided { .. }) = role {
                let before =
                    |name: &String| graph.node.iter().find(|of| of.output.first() == Some(name));
                let name = node.input.first().and_then(before);
                let name = name.and_then(|reshape| reshape.input.first());
                if let Some(weight) = name.and_then(|name| stored(name, &initializers, &casts)) {
                    found.divided.insert(node.output[0].clone(), weight);
                }
                continue;
            }
            let Some(Role::Linear { .. } | Role::Expert { .. }) = role else {
                continue;
            };
            let Some(weight) = weight(node, &initializers, &casts) else {
                continue;
            };
            let output = node.output[0].clone();
            match role {
                Some(Role::Linear { last_position, .. }) => {
                    let product = LinearProduct {
                        weight,
                        last_position,
                    };
                    found.linear.insert(output, product);
                }
                _ => {
                    found.experts.insert(output, weight);
                }
            }
        }
        found
    }

    /// The weight, if `node` is the product of a linear layer.
    pub fn weight(&self, node: &Node) -> Option<&Weight> {
        let product = self.linear.get(node.output.first()?)?;
        Some(&product.weight)
    }

    /// The weight, if `node` is the product of a linear layer and the weight is stored as
    /// `[out_features, in_features]`.
    pub fn out_in_weight(&self, node: &Node) -> Option<&Weight> {
        self.out_in_weight_of(node.output.first()?)
    }

    /// The weight of the product whose output is `value`, if it's stored as
    /// `[out_features, in_features]`.
    pub fn out_in_weight_of(&self, value: &str) -> Option<&Weight> {
        let weight = &self.linear.get(value)?.weight;
        (!weight.in_out).then_some(weight)
    }

    /// The weight, if `node` is the product of an expert's projection.
    pub fn expert_weight(&self, node: &Node) -> Option<&Weight> {
        self.experts.get(node.output.first()?)
    }

    /// The weight, if `node` divides one into rows of heads.
    pub fn divided_weight(&self, node: &Node) -> Option<&Weight> {
        self.divided.get(node.output.first()?)
    }

    /// Renames the output of a product from `value` to `name`.
    pub fn rename(&mut self, value: &str, name: &str) {
        if let Some(product) = self.linear.remove(value) {
            self.linear.insert(name.to_owned(), product);
        }
    }

    /// Whether the input of the product `node` is always the last position only.
    pub fn is_last_position(&self, node: &Node) -> bool {
        let product = node.output.first().and_then(|name| self.linear.get(name));
        product.is_some_and(|product| product.last_position)
    }

    /// Whether `value` doesn't depend on the graph's inputs.
    pub fn is_constant(&self, value: &str) -> bool {
        self.constants.contains(value)
    }

    /// Whether `value` is a constant vector, or a cast of one.
    pub fn is_constant_vector(&self, graph: &Graph, value: &str) -> bool {
        if !self.is_constant(value) {
            return false;
        }
        let mut name = value;
        while let Some(cast) = graph
            .node
            .iter()
            .find(|node| node.op_type == "Cast" && node.output[0] == name)
        {
            name = &cast.input[0];
        }
        let tensor = graph.initializer.iter().find(|t| t.name == name);
        tensor.is_some_and(|tensor| tensor.dims.len() == 1)
    }

    /// Whether a weight is stored in another dtype than it's computed in.
    pub fn any_is_converted(&self) -> bool {
        let mut all = self.linear.values();
        all.any(|product| product.weight.types.len() > 1)
    }
}

/// The weight of a float product, if it's stored in a file. `MatMul` takes it as `[in, out]`,
/// `FusedMatMul` as `[out, in]`.
fn weight(
    node: &Node,
    initializers: &HashMap<&str, &Tensor>,
    casts: &HashMap<&str, &Node>,
) -> Option<Weight> {
    let in_out = match node.op_type.as_str() {
        "MatMul" => true,
        "FusedMatMul" => false,
        _ => return None,
    };
    let weight = stored(&node.input[1], initializers, casts)?;
    Some(match in_out {
        true => Weight {
            rows: weight.columns,
            columns: weight.rows,
            in_out,
            ..weight
        },
        false => weight,
    })
}

/// The matrix `name`, if it's stored in a file.
fn stored(
    name: &str,
    initializers: &HashMap<&str, &Tensor>,
    casts: &HashMap<&str, &Node>,
) -> Option<Weight> {
    let mut name = name;
    let mut types = Vec::new();
    while let Some(cast) = casts.get(name) {
        types.push(cast.attribute.iter().find(|a| a.name == "to")?.i as i32);
        name = &cast.input[0];
    }
    let tensor = initializers.get(name)?;
    types.push(tensor.data_type);
    types.reverse();
    if types.iter().any(|&element| dtype(element).is_none()) {
        return None;
    }
    let [rows, columns] = tensor.dims[..] else {
        return None;
    };
    if rows < 1 || columns < 1 {
        return None;
    }
    Some(Weight {
        span: tensor.span(Path::new(ROOT))?,
        rows: usize::try_from(rows).ok()?,
        columns: usize::try_from(columns).ok()?,
        in_out: false,
        types,
    })
}

/// An integer attribute.
pub fn int(name: &str, i: i64) -> Attribute {
    Attribute {
        name: name.to_owned(),
        i,
        kind: 2,
        ..Default::default()
    }
}

/// An attribute with a list of integers.
pub fn ints(name: &str, ints: &[i64]) -> Attribute {
    Attribute {
        name: name.to_owned(),
        ints: ints.to_vec(),
        kind: 7,
        ..Default::default()
    }
}

/// A float attribute.
pub fn float(name: &str, f: f32) -> Attribute {
    Attribute {
        name: name.to_owned(),
        f,
        kind: 1,
        ..Default::default()
    }
}

/// A string attribute.
pub fn text(name: &str, s: &str) -> Attribute {
    Attribute {
        name: name.to_owned(),
        s: s.as_bytes().to_vec(),
        kind: 3,
        ..Default::default()
    }
}

/// A node of a standard operator, with the name of its output.
pub fn node(op: &str, inputs: &[&str], output: &str, attribute: Vec<Attribute>) -> Node {
    Node {
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        output: vec![output.to_owned()],
        name: output.to_owned(),
        op_type: op.to_owned(),
        attribute,
        ..Node::default()
    }
}

/// Adds the constant `name`, a vector of int64, unless it exists. Returns its name.
pub fn shape_constant(graph: &mut Graph, name: &str, values: &[i64]) -> String {
    if !graph.initializer.iter().any(|tensor| tensor.name == name) {
        graph.initializer.push(Tensor {
            dims: vec![values.len() as i64],
            data_type: element::INT64,
            name: name.to_owned(),
            raw_data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            ..Default::default()
        });
    }
    name.to_owned()
}

/// Adds the constant `name`, a float32 number, unless it exists. Returns its name.
pub fn scalar_constant(graph: &mut Graph, name: &str, value: f32) -> String {
    if !graph.initializer.iter().any(|tensor| tensor.name == name) {
        graph.initializer.push(Tensor {
            data_type: element::FLOAT32,
            name: name.to_owned(),
            raw_data: value.to_le_bytes().to_vec(),
            ..Default::default()
        });
    }
    name.to_owned()
}

/// How often each value is a node's input.
pub fn uses(graph: &Graph) -> HashMap<&str, usize> {
    let mut uses = HashMap::new();
    for name in graph.node.iter().flat_map(|node| &node.input) {
        *uses.entry(name.as_str()).or_default() += 1;
    }
    uses
}

/// Removes the roles from the nodes of `model`.
pub fn remove_roles(model: &mut Model) {
    let nodes = model.graph.iter_mut().flat_map(|graph| &mut graph.node);
    nodes.for_each(Role::remove_from);
}

/// Names of a graph's outputs.
pub fn output_names(graph: &Graph) -> Vec<String> {
    let outputs = graph.output.iter();
    outputs.map(|output| output.name.clone()).collect()
}

/// Removes nodes and initializers that don't contribute to an output.
pub fn drop_unused(graph: &mut Graph) {
    let outputs = graph.output.iter().map(|output| output.name.clone());
    let mut used: HashSet<String> = outputs.collect();
    let mut kept = Vec::new();
    for node in std::mem::take(&mut graph.node).into_iter().rev() {
        if node.output.iter().any(|name| used.contains(name)) {
            used.extend(node.input.iter().cloned());
            kept.push(node);
        }
    }
    kept.reverse();
    graph.node = kept;
    graph
        .initializer
        .retain(|tensor| used.contains(&tensor.name));
}
