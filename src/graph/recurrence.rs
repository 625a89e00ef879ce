//! Mixers with a state of a fixed size, which takes part in the cache.
//!
//! If `past` and `present` are bound to the same buffer, a state is updated in place. Prompts and
//! decode steps run the same nodes: the operators take any number of tokens, and continue from the
//! state.

mod gated_delta;
mod mamba2;
mod short_convolution;

use super::builder::{Attr, Dim, GraphBuilder, Value};
use super::lengths::Lengths;
use super::pass::Pass;
use crate::arch::{Convolution, PlainParameter, Recurrence, State, StateKind};
use crate::weights::Dtype;
use gated_delta::gated_delta;
use mamba2::mamba2;
use short_convolution::short_convolution;

/// Adds layer `index`'s recurrence, and its states as inputs and outputs of the graph.
///
/// - `x` and the returned value: `[batch, sequence, hidden_size]`; the last layer returns the last
///   position only
/// - states: `[batch, …]`, their shapes are in [`Recurrence::states`]
pub(super) fn recurrence(
    graph: &mut GraphBuilder,
    pass: &Pass,
    index: usize,
    recurrence: &Recurrence,
    lengths: &Lengths,
    x: &Value,
) -> Value {
    match recurrence {
        Recurrence::ShortConvolution(short) => short_convolution(graph, pass, index, short, x),
        Recurrence::GatedDelta(net) => gated_delta(graph, pass, index, net, x),
        Recurrence::Mamba2(mixer) => mamba2(graph, pass, index, mixer, lengths, x),
    }
}

/// A state's value before the run, and the name of the output that holds it after.
struct Passed {
    past: Value,
    present: String,
}

impl Passed {
    /// Adds the input and the output of a state of layer `index`.
    fn new(graph: &mut GraphBuilder, pass: &Pass, index: usize, state: &State) -> Self {
        let number = pass.first_cache + index;
        let dims: Vec<Dim> = [Dim::symbol("batch")]
            .into_iter()
            .chain(state.shape.iter().map(|&size| size.into()))
            .collect();
        let name = state.kind.name();
        let dtype = match state.kind {
            StateKind::Convolution => graph.compute(),
            StateKind::Recurrent => Dtype::Float32,
        };
        let past = graph.input_of(dtype, &format!("past_key_values.{number}.{name}"), &dims);
        let present = format!("present.{number}.{name}");
        graph.output_of(dtype, &present, &dims);
        Self { past, present }
    }
}

/// Adds `activation(convolution(x))`, where the operator has `silu` and `none`; `x` and the returned value are `[batch, sequence, channels]`.
fn convolved(
    graph: &mut GraphBuilder,
    convolution: &Convolution,
    activation: &'static str,
    state: &Passed,
    x: &Value,
) -> Value {
    let path = &convolution.path;
    let weight = graph.parameter(&format!("{path}.weight"));
    let bias = graph.find_parameter(&format!("{path}.bias"));
    let mut inputs = vec![x, &weight];
    let absent = GraphBuilder::absent();
    inputs.push(bias.as_ref().unwrap_or(&absent));
    inputs.push(&state.past);
    let name = format!("/{path}/CausalConvWithState");
    let attrs = [
        ("activation", Attr::Text(activation)),
        ("channels_last", Attr::Int(1)),
    ];
    graph
        .contrib_outputs(
            "CausalConvWithState",
            &name,
            &inputs,
            &[&name, &state.present],
            &attrs,
        )
        .remove(0)
}

/// A parameter in float32, rounded as weights are: Transformers loads it in the model's dtype, and
/// computes with it in float32.
fn widened(graph: &mut GraphBuilder, parameter: &PlainParameter) -> Value {
    let name = parameter.full_name();
    let x = graph.parameter(&name);
    graph.to_f32(&format!("/{name}/float32"), &x)
}

/// `-exp(x)` of a parameter, float32. ONNX Runtime folds it when it opens the session.
fn negative_exponential(graph: &mut GraphBuilder, parameter: &PlainParameter) -> Value {
    let name = parameter.full_name();
    let x = widened(graph, parameter);
    let grown = graph.op("Exp", &format!("/{name}/Exp"), &[&x], &[]);
    graph.op("Neg", &format!("/{name}/Neg"), &[&grown], &[])
}

/// `x * sigmoid(x)`
fn silu(graph: &mut GraphBuilder, name: &str, x: &Value) -> Value {
    graph.contrib("QuickGelu", name, &[x], &[("alpha", Attr::Float(1.0))])
}
