//! Puts nodes, constants and references to weights together into an ONNX graph.
//!
//! Standard operators are those of opset 21; the contributed ones (`com.microsoft`) are documented in
//! <https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md>.

mod quantized;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use super::parameters::{Parameter, Parameters};
use super::proto::{self, DimensionValue, element, element_type};
use crate::quantize::Accuracy;
use crate::weights::{ByteSpan, Dtype, TensorLocation, round_to};

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
    /// A name.
    Text(&'static str),
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
    /// The arithmetic of products with quantized weights.
    accuracy: Accuracy,
    /// Weights that are in the graph already, by file and offset.
    placed: HashMap<(std::path::PathBuf, u64), Value>,
    /// Constants and shared inputs, by name.
    constants: BTreeMap<String, Value>,
    /// Values of the last position only.
    last: HashSet<String>,
    /// What gates the adapters of all modules, token by token.
    token_gate: Option<Value>,
    /// In front of the names of nodes, for a pass that isn't the only one.
    scope: String,
    /// In front of the names of parameters, for a network that isn't the base.
    owner: String,
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
            accuracy: Accuracy::Int8,
            placed: HashMap::new(),
            constants: BTreeMap::new(),
            last: HashSet::new(),
            token_gate: None,
            scope: String::new(),
            owner: String::new(),
            folder,
        }
    }

    /// The same with this arithmetic where weights are quantized.
    pub fn with_accuracy(mut self, accuracy: Accuracy) -> Self {
        self.accuracy = accuracy;
        self
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
        match parameters.get(&format!("{}{name}", self.owner))? {
            Parameter::Stored(location) => Some(self.stored(name, location)),
            Parameter::Quantized(_) => {
                unreachable!("`{name}` is quantized, and taken by products alone")
            }
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
        let span = ByteSpan {
            path: location.path.clone(),
            offset: location.offset,
            length: location.length,
        };
        let mut value = self.external(name, element_type(location.dtype), &location.shape, &span);
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

    /// An initializer whose bytes are in another file.
    fn external(&mut self, name: &str, data_type: i32, shape: &[usize], span: &ByteSpan) -> Value {
        // Relative to the model's folder: a folder that's moved together with its weights still works.
        let relative = pathdiff::diff_paths(&span.path, self.folder);
        let relative = relative.unwrap_or_else(|| span.path.clone());
        let entry = |key: &str, value: String| proto::Entry {
            key: key.to_owned(),
            value,
        };
        self.graph.initializer.push(proto::Tensor {
            dims: shape.iter().map(|&d| d as i64).collect(),
            data_type,
            name: name.to_owned(),
            raw_data: Vec::new(),
            external_data: vec![
                entry("location", relative.to_string_lossy().into_owned()),
                entry("offset", span.offset.to_string()),
                entry("length", span.length.to_string()),
            ],
            data_location: 1,
        });
        Value(name.to_owned())
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
        let name = &self.scoped(name);
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

    /// Puts `scope` in front of the names of the nodes that follow, unless they're names of outputs, and `owner` in
    /// front of the names of parameters.
    pub fn set_scope(&mut self, scope: &str, owner: &str) {
        scope.clone_into(&mut self.scope);
        owner.clone_into(&mut self.owner);
    }

    /// `name` in the present scope.
    fn scoped(&self, name: &str) -> String {
        match name.starts_with('/') {
            true => format!("{}{name}", self.scope),
            false => name.to_owned(),
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
        let is_last = |value: &&Value| value.0 == LAST_POSITION || self.last.contains(&value.0);
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
        });
        outputs.into_iter().map(Value).collect()
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

    /// `W x` for the linear layer at `path`: `x` is `[…, in]`.
    pub fn product(&mut self, name: &str, path: &str, x: &Value) -> Value {
        let weight = format!("{path}.weight");
        if let Some(quantized) = self.quantized_weight(&weight) {
            return self.quantized(name, x, &weight, quantized);
        }
        let weight = self.parameter(&weight);
        match self.is_stored_in_out(path) {
            true => self.op("MatMul", name, &[x, &weight], &[]),
            false => self.matmul_transposed(name, x, &weight),
        }
    }

    /// Whether the weight of the linear layer at `path` is `[in, out]`.
    fn is_stored_in_out(&self, path: &str) -> bool {
        let path = format!("{}{path}", self.owner);
        self.parameters.is_stored_in_out(&path)
    }

    /// The same for rows, `[n, in]`, of which there may be none: what's laid out for one row or for a whole prompt
    /// doesn't fit, and the factor keeps it from being taken for a product that does.
    pub fn routed_product(&mut self, name: &str, path: &str, x: &Value) -> Value {
        let weight = format!("{path}.weight");
        if let Some(quantized) = self.quantized_weight(&weight) {
            return self.quantized(name, x, &weight, quantized);
        }
        let weight = self.parameter(&weight);
        self.routed_matmul_transposed(name, x, &weight)
    }

    /// `x · wᵀ` for such rows.
    pub fn routed_matmul_transposed(&mut self, name: &str, x: &Value, w: &Value) -> Value {
        let attrs = [("transB", Attr::Int(1)), ("alpha", Attr::Float(1.0))];
        self.contrib("FusedMatMul", name, &[x, w], &attrs)
    }

    /// The rows of the embedding at `path` that `ids` name, `[…, embedding_dim]`.
    pub fn rows(&mut self, name: &str, path: &str, ids: &Value) -> Value {
        let weight = format!("{path}.weight");
        match self.quantized_weight(&weight) {
            Some(quantized) => self.quantized_rows(name, ids, false, &weight, quantized),
            None => {
                let weight = self.parameter(&weight);
                self.gather(name, &weight, ids, 0)
            }
        }
    }

    /// The weight of the linear layer at `path`, `[out, in]`, for nodes that take it together with `x`: a quantized one is
    /// dequantized whenever `x` comes.
    pub fn weight(&mut self, path: &str, x: &Value) -> Value {
        let weight = format!("{path}.weight");
        if let Some(quantized) = self.quantized_weight(&weight) {
            return self.dequantized(&weight, quantized, x);
        }
        let weight = self.parameter(&weight);
        match self.is_stored_in_out(path) {
            true => self.transpose(&format!("/{path}/weight/Transpose"), &weight, &[1, 0]),
            false => weight,
        }
    }

    /// `x` cut into three along `axis`, in parts of these sizes and names.
    pub fn split(
        &mut self,
        name: &str,
        x: &Value,
        axis: i64,
        sizes: [usize; 3],
        names: [String; 3],
    ) -> [Value; 3] {
        let sizes = sizes.map(|size| size as i64);
        let sizes = self.constant_i64(&format!("{name}/sizes"), &sizes, false);
        let attrs = [("axis", Attr::Int(axis))];
        self.op_outputs("Split", name, &[x, &sizes], names, &attrs)
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

    /// Gives `value`, which nothing has taken yet, another name.
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

    /// The last position of `[batch, sequence, n]`, as `[batch, 1, n]`.
    pub fn last_position(&mut self, name: &str, x: &Value) -> Value {
        let last = self.constant_i64(LAST_POSITION, &[-1], false);
        self.gather(name, x, &last, 1)
    }

    /// Makes `gate`, `[batch, sequence, n]`, what adapters ask for with [`token_gate`](Self::token_gate).
    pub fn set_token_gate(&mut self, gate: Value) {
        self.token_gate = Some(gate);
    }

    /// The gate for the positions of `x`: all of them, or the last alone.
    ///
    /// # Panics
    /// If there's none: a method that has modules with a gate sets it.
    pub fn token_gate(&mut self, x: &Value) -> Value {
        let gate = self.token_gate.clone().expect("the decoder has set it");
        if !self.last.contains(&x.0) {
            return gate;
        }
        let name = format!("{}/last", gate.0);
        match self.last.contains(&name) {
            true => Value(name),
            false => self.last_position(&name, &gate),
        }
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
