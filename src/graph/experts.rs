//! Mixture of experts: a router sends each token to a few of many MLPs.
//!
//! The tokens of each expert are selected at run time, so weights of experts that no token picks
//! aren't read.

use super::activation::activate;
use super::builder::{Attr, GraphBuilder, Value};
use super::linear::{ExpertProjection, ExpertSite, expert_linear, linear};
use super::pass::Pass;
use super::{Projection, Role};
use crate::arch::{Activation, Expert, Linear};

/// A layer's router.
#[derive(Debug, Clone, Copy)]
pub struct Routing<'a> {
    /// `[experts, hidden_size]`
    pub router: &'a Linear,
    /// Number of experts per token.
    pub per_token: usize,
    /// Whether the picked experts' weights are divided by their sum.
    pub normalised: bool,
}

/// Adds the experts of the layer at `path`.
///
/// ```text
/// x ─ router ─ softmax ─ top k ─ weights [tokens, experts], 0 where not picked
/// for each expert: rows of x whose weight isn't 0 ─ MLP ─ times the weight ─ added to those rows
/// ```
///
/// - `x` and the returned value: `[batch, sequence, hidden_size]`
pub(super) fn experts(
    graph: &mut GraphBuilder,
    pass: &Pass,
    path: &str,
    routing: Routing,
    (experts, activation): (&[Expert], Activation),
    x: &Value,
) -> Value {
    let hidden_size = routing.router.in_features as i64;
    let at = |name: &str| format!("/{path}/mlp/{name}");
    let layer = graph.scoped_path(path);
    let rows = graph.reshape(&at("rows"), x, &[-1, hidden_size]);
    let role = Role::ExpertRows {
        layer: layer.clone(),
    };
    graph.set_role(&rows, &role);
    let weights = weights(graph, pass, path, routing, x);
    let shape = graph.op("Shape", &at("zeros/size"), &[&rows], &[]);
    // Weighted and summed up in float32 whatever the graph's dtype: transformers does it for the
    // weights, too, and only some providers have `ScatterND` with sums in 16 bits.
    let zero = graph.constant_f32("zero.float32", &[], &[0.0]);
    let mut sum = graph.op("Expand", &at("zeros"), &[&zero, &shape], &[]);
    let flat = flat(graph, path, x);
    let mut any_adapted = false;
    for (index, expert) in experts.iter().enumerate() {
        let at = |name: &str| format!("/{path}/mlp/experts.{index}/{name}");
        let own = graph.constant_i64(&format!("expert.{index}"), &[index as i64], true);
        let weight = graph.gather(&at("weight"), &weights, &own, 1);
        let tokens = graph.op("NonZero", &at("NonZero"), &[&weight], &[]);
        let tokens = graph.op("Reshape", &at("tokens"), &[&tokens, &flat], &[]);
        let picked = graph.gather(&at("rows"), &rows, &tokens, 0);
        let mut shared = None;
        let mut product = |graph: &mut GraphBuilder, projection, linear: &Linear, x: &Value| {
            let site = ExpertSite {
                path: &linear.path,
                x,
                inner: &mut shared,
            };
            let name = match projection {
                Projection::Gate => "gate",
                Projection::Up => "up",
                Projection::Down => "down",
            };
            let of = ExpertProjection {
                layer: path,
                index,
                projection,
            };
            let (made, adapted) = expert_linear(graph, pass, &at(name), of, site);
            any_adapted |= adapted;
            made
        };
        let gate = product(graph, Projection::Gate, &expert.gate_proj, &picked);
        let activated = activate(graph, &at("act_fn"), activation, &gate);
        let up = product(graph, Projection::Up, &expert.up_proj, &picked);
        let inner = graph.mul(&at("Mul"), &activated, &up);
        let made = product(graph, Projection::Down, &expert.down_proj, &inner);
        let weight = graph.gather(&at("picked_weight"), &weight, &tokens, 0);
        let weight = graph.reshape(&at("column"), &weight, &[-1, 1]);
        let made = graph.to_f32(&at("down/float32"), &made);
        let made = graph.mul(&at("weighted"), &made, &weight);
        let places = graph.reshape(&at("places"), &tokens, &[-1, 1]);
        let attrs = [("reduction", Attr::Text("add"))];
        sum = graph.op(
            "ScatterND",
            &at("ScatterND"),
            &[&sum, &places, &made],
            &attrs,
        );
    }
    let role = Role::Experts {
        layer,
        count: experts.len(),
        per_token: routing.per_token,
        normalised: routing.normalised,
        activation,
        adapted: any_adapted,
    };
    graph.set_role(&sum, &role);
    let sum = graph.to_compute(&at("sum/narrowed"), &sum);
    let shape = graph.op("Shape", &at("sum/size"), &[x], &[]);
    graph.op("Reshape", &at("sum"), &[&sum, &shape], &[])
}

