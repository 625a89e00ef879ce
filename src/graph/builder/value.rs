//! Values, dimensions and attributes, and their protobuf messages.

use crate::graph::proto::{self, DimensionValue};

/// A value in the graph: an input, a constant, or a node's output.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Value(pub(super) String);

impl Value {
    /// The value's name in the graph.
    pub fn name(&self) -> &str {
        &self.0
    }
}

/// One axis of an input's or output's shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dim {
    /// A fixed size.
    Fixed(usize),
    /// A size that's known only at run time.
    Symbol(String),
}

impl Dim {
    /// A [`Symbol`](Self::Symbol) called `name`.
    pub fn symbol(name: &str) -> Self {
        Self::Symbol(name.to_owned())
    }
}

impl From<usize> for Dim {
    fn from(size: usize) -> Self {
        Self::Fixed(size)
    }
}

/// An attribute of a node.
#[derive(Debug, Clone)]
pub enum Attr {
    /// An integer.
    Int(i64),
    /// Integers.
    Ints(Vec<i64>),
    /// A float.
    Float(f32),
    /// A name.
    Text(&'static str),
}

/// The protobuf message of an attribute.
pub(super) fn attribute(name: &str, attr: &Attr) -> proto::Attribute {
    let empty = proto::Attribute {
        name: name.to_owned(),
        ..Default::default()
    };
    match attr {
        Attr::Int(i) => proto::Attribute {
            i: *i,
            kind: 2,
            ..empty
        },
        Attr::Ints(ints) => proto::Attribute {
            ints: ints.clone(),
            kind: 7,
            ..empty
        },
        Attr::Text(text) => proto::Attribute {
            s: text.as_bytes().to_vec(),
            kind: 3,
            ..empty
        },
        Attr::Float(f) => proto::Attribute {
            f: *f,
            kind: 1,
            ..empty
        },
    }
}

/// The protobuf message of an input or output.
pub(super) fn value_info(name: &str, elem_type: i32, dims: &[Dim]) -> proto::ValueInfo {
    let dim = dims
        .iter()
        .map(|dim| proto::Dimension {
            value: Some(match dim {
                Dim::Fixed(size) => DimensionValue::Value(*size as i64),
                Dim::Symbol(name) => DimensionValue::Param(name.clone()),
            }),
        })
        .collect();
    proto::ValueInfo {
        name: name.to_owned(),
        r#type: Some(proto::Type {
            tensor_type: Some(proto::TensorType {
                elem_type,
                shape: Some(proto::Shape { dim }),
            }),
        }),
    }
}
