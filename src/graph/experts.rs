//! Mixture of experts: a router sends each token to a few of many MLPs.
//!
//! The tokens of each expert are selected at run time, so weights of experts that no token picks
//! aren't read.

use super::activation::activate;
use super::builder::{Attr, GraphBuilder, Value};
use super::linear::{ExpertProjection, ExpertSite, add_bias, expert_linear, linear, times};
use super::mlp::mlp;
use super::norm::norm;
use super::pass::Pass;
use super::router::routing_weights;
use super::{Projection, Role, Special};
use crate::arch::{
    Activation, Apart, Expert, ExpertInner, GateUpRows, Glu, Linear, Mixture, Normalised, Scores,
    SharedExpert, Weighs,
};

/// Adds the mixture of the layer at `path`: the picked experts, and the shared one.
///
/// - `x` and the returned value: `[batch, sequence, hidden_size]`
pub(super) fn mixture(
    graph: &mut GraphBuilder,
    pass: &Pass,
    path: &str,
    mixture: &Mixture,
    x: &Value,
) -> Value {
    let routed = match &mixture.around {
        None => experts(graph, pass, path, mixture, (x, x)),
        Some([before, after]) => {
            let own = linear(graph, pass, before, x);
            let sum = experts(graph, pass, path, mixture, (x, &own));
            linear(graph, pass, after, &sum)
        }
    };
    match &mixture.shared {
        None => routed,
        Some(shared) => {
            let shared = shared_expert(graph, pass, path, shared, x);
            graph.add(&format!("/{path}/mlp/Add"), &routed, &shared)
        }
    }
}

/// Adds a mixture whose parts have inputs and norms of their own: see [`Apart`]. `x` is the input of
/// the layer's MLP, `residual` the stream that it's made of.
pub(super) fn apart_mixture(
    graph: &mut GraphBuilder,
    pass: &Pass,
    path: &str,
    (mixture, apart): (&Mixture, &Apart),
    x: &Value,
    residual: &Value,
) -> Value {
    let scale = graph.parameter(&apart.router_scale.full_name());
    let factor = (pass.spec.hidden_size as f64).powf(-0.5);
    let at = |name: &str| format!("/{path}/router/{name}");
    let routed_x = norm(graph, &apart.router_norm, residual);
    let routed_x = graph.mul(&at("Mul"), &routed_x, &scale);
    let routed_x = times(graph, &at("scale"), &routed_x, factor);
    let experts_x = norm(graph, &apart.experts_before, residual);
    let routed = experts(graph, pass, path, mixture, (&routed_x, &experts_x));
    let routed = norm(graph, &apart.experts_after, &routed);
    let Some(shared) = &mixture.shared else {
        return routed;
    };
    let shared = shared_expert(graph, pass, path, shared, x);
    let shared = norm(graph, &apart.dense_after, &shared);
    graph.add(&format!("/{path}/mlp/Add"), &shared, &routed)
}

/// The MLP that every token uses.
fn shared_expert(
    graph: &mut GraphBuilder,
    pass: &Pass,
    path: &str,
    shared: &SharedExpert,
    x: &Value,
) -> Value {
    let output = mlp(graph, pass, &format!("{path}/shared"), &shared.mlp, x);
    let Some(gate) = &shared.gate else {
        return output;
    };
    let gate = linear(graph, pass, gate, x);
    let gate = graph.op("Sigmoid", &format!("/{path}/mlp/Sigmoid"), &[&gate], &[]);
    graph.mul(&format!("/{path}/shared/Mul"), &output, &gate)
}