/// The shape `[-1]`, computed so that ONNX Runtime can't infer it before the run.
///
/// An expert's number of rows is known only at run time. If ONNX Runtime knows a value's number of
/// axes, its memory planner compares the value with all that are no longer needed, and never finds
/// one of the same size. With thousands of experts, opening a session then takes minutes instead of
/// seconds.
///
/// With a GPU, it must be computed on the CPU; otherwise it's copied back in every step. `Min` of a
/// shape runs on the CPU. `Unique` runs only on the CPU, and its output size is unknown until run
/// time.
fn flat(graph: &mut GraphBuilder, path: &str, x: &Value) -> Value {
    let at = |name: &str| format!("/{path}/mlp/{name}");
    let any = graph.constant_i64("any_length", &[-1], false);
    let batch = graph.size_of_axis(&at("batch"), x, 0);
    let any = graph.op("Min", &at("any_length"), &[&batch, &any], &[]);
    graph.op("Unique", &at("flat"), &[&any], &[])
}

/// The weight of each expert for each token, `[tokens, experts]` in float32; 0 for experts that
/// aren't picked.
fn weights(
    graph: &mut GraphBuilder,
    pass: &Pass,
    path: &str,
    routing: Routing,
    x: &Value,
) -> Value {
    let at = |name: &str| format!("/{path}/mlp/router/{name}");
    let experts = routing.router.out_features as i64;
    let logits = linear(graph, pass, routing.router, x);
    let logits = graph.reshape(&at("rows"), &logits, &[-1, experts]);
    let last = [("axis", Attr::Int(-1))];
    // Logits and weights are float32, as in transformers, whatever the graph's dtype.
    let logits = graph.to_f32(&at("float32"), &logits);
    let layer = graph.scoped_path(path);
    let role = Role::RouterLogits {
        layer: layer.clone(),
    };
    graph.set_role(&logits, &role);
    let chances = graph.op("Softmax", &at("Softmax"), &[&logits], &last);
    let count = [routing.per_token as i64];
    let count = graph.constant_i64(&at("per_token"), &count, false);
    let names = [at("TopK"), at("TopK/indices")];
    let [mut picked, indices] =
        graph.op_outputs("TopK", &at("TopK"), &[&chances, &count], names, &last);
    if routing.normalised {
        let axis = graph.constant_i64("axis_1", &[1], false);
        let sums = graph.op("ReduceSum", &at("ReduceSum"), &[&picked, &axis], &[]);
        picked = graph.op("Div", &at("Div"), &[&picked, &sums], &[]);
    }
    let shape = graph.op("Shape", &at("zeros/size"), &[&chances], &[]);
    let zero = graph.constant_f32("zero.float32", &[], &[0.0]);
    let zeros = graph.op("Expand", &at("zeros"), &[&zero, &shape], &[]);
    let weights = graph.op(
        "ScatterElements",
        &at("weights"),
        &[&zeros, &indices, &picked],
        &[("axis", Attr::Int(1))],
    );
    graph.set_role(&weights, &Role::RoutingWeights { layer });
    weights
}
