//! Several residual streams: see [`Streams`](crate::arch::Streams) for the formulas. They're one
//! value, `[batch, sequence, streams, hidden_size]`.

use super::attention::attention;
use super::builder::{Attr, GraphBuilder, Scope, Value};
use super::decoder::normed;
use super::lengths::Lengths;
use super::linear::{linear, times};
use super::mlp::mlp;
use super::norm::norm;
use super::pass::Pass;
use super::per_layer::addition;
use super::positions::PositionTables;
use super::sparse_mlp::sparse_mlp;
use crate::arch::{Alternation, Linear, Streams};

/// Added under the root of a new stream's magnitude, at least.
const LEAST: f32 = 1e-5;

/// The streams before the first layer.
pub(super) fn begin(
    graph: &mut GraphBuilder,
    pass: &Pass,
    own: &Streams,
    embedded: &Value,
) -> Value {
    let mut all = vec![embedded.clone()];
    let target = magnitude(graph, "/streams/begin", embedded, None);
    for projection in &own.projections {
        all.push(alike(graph, pass, projection, embedded, &target));
    }
    let all: Vec<Value> = all
        .iter()
        .enumerate()
        .map(|(number, x)| beside(graph, &format!("/streams/begin/{number}"), x))
        .collect();
    let all: Vec<&Value> = all.iter().collect();
    graph.op("Concat", "/streams/begin", &all, &[("axis", Attr::Int(2))])
}

/// The streams after the last layer as one, `[batch, sequence, hidden_size]`.
pub(super) fn end(graph: &mut GraphBuilder, pass: &Pass, own: &Streams, streams: &Value) -> Value {
    let mut sum = stream(graph, "/streams/end/0", streams, 0);
    let target = magnitude(graph, "/streams/end", &sum, None);
    for (number, projection) in (1..).zip(&own.unembed) {
        let own = stream(graph, &format!("/streams/end/{number}"), streams, number);
        let made = alike(graph, pass, projection, &own, &target);
        sum = graph.add(&format!("/streams/end/{number}/Add"), &sum, &made);
    }
    times(graph, "/streams/end/mean", &sum, 1.0 / own.count as f64)
}

/// Adds layer `index`. After the last layer's attention only the last position is needed, so the
/// others are dropped.
pub(super) fn layer(
    graph: &mut GraphBuilder,
    pass: &Pass,
    own: &Streams,
    index: usize,
    tables: &mut PositionTables,
    lengths: &Lengths,
    streams: &Value,
) -> Value {
    let layer = &pass.spec.layers[index];
    let (path, alternation) = (&layer.path, &own.layers[index]);
    let around = &layer.arrangement;
    let name = |part: &str| format!("/{path}/altup/{part}");
    let mut predicted = predicted(graph, pass, own, index, streams);
    let mut active = stream(graph, &name("predicted/active"), &predicted, own.active);

    let mut x = normed(graph, around.attention.before.as_ref(), active.clone());
    let mut attended = match &layer.attention {
        Some(attended) => attention(graph, pass, (index, attended), tables, lengths, &x),
        None => x.clone(),
    };
    if pass.is_last_layer(index) {
        predicted = graph.last_position("/streams/last", &predicted);
        active = graph.last_position("/residual/last", &active);
        x = graph.last_position("/hidden/last", &x);
    }
    attended = normed(graph, around.attention.after.as_ref(), attended);
    let laurel = linear(graph, pass, &alternation.laurel_left, &x);
    let laurel = linear(graph, pass, &alternation.laurel_right, &laurel);
    let laurel = norm(graph, &alternation.laurel_norm, &laurel);
    let laurel = graph.add(&format!("/{path}/laurel/Add"), &x, &laurel);
    let sum = graph.add(&format!("/{path}/self_attn/Add"), &active, &attended);
    let sum = graph.add(&format!("/{path}/laurel/sum"), &sum, &laurel);
    let sum = times(
        graph,
        &format!("/{path}/laurel/scale"),
        &sum,
        0.5_f64.sqrt(),
    );
    let x = normed(graph, around.mlp.before.as_ref(), sum.clone());
    let made = match alternation.sparsity > 0.0 {
        true => sparse_mlp(graph, pass, path, &layer.mlp, alternation.sparsity, &x),
        false => mlp(graph, pass, path, &layer.mlp, &x),
    };
    let made = normed(graph, around.mlp.after.as_ref(), made);
    let activated = graph.add(&format!("/{path}/mlp/Add"), &sum, &made);

    let streams = corrected(graph, pass, alternation, &predicted, &active, &activated);
    let (Some(per_layer), Some(slices)) = (&pass.spec.per_layer, &pass.per_layer) else {
        return streams;
    };
    let mut first = stream(graph, &name("corrected/active"), &streams, own.active);
    if alternation.scales_output {
        let factor = graph.parameter(&alternation.output_scale.full_name());
        first = graph.mul(&name("correct_output_scale/Mul"), &first, &factor);
    }
    let added = addition(graph, pass, per_layer, index, slices, &first);
    let added = beside(graph, &name("per_layer"), &added);
    // The first stream stays as it is.
    let others: Vec<f32> = (0..own.count)
        .map(|number| if number == 0 { 0.0 } else { 1.0 })
        .collect();
    let others = graph.constant_float("streams.others", &[own.count, 1], &others);
    let added = graph.mul(&name("per_layer/Mul"), &added, &others);
    graph.add(&name("per_layer/Add"), &streams, &added)
}

