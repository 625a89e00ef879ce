//! Puts nodes, constants and references to weights together into an ONNX graph.
//!
//! Standard operators are those of opset 21; the contributed ones (`com.microsoft`) are documented in
//! <https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md>.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::parameters::{Parameter, Parameters};
use super::proto::{self, DimensionValue, element, element_type};
use crate::weights::{Dtype, TensorLocation, round_to};

/// A value in the graph: an input, a constant, or what a node makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value(String);

impl Value {
    /// Its name in the graph.
    pub fn name(&self) -> &str {
        &self.0
    }
}

/// One axis of an input's or output's shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dim {
    /// A fixed size.
    Fixed(usize),
    /// A size that's known when the graph runs.
    Symbol(String),
}

impl Dim {
    /// A symbolic dimension.
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
}

/// The constant by which the last position is selected: whatever comes behind that has one position.
pub const LAST_POSITION: &str = "last";

/// The two operator domains.
const STANDARD: &str = "";
const MICROSOFT: &str = "com.microsoft";
const OPSET: i64 = 21;
const IR_VERSION: i64 = 10;

/// A graph that's being built.
#[derive(Debug)]
pub struct GraphBuilder<'a> {
    graph: proto::Graph,
    parameters: &'a Parameters,
    /// The type of the graph's arithmetic.
    compute: Dtype,
    /// The type that weights are rounded to.
    storage: Dtype,
    /// Weights that are in the graph already, by file and offset.
    placed: HashMap<(std::path::PathBuf, u64), Value>,
    /// Constants and shared inputs, by name.
    constants: BTreeMap<String, Value>,
    folder: &'a Path,
}

impl<'a> GraphBuilder<'a> {
    /// An empty graph over `parameters`, for a `model.onnx` in `folder` (absolute): weights are
    /// rounded to `storage`, and computed with in `compute`.
    pub fn new(
        parameters: &'a Parameters,
        storage: Dtype,
        compute: Dtype,
        folder: &'a Path,
    ) -> Self {
        Self {
            graph: proto::Graph {
                name: "decoder".to_owned(),
                ..Default::default()
            },
            parameters,
            compute,
            storage,
            placed: HashMap::new(),
            constants: BTreeMap::new(),
            folder,
        }
    }

    /// The finished model.
    pub fn finish(self) -> proto::Model {
        proto::Model {
            ir_version: IR_VERSION,
            producer_name: env!("CARGO_PKG_NAME").to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            graph: Some(self.graph),
            opset_import: [(STANDARD, OPSET), (MICROSOFT, 1)]
                .map(|(domain, version)| proto::OperatorSet {
                    domain: domain.to_owned(),
                    version,
                })
                .to_vec(),
            metadata_props: Vec::new(),
        }
    }

    /// The type of the graph's arithmetic.
    pub fn compute(&self) -> Dtype {
        self.compute
    }

    /// Adds an input of the graph's float type.
    pub fn input(&mut self, name: &str, dims: &[Dim]) -> Value {
        self.typed_input(name, element_type(self.compute), dims)
    }

    /// An input of the graph's float type that several modules share; added when first asked for.
    pub fn shared_input(&mut self, name: &str, dims: &[Dim]) -> Value {
        if let Some(value) = self.constants.get(name) {
            return value.clone();
        }
        let value = self.input(name, dims);
        self.constants.insert(name.to_owned(), value.clone());
        value
    }

    /// Adds an input of type int64.
    pub fn input_i64(&mut self, name: &str, dims: &[Dim]) -> Value {
        self.typed_input(name, element::INT64, dims)
    }

    fn typed_input(&mut self, name: &str, elem_type: i32, dims: &[Dim]) -> Value {
        self.graph.input.push(value_info(name, elem_type, dims));
        Value(name.to_owned())
    }

    /// Declares `value`, of the graph's float type, an output; it has its final name already.
    pub fn output(&mut self, value: &Value, dims: &[Dim]) {
        let info = value_info(value.name(), element_type(self.compute), dims);
        self.graph.output.push(info);
    }

