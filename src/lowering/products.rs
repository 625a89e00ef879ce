//! Finds a graph's products with weights, and helps to write other nodes in their place.

use std::collections::{HashMap, HashSet};

use crate::graph::LAST_POSITION;
use crate::graph::proto::{Attribute, Graph, Model, Node, Tensor, element};

/// A weight in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weight {
    /// The initializer's name.
    pub name: String,
    /// Path below the root of the file system.
    pub location: String,
    /// First byte.
    pub offset: u64,
    /// `out_features`
    pub rows: usize,
    /// `in_features`
    pub columns: usize,
    /// Whether it's stored as `[columns, rows]`, not `[rows, columns]`.
    pub in_out: bool,
    /// Element types: the file's, and those that it's cast to in turn.
    pub types: Vec<i32>,
}

/// The products `x Wᵀ` of a graph, with `W` in a file.
#[derive(Debug, Default)]
pub struct Products {
    /// By the name of the value that the product makes.
    by_output: HashMap<String, Weight>,
    /// Products `x W` with `W` stored as `[in_features, out_features]`.
    in_out: HashMap<String, Weight>,
    /// Products of rows that an expert was given, of which there may be none.
    routed: HashMap<String, Weight>,
    /// Those of a single position: behind the selection of the last one.
    last: HashSet<String>,
    /// Values that don't depend on inputs: initializers, and casts of them.
    constants: HashSet<String>,
}

impl Products {
    /// Finds them.
    pub fn of(model: &Model) -> Self {
        let mut found = Self::default();
        let Some(graph) = &model.graph else {
            return found;
        };
        let initializers: HashMap<&str, &Tensor> = graph
            .initializer
            .iter()
            .map(|tensor| (tensor.name.as_str(), tensor))
            .collect();
        found.constants = initializers.keys().map(|&name| name.to_owned()).collect();
        let mut casts: HashMap<&str, &Node> = HashMap::new();
        let mut last = false;
        for node in &graph.node {
            let is_constant =
                |found: &Self| node.input.iter().all(|name| found.constants.contains(name));
            if node.op_type == "Cast" && is_constant(&found) {
                casts.insert(&node.output[0], node);
                found.constants.insert(node.output[0].clone());
            }
            last |= node.op_type == "Gather" && node.input.iter().any(|name| name == LAST_POSITION);
            let Some(kind) = kind(node) else {
                continue;
            };
            let Some(weight) = weight(node, kind, &initializers, &casts) else {
                continue;
            };
            let output = node.output[0].clone();
            if last && kind != Kind::Routed {
                found.last.insert(output.clone());
            }
            match kind {
                Kind::InOut => {
                    found.in_out.insert(output, weight);
                }
                Kind::Routed => {
                    found.routed.insert(output, weight);
                }
                Kind::Plain => {
                    found.by_output.insert(output, weight);
                }
            }
        }
        found
    }

    /// The weight of the product that `node` makes, if it is one.
    pub fn weight(&self, node: &Node) -> Option<&Weight> {
        self.by_output.get(node.output.first()?)
    }

    /// The weight of the product `value`.
    pub fn weight_of(&self, value: &str) -> Option<&Weight> {
        self.by_output.get(value)
    }

    /// The same, however the weight is stored.
    pub fn any_weight(&self, node: &Node) -> Option<&Weight> {
        self.weight(node)
            .or_else(|| self.in_out.get(node.output.first()?))
    }

    /// The weight of `value`, if that's a product with rows that an expert was given.
    pub fn routed_weight_of(&self, value: &str) -> Option<&Weight> {
        self.routed.get(value)
    }

    /// Gives the product `value` another name.
    pub fn rename(&mut self, value: &str, name: &str) {
        for products in [&mut self.by_output, &mut self.in_out] {
            if let Some(weight) = products.remove(value) {
                products.insert(name.to_owned(), weight);
            }
        }
        if self.last.remove(value) {
            self.last.insert(name.to_owned());
        }
    }

    /// Whether the product `node` is one of a single position, whatever the prompt.
    pub fn is_last(&self, node: &Node) -> bool {
        node.output
            .first()
            .is_some_and(|name| self.last.contains(name))
    }

