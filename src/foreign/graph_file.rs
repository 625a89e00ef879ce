//! A graph's file, read without its weights, which may take gigabytes and be in the file itself.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use prost::Message;

use super::ForeignError;
use crate::files;
use crate::graph::proto::{DimensionValue, Node, OperatorSet, ValueInfo, element};

/// `ModelProto`, as far as it's needed.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LightModel {
    /// The program that made the file.
    #[prost(string, tag = "2")]
    pub producer_name: String,
    /// Its version.
    #[prost(string, tag = "3")]
    pub producer_version: String,
    #[prost(message, optional, tag = "7")]
    pub graph: Option<LightGraph>,
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<OperatorSet>,
}

/// `GraphProto`, as far as it's needed.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LightGraph {
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<Node>,
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<LightTensor>,
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfo>,
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfo>,
}

/// `TensorProto` without its elements.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LightTensor {
    #[prost(int64, repeated, tag = "1")]
    pub dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    pub data_type: i32,
    #[prost(string, tag = "8")]
    pub name: String,
}

/// A graph and its path.
#[derive(Debug)]
pub struct GraphFile {
    /// Its path.
    pub path: PathBuf,
    /// The program that wrote it.
    pub producer: String,
    /// The version of ONNX's operators.
    pub opset: i64,
    /// The graph.
    pub graph: LightGraph,
}

/// An input or output of a graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// Its name.
    pub name: String,
    /// The element type (`TensorProto.DataType`); 0 if it isn't a tensor.
    pub element: i32,
    /// Its dimensions; `None` where one is open.
    pub dims: Vec<Option<usize>>,
    /// What dimensions are called in messages.
    dim_names: Vec<String>,
}

impl GraphFile {
    /// Reads the graph at `path`.
    ///
    /// # Errors
    /// If it can't be read, or isn't a graph.
    #[expect(unsafe_code, reason = "mapping a file is unsafe")]
    pub fn open(path: &Path) -> Result<Self, ForeignError> {
        let failed = |source| ForeignError::Read {
            path: path.to_owned(),
            source,
        };
        let file = files::open(path).map_err(failed)?;
        // SAFETY: the map is read here and dropped. Who changes a graph while it's measured gets
        // whatever ONNX Runtime makes of it as well.
        let bytes = unsafe { Mmap::map(&file) }.map_err(failed)?;
        let model = LightModel::decode(&bytes[..]).map_err(|source| ForeignError::Graph {
            path: path.to_owned(),
            source,
        })?;
        let standard = model.opset_import.iter().find(|set| set.domain.is_empty());
        let producer = format!("{} {}", model.producer_name, model.producer_version);
        Ok(Self {
            path: path.to_owned(),
            producer: match producer.trim() {
                "" => "unknown".to_owned(),
                producer => producer.to_owned(),
            },
            opset: standard.map_or(0, |set| set.version),
            graph: model.graph.unwrap_or_default(),
        })
    }

    /// The inputs without a default, which have to be fed.
    pub fn inputs(&self) -> Vec<Value> {
        let tensors = self.graph.initializer.iter();
        let defaults: BTreeSet<&str> = tensors.map(|tensor| tensor.name.as_str()).collect();
        let needed = self.graph.input.iter();
        let needed = needed.filter(|input| !defaults.contains(input.name.as_str()));
        needed.map(Value::of).collect()
    }

    /// The outputs.
    pub fn outputs(&self) -> Vec<Value> {
        self.graph.output.iter().map(Value::of).collect()
    }
}

impl Value {
    fn of(info: &ValueInfo) -> Self {
        let tensor = info.r#type.as_ref().and_then(|of| of.tensor_type.as_ref());
        let shape = tensor.and_then(|tensor| tensor.shape.as_ref());
        let (mut dims, mut dim_names) = (Vec::new(), Vec::new());
        for dim in shape.iter().flat_map(|shape| &shape.dim) {
            let (size, name) = match &dim.value {
                Some(DimensionValue::Value(size)) => {
                    (usize::try_from(*size).ok(), size.to_string())
                }
                // Transformers' exporter writes some fixed sizes as names.
                Some(DimensionValue::Param(name)) => (name.parse().ok(), name.clone()),
                None => (None, "?".to_owned()),
            };
            dims.push(size);
            dim_names.push(name);
        }
        Self {
            name: info.name.clone(),
            element: tensor.map_or(0, |tensor| tensor.elem_type),
            dims,
            dim_names,
        }
    }

    /// Its type and shape, for messages.
    pub fn kind(&self) -> String {
        let element = match self.element {
            0 => return "no tensor".to_owned(),
            element::FLOAT32 => "float32",
            element::FLOAT16 => "float16",
            element::BFLOAT16 => "bfloat16",
            element::INT32 => "int32",
            element::INT64 => "int64",
            element::BOOL => "bool",
            _ => "other elements",
        };
        format!("{element} [{}]", self.dim_names.join(", "))
    }
}
