//! Mamba-2's mixer.

use super::{Passed, convolved, negative_exponential, silu};
use crate::arch::{Gating, Mamba2, Norm};
use crate::graph::builder::{Attr, GraphBuilder, Value};
use crate::graph::lengths::Lengths;
use crate::graph::linear::linear;
use crate::graph::pass::Pass;

/// Adds the mixer of layer `index`.
///
/// ```text
///             ┌─ x, B, C ─ CausalConvWithState ─┬─ C ──────────────┐
///             │                                 ├─ B ──────────────┤
///             │                                 ├─ x ─ Mul ────────┼─ LinearAttention ─ Add ─ gate ─ out_proj ─
/// ─ in_proj ──┼─ dt ─ Add ─ Softplus ───────────┼───────┴─ decay ──┘                     │      │
///             │                                 └─ x ─ Mul(D) ───────────────────────────┘      │
///             └─ z ─────────────────────────────────────────────────────────────────────────────┘
/// ```
pub fn mamba2(
    graph: &mut GraphBuilder,
    pass: &Pass,
    index: usize,
    own: &Mamba2,
    lengths: &Lengths,
    input: &Value,
) -> Value {
    let path = own.path();
    let at = |part: &str| format!("/{path}/{part}");
    let [mut z, mixed, dt] = projected(graph, pass, own, input);
    let state = Passed::new(graph, pass, index, &own.convolution.state());
    let mixed = convolved(graph, &own.convolution, "silu", &state, &mixed);
    let sizes = [own.inner(), own.projections(), own.projections()];
    let parts = ["x", "B", "C"].map(at);
    let [x, b, c] = graph.split(&at("x_B_C/Split"), &mixed, -1, sizes, parts);

    let step = steps(graph, pass, own, lengths, &dt);
    let scale = negative_exponential(graph, &own.a_log);
    let scale = graph.to_compute(&at("A"), &scale);
    let decay = graph.mul(&at("decay"), &step, &scale);
    let (heads, width) = (own.heads as i64, own.head_width as i64);
    let by_head = [0, 0, heads, width];
    let mut x = graph.reshape(&at("x/heads"), &x, &by_head);
    let step = graph.reshape(&at("step/heads"), &step, &[0, 0, heads, 1]);
    let value = graph.mul(&at("value/heads"), &x, &step);
    let value = graph.reshape(&at("value"), &value, &[0, 0, heads * width]);

    let state = Passed::new(graph, pass, index, &own.state());
    let name = at("LinearAttention");
    let inputs = [&c, &b, &value, &state.past, &decay];
    let attrs = [
        ("update_rule", Attr::Text("gated")),
        ("q_num_heads", Attr::Int(own.groups as i64)),
        ("kv_num_heads", Attr::Int(heads)),
        ("scale", Attr::Float(1.0)),
    ];
    let outputs = [name.as_str(), &state.present];
    let mut made = graph
        .contrib_outputs("LinearAttention", &name, &inputs, &outputs, &attrs)
        .remove(0);
    if pass.is_last_layer(index) {
        made = graph.last_position(&at("last"), &made);
        x = graph.last_position(&at("x/last"), &x);
        z = graph.last_position(&at("z/last"), &z);
    }
    let skip = graph.parameter(&format!("{path}.D"));
    let skip = graph.reshape(&at("D/heads"), &skip, &[heads, 1]);
    let skipped = graph.mul(&at("skipped"), &x, &skip);
    let skipped = graph.reshape(&at("skipped/joined"), &skipped, &[0, 0, heads * width]);
    let made = graph.add(&at("Add"), &made, &skipped);
    let gated = gated(graph, own, &made, &z);
    let output = linear(graph, pass, &own.out_proj, &gated);
    match own.scales {
        Some(scales) => scaled(graph, &at("output"), &output, scales.output),
        None => output,
    }
}

