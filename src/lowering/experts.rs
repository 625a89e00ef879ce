//! Fusing a layer's experts into one node.
//!
//! A prepared graph has a dozen nodes for each expert, which run whether a token picks the expert
//! or not. With 64 experts in each of 16 layers, that takes longer than reading the picked experts'
//! weights. ONNX Runtime's operators compute the picked experts only, several at a time: `MoE` with
//! float weights ([`stacked`]), `QMoE` with quantized ones ([`quantized`]). Both need the experts'
//! weights concatenated, with the rows of `gate_proj` and `up_proj` alternating.
//!
//! The nodes of a layer's experts are found by their roles.

pub mod quantized;
pub mod stacked;

use std::collections::BTreeMap;

use super::NotLowered;
use super::products::{float, int, text};
use crate::arch::Activation;
use crate::graph::proto::{Attribute, Graph, Model, Node};
use crate::graph::{Projection, Role, Special};

/// The experts of a layer; `W` is the type of a weight.
#[derive(Debug)]
struct ExpertLayer<W> {
    /// The layer's path.
    path: String,
    /// The name of the node that sums up the experts' outputs.
    sum: String,
    /// The experts' input, `[tokens, hidden_size]`.
    rows: String,
    /// The router's logits, `[tokens, experts]`.
    logits: String,
    /// The experts' weights for each token, `[tokens, experts]`; 0 for experts that aren't picked.
    weights: String,
    /// Number of experts per token.
    per_token: usize,
    /// Whether the picked experts' weights are divided by their sum.
    normalised: bool,
    /// Whether the weights are a softmax over all experts.
    usual_router: bool,
    /// `gate_proj`, `up_proj` and `down_proj` of each expert.
    experts: Vec<[W; 3]>,
}

impl<W> ExpertLayer<W> {
    /// The attributes that `MoE` and `QMoE` share.
    fn attributes(&self) -> Vec<Attribute> {
        vec![
            int("k", self.per_token as i64),
            text("activation_type", "swiglu"),
            // Alternating rows of gate and up, the only order supported on a CPU.
            int("swiglu_fusion", 1),
            // swiglu = g * sigmoid(alpha * g) * (up + beta)
            float("activation_alpha", 1.0),
            float("activation_beta", 0.0),
        ]
    }

    /// Replaces the node of the layer's sum by one of `operator`. The layer's other nodes are
    /// unused afterwards.
    fn replace(&self, graph: &mut Graph, operator: &str, input: Vec<String>, own: Vec<Attribute>) {
        let node = graph.node.iter_mut().find(|node| node.name == self.sum);
        if let Some(node) = node {
            let mut attribute = self.attributes();
            attribute.extend(own);
            *node = Node {
                input,
                output: node.output.clone(),
                name: self.sum.clone(),
                op_type: operator.to_owned(),
                attribute,
                domain: "com.microsoft".to_owned(),
                metadata_props: Vec::new(),
            };
        }
    }

    fn refused(&self, reason: impl Into<String>) -> NotLowered {
        not_lowered(&self.path, reason)
    }
}

fn not_lowered(layer: &str, reason: impl Into<String>) -> NotLowered {
    NotLowered {
        role: "experts".to_owned(),
        path: layer.to_owned(),
        reason: reason.into(),
    }
}

/// Reports the experts of every layer of `model` as not lowered, for `reason`.
pub fn all_refused(model: &Model, reason: &str) -> Vec<NotLowered> {
    let nodes = model.graph.iter().flat_map(|graph| &graph.node);
    let layer = |node: &Node| match Role::of(node)? {
        Role::Experts { layer, .. } => Some(layer),
        _ => None,
    };
    nodes
        .filter_map(layer)
        .map(|layer| not_lowered(&layer, reason))
        .collect()
}

/// The values found for one layer's experts.
#[derive(Debug)]
struct ExpertNodes<W> {
    rows: Option<String>,
    logits: Option<String>,
    weights: Option<String>,
    projections: BTreeMap<(usize, Projection), Result<W, &'static str>>,
    sum: Option<(String, Role)>,
}

