//! Attention with ONNX's standard operators (opset 24): `TensorScatter` writes to the cache,
//! `Attention` reads all of it.
//!
//! If `past` and `present` are bound to the same buffer, only the new rows are copied. `Attention`
//! knows neither the filled length of the cache nor attention windows, so a mask hides the other
//! positions. Hidden positions get weight 0 but are still multiplied, so unwritten rows must not
//! hold NaN or infinity.

use super::cache::{Cache, cache_head_dim};
use super::{Inputs, split_kinds};
use crate::arch::Attention;
use crate::graph::builder::{Attr, GraphBuilder, Value};
use crate::graph::lengths::Lengths;
use crate::graph::positions::PositionTables;

/// Adds the nodes of the layer at `path`. New rows are written from row `start` on; queries and keys include the rotary
/// embedding. Returns the heads' outputs, `[batch, sequence, heads * width]`, and the cache with the new rows.
///
/// ```text
/// query ─ Reshape ─ Transpose ────────────────────────┐
/// key ─── Reshape ─ Transpose ─ TensorScatter ────────┤ (present.{i}.key)
/// value ─ Reshape ─ Transpose ─ TensorScatter ────────┼─ Attention ─ Transpose ─ Reshape ─
/// mask ───────────────────────────────────────────────┘ (present.{i}.value)
/// ```
pub fn standard(
    graph: &mut GraphBuilder,
    (path, attention): (&str, &Attention),
    tables: &mut PositionTables,
    lengths: &Lengths,
    start: &Value,
    inputs: Inputs,
    cache: &Cache,
) -> (Value, [Value; 2]) {
    let (query, new) = match inputs {
        Inputs::Three([query, key, value]) => (query, Some([key, value])),
        Inputs::Joined(qkv) => {
            let [query, key, value] = split_kinds(graph, attention, path, &qkv);
            (query, Some([key, value]))
        }
        Inputs::Query(query) => (query, None),
    };
    let (heads, kv_heads) = (
        attention.num_attention_heads as i64,
        attention.num_key_value_heads as i64,
    );
    let width = cache_head_dim(attention) as i64;
    let at = |part: &str| format!("/{path}/self_attn/{part}");
    let to_front = |graph: &mut GraphBuilder, part: &str, x: &Value, heads: i64| {
        let split = graph.reshape(&at(&format!("{part}/split")), x, &[0, 0, heads, width]);
        graph.transpose(&at(&format!("{part}/to_front")), &split, &[0, 2, 1, 3])
    };
    let query = to_front(graph, "query", &query, heads);
    let mut written = |part: &str, x: &Value, past: &Value, present: &str| {
        let rows = to_front(graph, part, x, kv_heads);
        let inputs = [past, &rows, start];
        let attrs = [("axis", Attr::Int(2))];
        let name = at(&format!("{part}/TensorScatter"));
        let outputs = [present.to_owned()];
        let [present] = graph.op_outputs("TensorScatter", &name, &inputs, outputs, &attrs);
        present
    };
    let [keys, values] = match (&new, &cache.present) {
        (Some([key, value]), Some(present)) => [
            written("key", key, &cache.past[0], &present[0]),
            written("value", value, &cache.past[1], &present[1]),
        ],
        _ => cache.past.clone(),
    };
    let masks = &mut tables.masks;
    let mask = masks.of(graph, attention, lengths, &cache.past[0]);
    let mut attrs = vec![("scale", Attr::Float(attention.scale as f32))];
    if let Some(cap) = attention.softcap {
        attrs.push(("softcap", Attr::Float(cap as f32)));
    }
    let [keys, values, mask] = match &attention.sinks {
        None => [keys, values, mask],
        Some(sinks) => {
            let sinks = graph.parameter(&sinks.full_name());
            with_sink(graph, attention, path, &sinks, [&keys, &values, &mask])
        }
    };
    let inputs = [&query, &keys, &values, &mask];
    let attended = graph.op("Attention", &at("Attention"), &inputs, &attrs);
    let attended = graph.transpose(&at("to_back"), &attended, &[0, 2, 1, 3]);
    let joined = graph.reshape(&at("join"), &attended, &[0, 0, heads * width]);
    (joined, [keys, values])
}

/// Keys, values and mask with one more key behind the cache: the sink. Its key is 0, so its score is
/// what the mask adds, and its value is 0. The cache is copied for that in every run.
fn with_sink(
    graph: &mut GraphBuilder,
    attention: &Attention,
    path: &str,
    sinks: &Value,
    [keys, values, mask]: [&Value; 3],
) -> [Value; 3] {
    let at = |part: &str| format!("/{path}/self_attn/sink/{part}");
    let heads = attention.num_attention_heads as i64;
    let mut longer = |name: &str, x: &Value| graph.pad(&at(name), x, &[0, 0, 0, 0, 0, 0, 1, 0]);
    let (keys, values) = (longer("keys", keys), longer("values", values));
    let column = graph.reshape(&at("column"), sinks, &[1, heads, 1, 1]);
    let axis = [("axis", Attr::Int(0))];
    let sizes = graph.op("Shape", &at("mask/size"), &[mask], &[]);
    let ends =
        [0, 1].map(|place| graph.constant_i64(&at(&format!("mask/{place}")), &[place], false));
    let [rows, columns] = [0, 1].map(|place: usize| {
        graph.gather(&at(&format!("mask/size/{place}")), &sizes, &ends[place], 0)
    });
    let one = graph.constant_i64("one", &[1], false);
    let count = graph.constant_i64(&at("heads"), &[heads], false);
    let shape = [&one, &count, &rows, &columns];
    let shape = graph.op("Concat", &at("mask/shape"), &shape, &axis);
    let mask = graph.op("Expand", &at("mask/Expand"), &[mask, &shape], &[]);
    let shape = [&one, &count, &rows, &one];
    let shape = graph.op("Concat", &at("column/size"), &shape, &axis);
    let column = graph.op("Expand", &at("column/Expand"), &[&column, &shape], &[]);
    let last = [("axis", Attr::Int(3))];
    let mask = graph.op("Concat", &at("mask"), &[&mask, &column], &last);
    [keys, values, mask]
}