/// What a layer expects of each stream.
fn predicted(
    graph: &mut GraphBuilder,
    pass: &Pass,
    own: &Streams,
    index: usize,
    streams: &Value,
) -> Value {
    let alternation = &own.layers[index];
    let path = &alternation.prediction.path;
    let active = stream(graph, &format!("/{path}/active"), streams, own.active);
    let modalities = modalities(graph, pass, alternation, "predict", &active);
    let coefficients = linear(graph, pass, &alternation.prediction, &modalities);
    let count = own.count as i64;
    let shape = [0, 0, count, count];
    let coefficients = graph.reshape(&format!("/{path}/matrix"), &coefficients, &shape);
    let name = format!("/{path}/mixed");
    let mixed = graph.op("MatMul", &name, &[&coefficients, streams], &[]);
    graph.add(&format!("/{path}/Add"), streams, &mixed)
}

/// The streams, once the active one is known.
fn corrected(
    graph: &mut GraphBuilder,
    pass: &Pass,
    alternation: &Alternation,
    predicted: &Value,
    active: &Value,
    activated: &Value,
) -> Value {
    let path = &alternation.correction.path;
    let modalities = modalities(graph, pass, alternation, "correct", activated);
    let coefficients = linear(graph, pass, &alternation.correction, &modalities);
    let one = graph.filled("one.float", &[], 1.0);
    let coefficients = graph.add(&format!("/{path}/one_more"), &coefficients, &one);
    let last = graph.constant_i64("axis.3", &[3], false);
    let name = format!("/{path}/column");
    let coefficients = graph.op("Unsqueeze", &name, &[&coefficients, &last], &[]);
    let innovation = graph.op("Sub", &format!("/{path}/Sub"), &[activated, active], &[]);
    let innovation = beside(graph, &format!("/{path}/innovation"), &innovation);
    let change = graph.mul(&format!("/{path}/Mul"), &innovation, &coefficients);
    graph.add(&format!("/{path}/Add"), predicted, &change)
}

/// `tanh(router(router_norm(x) / hidden_size))`, `[batch, sequence, streams]`; `part` is in the
/// nodes' names, as a layer needs it twice.
fn modalities(
    graph: &mut GraphBuilder,
    pass: &Pass,
    alternation: &Alternation,
    part: &str,
    x: &Value,
) -> Value {
    let Alternation {
        router_norm,
        router,
        ..
    } = alternation;
    let factor = 1.0 / pass.spec.hidden_size as f64;
    graph.within(Scope::nodes(&format!("/{part}")), |graph| {
        let normed = norm(graph, router_norm, x);
        let scale = format!("/{}/scale", router_norm.path);
        let normed = times(graph, &scale, &normed, factor);
        let routed = linear(graph, pass, router, &normed);
        graph.op("Tanh", &format!("/{}/Tanh", router.path), &[&routed], &[])
    })
}

/// `projection(x)` with the magnitude `target`.
fn alike(
    graph: &mut GraphBuilder,
    pass: &Pass,
    projection: &Linear,
    x: &Value,
    target: &Value,
) -> Value {
    let path = &projection.path;
    let made = linear(graph, pass, projection, x);
    let scaled = graph.mul(&format!("/{path}/scale"), &made, target);
    let own = magnitude(graph, &format!("/{path}"), &made, Some(LEAST));
    graph.op("Div", &format!("/{path}/Div"), &[&scaled, &own], &[])
}

/// The root of the mean of squares of `x`, `[batch, sequence, 1]`; the mean is at least `least`.
fn magnitude(graph: &mut GraphBuilder, name: &str, x: &Value, least: Option<f32>) -> Value {
    let at = |part: &str| format!("{name}/magnitude/{part}");
    let squares = graph.mul(&at("Mul"), x, x);
    let axis = graph.constant_i64("axis.last", &[-1], false);
    let mut mean = graph.op("ReduceMean", &at("ReduceMean"), &[&squares, &axis], &[]);
    if let Some(least) = least {
        let least = graph.filled("streams.least", &[], least);
        mean = graph.op("Max", &at("Max"), &[&mean, &least], &[]);
    }
    graph.op("Sqrt", &at("Sqrt"), &[&mean], &[])
}

/// One of the streams, `[batch, sequence, hidden_size]`.
fn stream(graph: &mut GraphBuilder, name: &str, streams: &Value, number: usize) -> Value {
    let index = graph.constant_i64(&format!("stream.{number}"), &[number as i64], true);
    graph.gather(name, streams, &index, 2)
}

/// `x` as a single stream, `[batch, sequence, 1, hidden_size]`.
fn beside(graph: &mut GraphBuilder, name: &str, x: &Value) -> Value {
    let axis = graph.constant_i64("axis.2", &[2], false);
    graph.op("Unsqueeze", &format!("{name}/Unsqueeze"), &[x, &axis], &[])
}
