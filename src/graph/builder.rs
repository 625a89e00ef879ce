//! Builds an ONNX graph from nodes, constants and references to weights.
//!
//! Standard operators are those of opset 21, or 24 with [`AttentionOperator::Standard`].
//! Contributed operators (`com.microsoft`) are documented in
//! <https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md>.

mod constants;
mod inputs;
mod last_position;
mod nodes;
mod operators;
mod quantized;
mod value;
mod weights;
mod without_bfloat16;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

pub use value::{Attr, Dim, Value};

use super::parameters::Parameters;
use super::{Arithmetic, AttentionOperator, Device, proto};
use crate::weights::{ByteSpan, Dtype};

/// The domain of ONNX's standard operators, and that of ONNX Runtime's contributed ones.
const STANDARD: &str = "";
const MICROSOFT: &str = "com.microsoft";

/// Prefixes of names, for nodes that don't belong to the decoder's main pass.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    /// The prefix of nodes' names. Names of the graph's outputs don't get it.
    pub nodes: String,
    /// The prefix of parameters' names, for a network other than the base.
    pub parameters: String,
}

impl Scope {
    /// A scope of nodes over the base's parameters.
    pub fn nodes(name: &str) -> Self {
        Self {
            nodes: name.to_owned(),
            parameters: String::new(),
        }
    }
}

/// A graph under construction.
#[derive(Debug)]
pub struct GraphBuilder<'a> {
    graph: proto::Graph,
    parameters: &'a Parameters,
    arithmetic: Arithmetic,
    /// Weights that are already in the graph, by file and offset.
    placed: HashMap<(std::path::PathBuf, u64), Value>,
    /// Values in the order that quantized codes have, by their own order's value and the order.
    ordered: HashMap<(Value, ByteSpan), Value>,
    /// Constants and shared inputs, by name.
    constants: BTreeMap<String, Value>,
    /// Names of values that hold the last position only.
    last: HashSet<String>,
    scope: Scope,
    folder: &'a Path,
}

impl<'a> GraphBuilder<'a> {
    /// An empty graph over `parameters`, for a `model.onnx` in `folder` (absolute).
    pub fn new(parameters: &'a Parameters, arithmetic: Arithmetic, folder: &'a Path) -> Self {
        Self {
            graph: proto::Graph {
                name: "decoder".to_owned(),
                ..Default::default()
            },
            parameters,
            arithmetic,
            placed: HashMap::new(),
            ordered: HashMap::new(),
            constants: BTreeMap::new(),
            last: HashSet::new(),
            scope: Scope::default(),
            folder,
        }
    }

    /// The finished model.
    pub fn finish(self) -> proto::Model {
        let (opset, ir_version) = self.arithmetic.attention.versions();
        proto::Model {
            ir_version,
            producer_name: env!("CARGO_PKG_NAME").to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            graph: Some(self.graph),
            opset_import: [(STANDARD, opset), (MICROSOFT, 1)]
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
        self.arithmetic.compute
    }

    /// Whether weights and arithmetic are float32.
    pub fn is_float32(&self) -> bool {
        [self.arithmetic.storage, self.arithmetic.compute] == [Dtype::Float32; 2]
    }

    /// Whether the graph is made for a GPU.
    pub fn on_gpu(&self) -> bool {
        self.arithmetic.device == Device::Gpu
    }

    /// The attention operator.
    pub fn attention_operator(&self) -> AttentionOperator {
        self.arithmetic.attention
    }

    /// Runs `build`, whose nodes and parameters are named in `scope`.
    pub fn within<T>(&mut self, scope: Scope, build: impl FnOnce(&mut Self) -> T) -> T {
        let around = std::mem::replace(&mut self.scope, scope);
        let made = build(self);
        self.scope = around;
        made
    }

    /// `name` with the present scope's prefix.
    fn scoped(&self, name: &str) -> String {
        match name.starts_with('/') {
            true => format!("{}{name}", self.scope.nodes),
            false => name.to_owned(),
        }
    }

    /// A module's path with the present scope's prefix, which differs between passes through the
    /// same layer.
    pub fn scoped_path(&self, path: &str) -> String {
        let scoped = self.scoped(&format!("/{path}"));
        scoped.trim_start_matches('/').to_owned()
    }

    /// A parameter's name with the present scope's prefix.
    fn scoped_parameter(&self, name: &str) -> String {
        format!("{}{name}", self.scope.parameters)
    }
}