/// Adds the picked experts of the layer at `path`. The router's input may be another than theirs.
///
/// ```text
/// x ─ router ─ weights [tokens, experts], 0 where not picked
/// for each expert: rows of x whose weight isn't 0 ─ MLP ─ times the weight ─ added to those rows
/// ```
///
/// - both `x` and the returned value: `[batch, sequence, hidden_size]`, or the experts' own width
pub(super) fn experts(
    graph: &mut GraphBuilder,
    pass: &Pass,
    path: &str,
    mixture: &Mixture,
    (router_x, x): (&Value, &Value),
) -> Value {
    let router = &mixture.router;
    let hidden_size = mixture.experts[0].down_proj.out_features as i64;
    let at = |name: &str| format!("/{path}/mlp/{name}");
    let layer = graph.scoped_path(path);
    let rows = graph.reshape(&at("rows"), x, &[-1, hidden_size]);
    let role = Role::ExpertRows {
        layer: layer.clone(),
    };
    graph.set_role(&rows, &role);
    let weights = routing_weights(graph, pass, path, router, router_x);
    let shape = graph.op("Shape", &at("zeros/size"), &[&rows], &[]);
    // Weighted and summed up in float32 whatever the graph's dtype: transformers does it for the
    // weights, too, and only some providers have `ScatterND` with sums in 16 bits.
    let zero = graph.constant_f32("zero.float32", &[], &[0.0]);
    let mut sum = graph.op("Expand", &at("zeros"), &[&zero, &shape], &[]);
    let flat = flat(graph, path, x);
    let mut any_adapted = false;
    for (index, expert) in mixture.experts.iter().enumerate() {
        let at = |name: &str| format!("/{path}/mlp/experts.{index}/{name}");
        let own = graph.constant_i64(&format!("expert.{index}"), &[index as i64], true);
        let weight = graph.gather(&at("weight"), &weights, &own, 1);
        let tokens = graph.op("NonZero", &at("NonZero"), &[&weight], &[]);
        let tokens = graph.op("Reshape", &at("tokens"), &[&tokens, &flat], &[]);
        let mut picked = graph.gather(&at("rows"), &rows, &tokens, 0);
        let weigh_inputs = router.weighs == Weighs::Input;
        if weigh_inputs {
            let weight = column(graph, &at, &weight, &tokens);
            let weight = graph.to_compute(&at("column/narrowed"), &weight);
            picked = graph.mul(&at("weighted"), &picked, &weight);
        }
        let mut nodes = ExpertNodes {
            graph,
            pass,
            path,
            index,
            inner: None,
            adapted: false,
        };
        let made = nodes.output(expert, mixture.glu, &picked);
        any_adapted |= nodes.adapted;
        let mut made = match weigh_inputs {
            false => {
                let weight = column(graph, &at, &weight, &tokens);
                let made = graph.to_f32(&at("down/float32"), &made);
                graph.mul(&at("weighted"), &made, &weight)
            }
            true => graph.to_f32(&at("down/float32"), &made),
        };
        let places = graph.reshape(&at("places"), &tokens, &[-1, 1]);
        let attrs = [("reduction", Attr::Text("add"))];
        made = graph.op(
            "ScatterND",
            &at("ScatterND"),
            &[&sum, &places, &made],
            &attrs,
        );
        sum = made;
    }
    let role = Role::Experts {
        layer,
        count: mixture.experts.len(),
        per_token: router.per_token,
        normalised: router.normalised != Normalised::No,
        activation: match mixture.glu {
            Glu::Plain(activation) => activation,
            Glu::Clamped { .. } => Activation::Silu,
        },
        adapted: any_adapted,
        special: special(mixture),
    };
    graph.set_role(&sum, &role);
    let sum = graph.to_compute(&at("sum/narrowed"), &sum);
    let shape = graph.op("Shape", &at("sum/size"), &[x], &[]);
    graph.op("Reshape", &at("sum"), &[&sum, &shape], &[])
}

/// The weights of the picked tokens, `[n, 1]`.
fn column(
    graph: &mut GraphBuilder,
    at: &dyn Fn(&str) -> String,
    weight: &Value,
    tokens: &Value,
) -> Value {
    let weight = graph.gather(&at("picked_weight"), weight, tokens, 0);
    graph.reshape(&at("column"), &weight, &[-1, 1])
}

/// In what `mixture` differs from gated MLPs that a softmax over all experts weighs.
fn special(mixture: &Mixture) -> Vec<Special> {
    let router = &mixture.router;
    let usual = router.scores == Scores::Softmax
        && router.correction.is_none()
        && router.groups.is_none()
        && matches!(router.normalised, Normalised::No | Normalised::Sum)
        && router.scale.is_none()
        && router.expert_scale.is_none();
    let inner = &mixture.experts[0].inner;
    let found = [
        (!usual, Special::Router),
        (router.weighs == Weighs::Input, Special::WeighsInputs),
        (
            matches!(inner, ExpertInner::Fused { .. }),
            Special::FusedProjections,
        ),
        (matches!(inner, ExpertInner::Plain { .. }), Special::Ungated),
        (matches!(mixture.glu, Glu::Clamped { .. }), Special::Clamped),
        (mixture.experts[0].down_proj.bias, Special::Biases),
    ];
    let found = found.into_iter().filter(|(is, _)| *is);
    found.map(|(_, special)| special).collect()
}

/// The nodes of one expert.
struct ExpertNodes<'a, 'b> {
    graph: &'a mut GraphBuilder<'b>,
    pass: &'a Pass<'a>,
    /// The layer's path.
    path: &'a str,
    index: usize,
    /// What projections of the same input may share.
    inner: Option<(Value, Value)>,
    /// Whether an adapter changed one of its projections.
    adapted: bool,
}

impl ExpertNodes<'_, '_> {
    fn at(&self, name: &str) -> String {
        format!("/{}/mlp/experts.{}/{name}", self.path, self.index)
    }

