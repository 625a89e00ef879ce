//! The part of ONNX's protobuf messages that this program uses.
//!
//! Field numbers and types: `onnx.proto3`,
//! <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3>.

/// `ModelProto`
#[derive(Clone, PartialEq, prost::Message)]
pub struct Model {
    /// Version of the file format.
    #[prost(int64, tag = "1")]
    pub ir_version: i64,
    /// The program that made the file.
    #[prost(string, tag = "2")]
    pub producer_name: String,
    /// Its version.
    #[prost(string, tag = "3")]
    pub producer_version: String,
    /// The graph.
    #[prost(message, optional, tag = "7")]
    pub graph: Option<Graph>,
    /// Operator sets that the graph uses.
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<OperatorSet>,
    /// Free key–value pairs.
    #[prost(message, repeated, tag = "14")]
    pub metadata_props: Vec<Entry>,
}

/// `OperatorSetIdProto`
#[derive(Clone, PartialEq, prost::Message)]
pub struct OperatorSet {
    /// Empty for the standard operators.
    #[prost(string, tag = "1")]
    pub domain: String,
    /// Its version.
    #[prost(int64, tag = "2")]
    pub version: i64,
}

/// `StringStringEntryProto`
#[derive(Clone, PartialEq, prost::Message)]
pub struct Entry {
    /// Key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Value.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// `GraphProto`
#[derive(Clone, PartialEq, prost::Message)]
pub struct Graph {
    /// Nodes, each after those whose outputs it takes.
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<Node>,
    /// The graph's name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Constants and weights.
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<Tensor>,
    /// Inputs.
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfo>,
    /// Outputs.
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfo>,
}

/// `NodeProto`
#[derive(Clone, PartialEq, prost::Message)]
pub struct Node {
    /// Names of the input values; empty for an optional one that's left out.
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    /// Names of the output values.
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    /// The node's name.
    #[prost(string, tag = "3")]
    pub name: String,
    /// The operator.
    #[prost(string, tag = "4")]
    pub op_type: String,
    /// Its attributes.
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<Attribute>,
    /// The operator's domain.
    #[prost(string, tag = "7")]
    pub domain: String,
    /// Free key–value pairs.
    #[prost(message, repeated, tag = "9")]
    pub metadata_props: Vec<Entry>,
}

/// `AttributeProto`
#[derive(Clone, PartialEq, prost::Message)]
pub struct Attribute {
    /// The attribute's name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// A float value.
    #[prost(float, tag = "2")]
    pub f: f32,
    /// An integer value.
    #[prost(int64, tag = "3")]
    pub i: i64,
    /// A string, as bytes.
    #[prost(bytes = "vec", tag = "4")]
    pub s: Vec<u8>,
    /// Integer values.
    #[prost(int64, repeated, tag = "8")]
    pub ints: Vec<i64>,
    /// The kind of value: 1 `FLOAT`, 2 `INT`, 3 `STRING`, 7 `INTS`.
    #[prost(int32, tag = "20")]
    pub kind: i32,
}

/// `TensorProto`
#[derive(Clone, PartialEq, prost::Message)]
pub struct Tensor {
    /// Shape.
    #[prost(int64, repeated, tag = "1")]
    pub dims: Vec<i64>,
    /// Element type.
    #[prost(int32, tag = "2")]
    pub data_type: i32,
    /// The tensor's name.
    #[prost(string, tag = "8")]
    pub name: String,
    /// Little-endian elements, if they're stored in the graph itself.
    #[prost(bytes = "vec", tag = "9")]
    pub raw_data: Vec<u8>,
    /// `location`, `offset` and `length`, if they're stored in another file.
    #[prost(message, repeated, tag = "13")]
    pub external_data: Vec<Entry>,
    /// 0: in the graph; 1: in another file.
    #[prost(int32, tag = "14")]
    pub data_location: i32,
}

/// `ValueInfoProto`
#[derive(Clone, PartialEq, prost::Message)]
pub struct ValueInfo {
    /// The value's name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its type.
    #[prost(message, optional, tag = "2")]
    pub r#type: Option<Type>,
}

/// `TypeProto`, tensors only
#[derive(Clone, PartialEq, prost::Message)]
pub struct Type {
    /// Element type and shape.
    #[prost(message, optional, tag = "1")]
    pub tensor_type: Option<TensorType>,
}

/// `TypeProto.Tensor`
#[derive(Clone, PartialEq, prost::Message)]
pub struct TensorType {
    /// Element type.
    #[prost(int32, tag = "1")]
    pub elem_type: i32,
    /// Shape.
    #[prost(message, optional, tag = "2")]
    pub shape: Option<Shape>,
}

/// `TensorShapeProto`
#[derive(Clone, PartialEq, prost::Message)]
pub struct Shape {
    /// One entry per axis.
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<Dimension>,
}

/// `TensorShapeProto.Dimension`
#[derive(Clone, PartialEq, prost::Message)]
pub struct Dimension {
    /// Number or name.
    #[prost(oneof = "DimensionValue", tags = "1, 2")]
    pub value: Option<DimensionValue>,
}

/// A fixed or a symbolic dimension.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum DimensionValue {
    /// Fixed.
    #[prost(int64, tag = "1")]
    Value(i64),
    /// Symbolic.
    #[prost(string, tag = "2")]
    Param(String),
}

/// Element types (`TensorProto.DataType`).
pub mod element {
    /// `FLOAT`
    pub const FLOAT32: i32 = 1;
    /// `UINT8`
    pub const UINT8: i32 = 2;
    /// `INT32`
    pub const INT32: i32 = 6;
    /// `INT64`
    pub const INT64: i32 = 7;
    /// `BOOL`
    pub const BOOL: i32 = 9;
    /// `FLOAT16`
    pub const FLOAT16: i32 = 10;
    /// `BFLOAT16`
    pub const BFLOAT16: i32 = 16;
}

/// The dtype of an element type, if it's one of the three float types.
pub fn dtype(element: i32) -> Option<crate::weights::Dtype> {
    use crate::weights::Dtype;
    match element {
        element::FLOAT32 => Some(Dtype::Float32),
        element::FLOAT16 => Some(Dtype::Float16),
        element::BFLOAT16 => Some(Dtype::BFloat16),
        _ => None,
    }
}

/// The element type of `dtype`.
pub fn element_type(dtype: crate::weights::Dtype) -> i32 {
    use crate::weights::Dtype;
    match dtype {
        Dtype::Float32 => element::FLOAT32,
        Dtype::Float16 => element::FLOAT16,
        Dtype::BFloat16 => element::BFLOAT16,
    }
}
