//! Puts nodes, constants and references to weights together into an ONNX graph.
//!
//! Standard operators are those of opset 21, or 24 where attention is; the contributed ones (`com.microsoft`) are documented in
//! <https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md>.

mod constants;
mod inputs;
mod nodes;
mod operators;
mod positions;
mod quantized;
mod value;
mod weights;
mod widened;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

pub use positions::LAST_POSITION;
pub use value::{Attr, Dim, Value};

use super::parameters::Parameters;
use super::{Arithmetic, AttentionOperator, Device, proto};
use crate::weights::Dtype;

/// The two operator domains.
const STANDARD: &str = "";
const MICROSOFT: &str = "com.microsoft";

/// A graph that's being built.
#[derive(Debug)]
pub struct GraphBuilder<'a> {
    graph: proto::Graph,
    parameters: &'a Parameters,
    arithmetic: Arithmetic,
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
            constants: BTreeMap::new(),
            last: HashSet::new(),
            token_gate: None,
            scope: String::new(),
            owner: String::new(),
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

    /// Whether the graph is made for a GPU.
    pub fn on_gpu(&self) -> bool {
        self.arithmetic.device == Device::Gpu
    }

    /// The attention operator.
    pub fn attention_operator(&self) -> AttentionOperator {
        self.arithmetic.attention
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
}