    /// Whether `value` is the same in every run.
    pub fn is_constant(&self, value: &str) -> bool {
        self.constants.contains(value)
    }

    /// Whether `value` is a constant vector; a cast of one keeps its shape.
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

    /// Whether a weight isn't stored in the type that's computed with.
    pub fn any_is_converted(&self) -> bool {
        let mut all = self.by_output.values().chain(self.in_out.values());
        all.any(|weight| weight.types.len() > 1)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    InOut,
    Routed,
}

/// Which kind of product `node` is, if it is one: a factor tells those of experts from all others.
fn kind(node: &Node) -> Option<Kind> {
    let transposed = |a: &Attribute| a.name == "transB" && a.i == 1;
    let factor = |a: &Attribute| a.name == "alpha" && a.f == 1.0;
    match &node.attribute[..] {
        [] if node.op_type == "MatMul" => Some(Kind::InOut),
        _ if node.op_type != "FusedMatMul" => None,
        [a] if transposed(a) => Some(Kind::Plain),
        [a, b] if transposed(a) && factor(b) => Some(Kind::Routed),
        _ => None,
    }
}

fn weight(
    node: &Node,
    kind: Kind,
    initializers: &HashMap<&str, &Tensor>,
    casts: &HashMap<&str, &Node>,
) -> Option<Weight> {
    let mut name = node.input[1].as_str();
    let mut types = Vec::new();
    while let Some(cast) = casts.get(name) {
        types.push(cast.attribute.iter().find(|a| a.name == "to")?.i as i32);
        name = &cast.input[0];
    }
    let tensor = initializers.get(name)?;
    types.push(tensor.data_type);
    types.reverse();
    let entry = |key: &str| {
        let entry = tensor.external_data.iter().find(|entry| entry.key == key);
        entry.map(|entry| entry.value.clone())
    };
    let in_out = kind == Kind::InOut;
    let (rows, columns) = match tensor.dims[..] {
        [columns, rows] if in_out => (rows, columns),
        [rows, columns] => (rows, columns),
        _ => return None,
    };
    Some(Weight {
        name: name.to_owned(),
        location: entry("location")?,
        offset: entry("offset")?.parse().ok()?,
        rows: usize::try_from(rows).ok()?,
        columns: usize::try_from(columns).ok()?,
        in_out,
        types,
    })
}

/// An attribute with an integer.
pub fn int(name: &str, i: i64) -> Attribute {
    Attribute {
        name: name.to_owned(),
        i,
        kind: 2,
        ..Default::default()
    }
}

/// An attribute with integers.
pub fn ints(name: &str, ints: &[i64]) -> Attribute {
    Attribute {
        name: name.to_owned(),
        ints: ints.to_vec(),
        kind: 7,
        ..Default::default()
    }
}

/// An attribute with a float.
pub fn float(name: &str, f: f32) -> Attribute {
    Attribute {
        name: name.to_owned(),
        f,
        kind: 1,
        ..Default::default()
    }
}

/// An attribute with a text.
pub fn text(name: &str, s: &str) -> Attribute {
    Attribute {
        name: name.to_owned(),
        s: s.as_bytes().to_vec(),
        kind: 3,
        ..Default::default()
    }
}

/// A node of the standard operators, called as its output.
pub fn node(op: &str, inputs: &[&str], output: &str, attribute: Vec<Attribute>) -> Node {
    Node {
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        output: vec![output.to_owned()],
        name: output.to_owned(),
        op_type: op.to_owned(),
        attribute,
        domain: String::new(),
    }
}

/// Adds the constant `name`, a vector of int64, unless it's there; returns its name.
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

/// How often nodes take each value.
pub fn uses(graph: &Graph) -> HashMap<&str, usize> {
    let mut uses = HashMap::new();
    for name in graph.node.iter().flat_map(|node| &node.input) {
        *uses.entry(name.as_str()).or_default() += 1;
    }
    uses
}

/// Drops nodes and initializers whose values nothing takes any more.
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