    /// Declares `value`, of type int64, an output.
    pub fn output_i64(&mut self, value: &Value, dims: &[Dim]) {
        let info = value_info(value.name(), element::INT64, dims);
        self.graph.output.push(info);
    }

    /// The parameter `name` of the model, which must be there.
    pub fn parameter(&mut self, name: &str) -> Value {
        self.find_parameter(name)
            .unwrap_or_else(|| panic!("parameter `{name}` was checked when the model was opened"))
    }

    /// The parameter `name` of the model, if there: a reference into its file, with casts where its
    /// dtype isn't the one asked for, or an input of the graph.
    pub fn find_parameter(&mut self, name: &str) -> Option<Value> {
        let parameters = self.parameters;
        match parameters.get(name)? {
            Parameter::Stored(location) => Some(self.stored(name, location)),
            Parameter::Input { name, shape } => {
                let dims: Vec<Dim> = shape.iter().map(|&size| size.into()).collect();
                Some(self.shared_input(name, &dims))
            }
        }
    }

    fn stored(&mut self, name: &str, location: &TensorLocation) -> Value {
        let key = (location.path.clone(), location.offset);
        if let Some(value) = self.placed.get(&key) {
            return value.clone();
        }
        // Relative to the model's folder: a folder that's moved together with its weights still works.
        let relative = pathdiff::diff_paths(&location.path, self.folder)
            .unwrap_or_else(|| location.path.clone());
        let entry = |key: &str, value: String| proto::Entry {
            key: key.to_owned(),
            value,
        };
        self.graph.initializer.push(proto::Tensor {
            dims: location.shape.iter().map(|&d| d as i64).collect(),
            data_type: element_type(location.dtype),
            name: name.to_owned(),
            raw_data: Vec::new(),
            external_data: vec![
                entry("location", relative.to_string_lossy().into_owned()),
                entry("offset", location.offset.to_string()),
                entry("length", location.length.to_string()),
            ],
            data_location: 1,
        });
        let mut value = Value(name.to_owned());
        // ONNX Runtime folds these casts when the session starts.
        let mut dtype = location.dtype;
        for wanted in [self.storage, self.compute] {
            if dtype != wanted {
                value = self.cast(&format!("/{name}/{wanted}"), &value, element_type(wanted));
                dtype = wanted;
            }
        }
        self.placed.insert(key, value.clone());
        value
    }

    /// A constant vector of int64; empty `dims` for a scalar.
    pub fn constant_i64(&mut self, name: &str, values: &[i64], scalar: bool) -> Value {
        let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let dims = if scalar { vec![] } else { vec![values.len()] };
        self.constant(name, element::INT64, &dims, raw)
    }

    /// A constant of type float32, whatever the graph's type.
    pub fn constant_f32(&mut self, name: &str, dims: &[usize], values: &[f32]) -> Value {
        let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(name, element::FLOAT32, dims, raw)
    }

    fn constant(&mut self, name: &str, data_type: i32, dims: &[usize], raw: Vec<u8>) -> Value {
        if let Some(value) = self.constants.get(name) {
            return value.clone();
        }
        self.graph.initializer.push(proto::Tensor {
            dims: dims.iter().map(|&d| d as i64).collect(),
            data_type,
            name: name.to_owned(),
            raw_data: raw,
            external_data: Vec::new(),
            data_location: 0,
        });
        let value = Value(name.to_owned());
        self.constants.insert(name.to_owned(), value.clone());
        value
    }

    /// A constant of the graph's float type, every element `value`.
    pub fn filled(&mut self, name: &str, dims: &[usize], value: f32) -> Value {
        let count = dims.iter().product();
        let constant = self.constant_f32(
            &format!("{name}/float32"),
            dims,
            &vec![round_to(value, self.compute); count],
        );
        self.to_compute(name, &constant)
    }

    /// `x` cast from float32 to the graph's type, where that's another.
    pub fn to_compute(&mut self, name: &str, x: &Value) -> Value {
        match self.compute {
            Dtype::Float32 => x.clone(),
            other => self.cast(name, x, element_type(other)),
        }
    }

