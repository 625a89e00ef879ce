//! The gated delta net.

use super::{Passed, convolved, negative_exponential, widened};
use crate::arch::{DeltaProjections, GatedDelta};
use crate::graph::builder::{Attr, GraphBuilder, Value};
use crate::graph::linear::linear;
use crate::graph::pass::Pass;

/// Added to the sum of squares of a query or key before the root.
const LENGTH_EPSILON: f32 = 1e-6;

/// The projections of the input.
struct Projected {
    /// Queries, keys and values, `[batch, sequence, 2 keys + values]`.
    qkv: Value,
    z: Value,
    b: Value,
    a: Value,
}

/// Adds the gated delta net of layer `index`.
///
/// ```text
/// x ─ in_proj_qkv ─ CausalConvWithState ─┬─ q ─ norm ─┐
///                                        ├─ k ─ norm ─┤
///                                        └─ v ────────┼─ LinearAttention ─ GatedRMSNorm ─ out_proj ─
/// x ─ in_proj_a, in_proj_b ─ LinearAttentionGate ─────┘                        │
/// x ─ in_proj_z ───────────────────────────────────────────────────────────────┘
/// ```
pub fn gated_delta(
    graph: &mut GraphBuilder,
    pass: &Pass,
    index: usize,
    own: &GatedDelta,
    x: &Value,
) -> Value {
    let path = own.path();
    let at = |part: &str| format!("/{path}/{part}");
    let Projected { qkv, mut z, b, a } = projected(graph, pass, own, x);
    let state = Passed::new(graph, pass, index, &own.convolution.state());
    let mixed = convolved(graph, &own.convolution, "silu", &state, &qkv);
    let sizes = [own.keys(), own.keys(), own.values()];
    let parts = ["query", "key", "value"].map(at);
    let [query, key, value] = graph.split(&at("Split"), &mixed, -1, sizes, parts);
    let query = unit_heads(graph, &at("query"), own, &query);
    let key = unit_heads(graph, &at("key"), own, &key);
    let [decay, beta] = gates(graph, own, &a, &b);

    let state = Passed::new(graph, pass, index, &own.state());
    let name = at("LinearAttention");
    let inputs = [&query, &key, &value, &state.past, &decay, &beta];
    let attrs = [
        ("update_rule", Attr::Text("gated_delta")),
        ("q_num_heads", Attr::Int(own.key_heads as i64)),
        ("kv_num_heads", Attr::Int(own.value_heads as i64)),
    ];
    let outputs = [name.as_str(), &state.present];
    let mut made = graph
        .contrib_outputs("LinearAttention", &name, &inputs, &outputs, &attrs)
        .remove(0);
    if pass.is_last_layer(index) {
        made = graph.last_position(&at("last"), &made);
        z = graph.last_position(&at("z/last"), &z);
    }
    let weight = graph.parameter(&format!("{}.weight", own.norm.path));
    let attrs = [("epsilon", Attr::Float(own.norm.epsilon as f32))];
    let name = format!("/{}/GatedRMSNorm", own.norm.path);
    let gated = graph.contrib("GatedRMSNorm", &name, &[&made, &weight, &z], &attrs);
    linear(graph, pass, &own.out_proj, &gated)
}

fn projected(graph: &mut GraphBuilder, pass: &Pass, own: &GatedDelta, x: &Value) -> Projected {
    match &own.projections {
        DeltaProjections::Separate { qkv, z, b, a } => Projected {
            qkv: linear(graph, pass, qkv, x),
            z: linear(graph, pass, z, x),
            b: linear(graph, pass, b, x),
            a: linear(graph, pass, a, x),
        },
        DeltaProjections::Grouped { qkvz, ba } => {
            let qkvz = linear(graph, pass, qkvz, x);
            let ba = linear(graph, pass, ba, x);
            ungrouped(graph, own, &qkvz, &ba)
        }
    }
}

/// The parts of projections whose rows are grouped by key head.
fn ungrouped(graph: &mut GraphBuilder, own: &GatedDelta, qkvz: &Value, ba: &Value) -> Projected {
    let path = own.path();
    let at = |part: &str| format!("/{path}/{part}");
    let shared = own.value_heads / own.key_heads;
    let heads = own.key_heads as i64;
    let values = shared * own.value_width;
    let sizes = [own.key_width, own.key_width, values, values];
    let width = sizes.iter().sum::<usize>() as i64;
    let groups = graph.reshape(&at("qkvz/groups"), qkvz, &[0, 0, heads, width]);
    let names = ["query", "key", "value", "z"].map(|part| at(&format!("{part}/groups")));
    let [query, key, value, z] = graph.split(&at("qkvz/Split"), &groups, -1, sizes, names);
    let [keys, values] = [own.keys() as i64, own.values() as i64];
    let mut flat = |part: &str, x: &Value, width: i64| {
        graph.reshape(&at(&format!("{part}/flat")), x, &[0, 0, width])
    };
    let query = flat("query", &query, keys);
    let key = flat("key", &key, keys);
    let value = flat("value", &value, values);
    let z = flat("z", &z, values);
    let axis = [("axis", Attr::Int(-1))];
    let qkv = graph.op("Concat", &at("qkv"), &[&query, &key, &value], &axis);

    let groups = graph.reshape(&at("ba/groups"), ba, &[0, 0, heads, 2 * shared as i64]);
    let names = ["b", "a"].map(|part| at(&format!("{part}/groups")));
    let [b, a] = graph.split(&at("ba/Split"), &groups, -1, [shared; 2], names);
    let count = own.value_heads as i64;
    let b = graph.reshape(&at("b/flat"), &b, &[0, 0, count]);
    let a = graph.reshape(&at("a/flat"), &a, &[0, 0, count]);
    Projected { qkv, z, b, a }
}

/// Every head of `x` divided by its length, as a norm: `x / sqrt(sum(x^2) + eps)` is
/// `x / sqrt(mean(x^2) + eps / width) / sqrt(width)`.
fn unit_heads(graph: &mut GraphBuilder, name: &str, own: &GatedDelta, x: &Value) -> Value {
    let width = own.key_width;
    let shape = [0, 0, own.key_heads as i64, width as i64];
    let heads = graph.reshape(&format!("{name}/heads"), x, &shape);
    let scale = 1.0 / (width as f32).sqrt();
    let weight = graph.filled(&format!("unit_length.{width}"), &[width], scale);
    let attrs = [
        ("axis", Attr::Int(-1)),
        ("epsilon", Attr::Float(LENGTH_EPSILON / width as f32)),
    ];
    let unit = graph.op(
        "SimplifiedLayerNormalization",
        &format!("{name}/unit"),
        &[&heads, &weight],
        &attrs,
    );
    graph.reshape(&format!("{name}/joined"), &unit, &[0, 0, own.keys() as i64])
}

/// The logarithm of each value head's decay, and how much it's corrected, `[batch, sequence,
/// value_heads]` each.
fn gates(graph: &mut GraphBuilder, own: &GatedDelta, a: &Value, b: &Value) -> [Value; 2] {
    let path = own.path();
    let bias = widened(graph, &own.dt_bias);
    let scale = negative_exponential(graph, &own.a_log);
    let [decay, beta] = ["decay", "beta"].map(|part| format!("/{path}/{part}"));
    let name = format!("/{path}/LinearAttentionGate");
    let inputs = [a, &bias, &scale, b];
    let mut made =
        graph.contrib_outputs("LinearAttentionGate", &name, &inputs, &[&decay, &beta], &[]);
    let beta = made.remove(1);
    [made.remove(0), beta]
}