    /// The output for the rows `x`.
    fn output(&mut self, expert: &Expert, glu: Glu, x: &Value) -> Value {
        let inner = match &expert.inner {
            ExpertInner::Gated { gate_proj, up_proj } => {
                let gate = self.product(Projection::Gate, gate_proj, x);
                // The activation stands before `up_proj`, as it did in graphs of earlier versions.
                match glu {
                    Glu::Plain(activation) => {
                        let name = self.at("act_fn");
                        let activated = activate(self.graph, self.path, &name, activation, &gate);
                        let up = self.product(Projection::Up, up_proj, x);
                        self.graph.mul(&self.at("Mul"), &activated, &up)
                    }
                    Glu::Clamped { alpha, limit } => {
                        let up = self.product(Projection::Up, up_proj, x);
                        self.clamped(&gate, &up, alpha, limit)
                    }
                }
            }
            ExpertInner::Fused { gate_up_proj, rows } => {
                let both = self.product(Projection::GateUp, gate_up_proj, x);
                let [gate, up] = self.halves(&both, *rows, gate_up_proj.out_features / 2);
                match glu {
                    Glu::Plain(activation) => {
                        let name = self.at("act_fn");
                        let activated = activate(self.graph, self.path, &name, activation, &gate);
                        self.graph.mul(&self.at("Mul"), &activated, &up)
                    }
                    Glu::Clamped { alpha, limit } => self.clamped(&gate, &up, alpha, limit),
                }
            }
            ExpertInner::Plain { up_proj } => {
                let up = self.product(Projection::Up, up_proj, x);
                let activation = match glu {
                    Glu::Plain(activation) => activation,
                    Glu::Clamped { .. } => unreachable!("only gated experts are clamped"),
                };
                activate(self.graph, self.path, &self.at("act_fn"), activation, &up)
            }
        };
        self.inner = None;
        self.product(Projection::Down, &expert.down_proj, &inner)
    }

    fn product(&mut self, projection: Projection, linear: &Linear, x: &Value) -> Value {
        // `down_proj` has another input than the others, so it shares nothing with them.
        let mut none = None;
        let inner = match projection {
            Projection::Down => &mut none,
            _ => &mut self.inner,
        };
        let site = ExpertSite {
            path: &linear.path,
            x,
            inner,
        };
        let name = match projection {
            Projection::Gate => "gate",
            Projection::Up => "up",
            Projection::GateUp => "gate_up",
            Projection::Down => "down",
        };
        let of = ExpertProjection {
            layer: self.path,
            index: self.index,
            projection,
        };
        let name = format!("/{}/mlp/experts.{}/{name}", self.path, self.index);
        let (made, adapted) = expert_linear(self.graph, self.pass, &name, of, site);
        self.adapted |= adapted;
        let bias = match linear.bias {
            true => self.graph.find_parameter(&format!("{}.bias", linear.path)),
            false => None,
        };
        add_bias(self.graph, &linear.path, &made, bias.as_ref())
    }

    /// Gate and up of `both`, each `[n, size]`. A slice keeps the number of axes unknown, see
    /// [`flat`].
    fn halves(&mut self, both: &Value, rows: GateUpRows, size: usize) -> [Value; 2] {
        let size = size as i64;
        let (places, step) = match rows {
            GateUpRows::Halves => ([[0, size], [size, 2 * size]], 1),
            GateUpRows::Alternating => ([[0, 2 * size], [1, 2 * size]], 2),
        };
        let axis = self.graph.constant_i64("axis.last", &[-1], false);
        let step = self.graph.constant_i64("gate_up.step", &[step], false);
        let mut parts = ["gate_part", "up_part"].into_iter().zip(places);
        [(); 2].map(|()| {
            let (name, [start, end]) = parts.next().expect("there are two parts");
            let start = self
                .graph
                .constant_i64(&format!("gate_up.{name}.start"), &[start], false);
            let end = self
                .graph
                .constant_i64(&format!("gate_up.{name}.end"), &[end], false);
            let inputs = [both, &start, &end, &axis, &step];
            let name = self.at(name);
            self.graph.op("Slice", &name, &inputs, &[])
        })
    }

    /// [`Glu::Clamped`]
    fn clamped(&mut self, gate: &Value, up: &Value, alpha: f64, limit: f64) -> Value {
        let limit = limit as f32;
        let names = ["gate_clip", "up_clip", "QuickGelu", "up_plus_one", "Mul"];
        let [gate_name, up_name, sigmoid, plus, product] = names.map(|name| self.at(name));
        let graph = &mut *self.graph;
        let gate = graph.clip_between("swiglu.gate", &gate_name, gate, [f32::MIN, limit]);
        let up = graph.clip_between("swiglu.up", &up_name, up, [-limit, limit]);
        let attrs = [("alpha", Attr::Float(alpha as f32))];
        let gate = graph.contrib("QuickGelu", &sigmoid, &[&gate], &attrs);
        let one = graph.filled("one.float", &[], 1.0);
        let up = graph.add(&plus, &up, &one);
        graph.mul(&product, &up, &gate)
    }
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