/// z, the convolution's input and dt.
fn projected(graph: &mut GraphBuilder, pass: &Pass, own: &Mamba2, input: &Value) -> [Value; 3] {
    let path = own.path();
    let at = |part: &str| format!("/{path}/{part}");
    let input = match own.scales {
        Some(scales) => scaled(graph, &at("input"), input, scales.input),
        None => input.clone(),
    };
    let mut joined = linear(graph, pass, &own.in_proj, &input);
    let sizes = [own.inner(), own.convolution.channels, own.heads];
    if let Some(scales) = own.scales
        && scales.projected != [1.0; 5]
    {
        let widths = [
            own.inner(),
            own.inner(),
            own.projections(),
            own.projections(),
            own.heads,
        ];
        let parts = widths.into_iter().zip(scales.projected);
        let factors = parts.flat_map(|(width, factor)| vec![factor as f32; width]);
        let factors: Vec<f32> = factors.collect();
        let name = at("in_proj/factors");
        let factors = graph.constant_float(&name, &[factors.len()], &factors);
        joined = graph.mul(&at("in_proj/scaled"), &joined, &factors);
    }
    let parts = ["z", "x_B_C", "dt"].map(at);
    graph.split(&at("Split"), &joined, -1, sizes, parts)
}

fn scaled(graph: &mut GraphBuilder, name: &str, x: &Value, factor: f64) -> Value {
    if factor == 1.0 {
        return x.clone();
    }
    let constant = graph.filled(&format!("{name}/factor"), &[], factor as f32);
    graph.mul(&format!("{name}/scaled"), x, &constant)
}

/// The sizes of the steps, `softplus(dt + dt_bias)`, `[batch, sequence, heads]`.
fn steps(
    graph: &mut GraphBuilder,
    pass: &Pass,
    own: &Mamba2,
    lengths: &Lengths,
    dt: &Value,
) -> Value {
    let path = own.path();
    let at = |part: &str| format!("/{path}/step/{part}");
    let bias = graph.parameter(&format!("{path}.dt_bias"));
    let sum = graph.add(&at("Add"), dt, &bias);
    let step = graph.op("Softplus", &at("Softplus"), &[&sum], &[]);
    let Some([least, most]) = own.step_limit else {
        return step;
    };
    // Transformers limits the steps of prompts, not those of single tokens after them.
    let most = if most.is_finite() {
        most as f32
    } else {
        f32::MAX
    };
    let limited = graph.clip_between("step_limit", &at("Clip"), &step, [least as f32, most]);
    if pass.whole_sequences {
        return limited;
    }
    let zero = graph.constant_i64("zero", &[0], false);
    let one = graph.constant_i64("one", &[1], false);
    let first = graph.op("Equal", &at("is_first"), &[&lengths.past, &zero], &[]);
    let many = graph.op("Greater", &at("are_many"), &[&lengths.new, &one], &[]);
    let prompt = graph.op("Or", &at("is_prompt"), &[&first, &many], &[]);
    graph.op("Where", &at("limited"), &[&prompt, &limited, &step], &[])
}

/// The output gated by z, `[batch, sequence, heads * head_width]`.
fn gated(graph: &mut GraphBuilder, own: &Mamba2, y: &Value, z: &Value) -> Value {
    let path = own.path();
    let at = |part: &str| format!("/{path}/{part}");
    let gate = silu(graph, &at("gate"), z);
    match &own.gating {
        Gating::Plain => graph.mul(&at("gated"), y, &gate),
        Gating::BeforeNorm(norm) => {
            let gated = graph.mul(&at("gated"), y, &gate);
            norm_of_groups(graph, norm, own.groups, &gated)
        }
        Gating::AfterNorm(norm) => {
            let normed = norm_of_groups(graph, norm, own.groups, y);
            graph.mul(&at("gated"), &normed, &gate)
        }
    }
}

/// The RMSNorm of each of the `groups` parts of `x`; every one has its own part of the weight.
fn norm_of_groups(graph: &mut GraphBuilder, norm: &Norm, groups: usize, x: &Value) -> Value {
    let path = &norm.path;
    let at = |part: &str| format!("/{path}/{part}");
    let width = norm.size / groups;
    let shape = [0, 0, groups as i64, width as i64];
    let parts = graph.reshape(&at("groups"), x, &shape);
    let ones = graph.filled(&format!("ones.{width}"), &[width], 1.0);
    let attrs = [
        ("axis", Attr::Int(-1)),
        ("epsilon", Attr::Float(norm.epsilon as f32)),
    ];
    let op = "SimplifiedLayerNormalization";
    let normed = graph.op(op, &at("normed"), &[&parts, &ones], &attrs);
    let normed = graph.reshape(&at("joined"), &normed, &[0, 0, norm.size as i64]);
    let weight = graph.parameter(&format!("{path}.weight"));
    graph.mul(&at("Mul"), &normed, &weight)
}