impl<W> Default for ExpertNodes<W> {
    fn default() -> Self {
        Self {
            rows: None,
            logits: None,
            weights: None,
            projections: BTreeMap::new(),
            sum: None,
        }
    }
}

/// The experts of each layer of `graph`, or why they can't become one node. `weight` returns the
/// weight of a projection's product, or the reason why it can't be used.
fn layers<W>(
    graph: &Graph,
    weight: impl Fn(&Node) -> Result<W, &'static str>,
) -> Vec<Result<ExpertLayer<W>, NotLowered>> {
    let mut layers: Vec<(String, ExpertNodes<W>)> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for node in &graph.node {
        let Some(role) = Role::of(node) else {
            continue;
        };
        let layer = match &role {
            Role::Linear { .. } | Role::Divided { .. } | Role::Length { .. } => continue,
            Role::Expert { layer, .. }
            | Role::ExpertRows { layer }
            | Role::RouterLogits { layer }
            | Role::RoutingWeights { layer }
            | Role::Experts { layer, .. } => layer.clone(),
        };
        let place = *places.entry(layer.clone()).or_insert_with(|| {
            layers.push((layer, ExpertNodes::default()));
            layers.len() - 1
        });
        let found = &mut layers[place].1;
        let value = node.output[0].clone();
        match role {
            Role::Linear { .. } | Role::Divided { .. } | Role::Length { .. } => {}
            Role::Expert {
                index, projection, ..
            } => {
                found.projections.insert((index, projection), weight(node));
            }
            Role::ExpertRows { .. } => found.rows = Some(value),
            Role::RouterLogits { .. } => found.logits = Some(value),
            Role::RoutingWeights { .. } => found.weights = Some(value),
            Role::Experts { .. } => found.sum = Some((node.name.clone(), role)),
        }
    }
    let layers = layers.into_iter();
    layers
        .map(|(path, found)| found.layer(&path).map_err(|why| not_lowered(&path, why)))
        .collect()
}

impl<W> ExpertNodes<W> {
    fn layer(mut self, path: &str) -> Result<ExpertLayer<W>, &'static str> {
        const INCOMPLETE: &str = "one of their nodes is missing";
        let Some((
            sum,
            Role::Experts {
                count,
                per_token,
                normalised,
                activation,
                adapted,
                special,
                ..
            },
        )) = self.sum
        else {
            return Err(INCOMPLETE);
        };
        if adapted {
            return Err("an adapter changes them");
        }
        if count == 0 {
            return Err(INCOMPLETE);
        }
        let other = |special: &&Special| **special != Special::Router;
        if let Some(other) = special.iter().find(other) {
            return Err(no_single_node(*other));
        }
        if activation != Activation::Silu {
            return Err("ONNX Runtime's operator for experts doesn't have their activation");
        }
        let mut of = |index, projection| {
            let weight = self.projections.remove(&(index, projection));
            weight.ok_or(INCOMPLETE)?
        };
        let mut experts = Vec::new();
        for index in 0..count {
            experts.push([
                of(index, Projection::Gate)?,
                of(index, Projection::Up)?,
                of(index, Projection::Down)?,
            ]);
        }
        Ok(ExpertLayer {
            path: path.to_owned(),
            sum,
            rows: self.rows.ok_or(INCOMPLETE)?,
            logits: self.logits.ok_or(INCOMPLETE)?,
            weights: self.weights.ok_or(INCOMPLETE)?,
            per_token,
            normalised,
            usual_router: special.is_empty(),
            experts,
        })
    }
}

/// Why ONNX Runtime's operator can't compute experts that differ in `special`.
fn no_single_node(special: Special) -> &'static str {
    match special {
        Special::Router => unreachable!("it's given their weights"),
        Special::WeighsInputs => {
            "ONNX Runtime's operator for experts weighs their outputs, not their inputs"
        }
        Special::FusedProjections => "their gate and up projections are one matrix",
        Special::Ungated => {
            "ONNX Runtime's operator for experts has no form without a gate for them"
        }
        Special::Clamped | Special::Biases => {
            "their form isn't passed to ONNX Runtime's operator for experts"
        }
    }
}