    /// `x` cast from the graph's type to float32, where that's another.
    pub fn to_f32(&mut self, name: &str, x: &Value) -> Value {
        match self.compute {
            Dtype::Float32 => x.clone(),
            _ => self.cast(name, x, element::FLOAT32),
        }
    }

    /// Adds a standard operator with one output, which is named after the node.
    pub fn op(&mut self, op: &str, name: &str, inputs: &[&Value], attrs: &[(&str, Attr)]) -> Value {
        let output = Value(name.to_owned());
        self.node(STANDARD, op, name, inputs, &[name], attrs);
        output
    }

    /// Adds a contributed operator with one output, which is named after the node.
    pub fn contrib(
        &mut self,
        op: &str,
        name: &str,
        inputs: &[&Value],
        attrs: &[(&str, Attr)],
    ) -> Value {
        let output = Value(name.to_owned());
        self.node(MICROSOFT, op, name, inputs, &[name], attrs);
        output
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
        self.node(MICROSOFT, op, name, inputs, outputs, attrs);
        outputs.iter().map(|&name| Value(name.to_owned())).collect()
    }

    fn node(
        &mut self,
        domain: &str,
        op: &str,
        name: &str,
        inputs: &[&Value],
        outputs: &[&str],
        attrs: &[(&str, Attr)],
    ) {
        self.graph.node.push(proto::Node {
            input: inputs.iter().map(|value| value.0.clone()).collect(),
            output: outputs.iter().map(|&name| name.to_owned()).collect(),
            name: name.to_owned(),
            op_type: op.to_owned(),
            attribute: attrs
                .iter()
                .map(|(name, attr)| attribute(name, attr))
                .collect(),
            domain: domain.to_owned(),
        });
    }

    /// An input that's left out.
    pub fn absent() -> Value {
        Value(String::new())
    }

    /// `a + b`, broadcast
    pub fn add(&mut self, name: &str, a: &Value, b: &Value) -> Value {
        self.op("Add", name, &[a, b], &[])
    }

    /// `a * b`, broadcast
    pub fn mul(&mut self, name: &str, a: &Value, b: &Value) -> Value {
        self.op("Mul", name, &[a, b], &[])
    }

    /// `x · wᵀ`: `x` is `[…, in]`, `w` is `[out, in]`, as checkpoints store it.
    pub fn matmul_transposed(&mut self, name: &str, x: &Value, w: &Value) -> Value {
        self.contrib("FusedMatMul", name, &[x, w], &[("transB", Attr::Int(1))])
    }

    /// Slices of `data` along `axis`, by `indices`.
    pub fn gather(&mut self, name: &str, data: &Value, indices: &Value, axis: i64) -> Value {
        self.op(
            "Gather",
            name,
            &[data, indices],
            &[("axis", Attr::Int(axis))],
        )
    }

    /// The last position of `[batch, sequence, n]`, as `[batch, 1, n]`.
    pub fn last_position(&mut self, name: &str, x: &Value) -> Value {
        let last = self.constant_i64(LAST_POSITION, &[-1], false);
        self.gather(name, x, &last, 1)
    }

    /// `x` with its axes in another order.
    pub fn transpose(&mut self, name: &str, x: &Value, order: &[i64]) -> Value {
        self.op(
            "Transpose",
            name,
            &[x],
            &[("perm", Attr::Ints(order.to_vec()))],
        )
    }

    /// `x` as another element type.
    pub fn cast(&mut self, name: &str, x: &Value, to: i32) -> Value {
        self.op("Cast", name, &[x], &[("to", Attr::Int(i64::from(to)))])
    }

    /// `x` with another shape; 0 keeps an axis, −1 is worked out.
    pub fn reshape(&mut self, name: &str, x: &Value, shape: &[i64]) -> Value {
        let shape = self.constant_i64(&format!("{name}/shape"), shape, false);
        self.op("Reshape", name, &[x, &shape], &[])
    }
}

fn attribute(name: &str, attr: &Attr) -> proto::Attribute {
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
        Attr::Float(f) => proto::Attribute {
            f: *f,
            kind: 1,
            ..empty
        },
    }
}

fn value_info(name: &str, elem_type: i32, dims: &[Dim]) -> proto::ValueInfo {
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
