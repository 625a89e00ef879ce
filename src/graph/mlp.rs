//! The MLP of a layer.

use super::activation::activate;
use super::builder::{Attr, GraphBuilder, Value};
use super::experts::mixture;
use super::linear::linear;
use super::pass::Pass;
use crate::arch::Mlp;

/// Adds the MLP of the layer at `path`.
///
/// - `x` and the returned value: `[batch, sequence, hidden_size]`
/// - between the projections: `[batch, sequence, intermediate_size]`
pub(super) fn mlp(
    graph: &mut GraphBuilder,
    pass: &Pass,
    path: &str,
    mlp: &Mlp,
    x: &Value,
) -> Value {
    match mlp {
        Mlp::Gated {
            gate_proj,
            up_proj,
            down_proj,
            activation,
        } => {
            let gate = linear(graph, pass, gate_proj, x);
            let activated = activate(
                graph,
                path,
                &format!("/{path}/mlp/act_fn"),
                *activation,
                &gate,
            );
            let up = linear(graph, pass, up_proj, x);
            let product = graph.mul(&format!("/{path}/mlp/Mul"), &activated, &up);
            linear(graph, pass, down_proj, &product)
        }
        Mlp::GatedFused {
            gate_up_proj,
            down_proj,
            activation,
        } => {
            let both = linear(graph, pass, gate_up_proj, x);
            let name = |name: &str| format!("/{path}/mlp/{name}");
            let names = [name("gate"), name("up")];
            let attrs = [("axis", Attr::Int(-1)), ("num_outputs", Attr::Int(2))];
            let [gate, up] = graph.op_outputs("Split", &name("Split"), &[&both], names, &attrs);
            let activated = activate(graph, path, &name("act_fn"), *activation, &gate);
            let product = graph.mul(&name("Mul"), &activated, &up);
            linear(graph, pass, down_proj, &product)
        }
        Mlp::Experts(experts) => mixture(graph, pass, path, experts, x),
        Mlp::Plain {
            fc1,
            fc2,
            activation,
        } => {
            let inner = linear(graph, pass, fc1, x);
            let name = format!("/{path}/activation_fn");
            let activated = activate(graph, path, &name, *activation, &inner);
            linear(graph, pass, fc2, &activated)
        }
        Mlp::Absent => x.clone(),
    }
}
