//! Attention as one `GroupQueryAttention` node, which also updates the cache.
//!

use super::cache::{Cache, cache_head_dim};
use super::{Inputs, rotates_inside};
use crate::arch::{Attention, Pairs, Position, PromptAttention};
use crate::graph::builder::{Attr, GraphBuilder, Value};
use crate::graph::lengths::Lengths;
use crate::graph::positions::{PositionTables, RotaryTables};

/// The place of the scores' bias among the node's inputs.
const BIAS: usize = 10;

/// Index of the input with the sinks.
const SINKS: usize = 11;

/// Adds the node of the layer at `path`; `rows` are the lengths in
/// [`Operands::GroupQuery`](crate::graph::lengths::Operands::GroupQuery). Returns the heads'
/// outputs, `[batch, sequence, heads * width]`, and the keys and values of all tokens.
pub fn group_query(
    graph: &mut GraphBuilder,
    (path, attention): (&str, &Attention),
    tables: &mut PositionTables,
    lengths: &Lengths,
    rows: [&Value; 2],
    inputs: Inputs,
    cache: &Cache,
) -> (Value, [Value; 2]) {
    let absent = GraphBuilder::absent();
    let [query, key, value] = match inputs {
        Inputs::Three(three) => three,
        Inputs::Joined(qkv) => [qkv, absent.clone(), absent.clone()],
        Inputs::Query(query) => {
            let none = no_rows(graph, (path, attention), &query);
            [query, none.clone(), none]
        }
    };
    let mut inputs = vec![
        &query,
        &key,
        &value,
        &cache.past[0],
        &cache.past[1],
        rows[0],
        rows[1],
    ];
    let mut attrs = vec![
        ("num_heads", Attr::Int(attention.num_attention_heads as i64)),
        (
            "kv_num_heads",
            Attr::Int(attention.num_key_value_heads as i64),
        ),
        ("scale", Attr::Float(attention.scale as f32)),
    ];
    let whole_prompt = attention.prompt == PromptAttention::Whole;
    if whole_prompt {
        attrs.push(("causal", Attr::Int(0)));
    } else if let Some(window) = attention.window {
        attrs.push(("local_window_size", Attr::Int(window as i64)));
    }
    if let Some(cap) = attention.softcap {
        attrs.push(("softcap", Attr::Float(cap as f32)));
    }
    let rotary_tables: RotaryTables;
    let bias: Value;
    match &attention.position {
        Position::Rotary(rotary) if rotates_inside(graph, attention, rotary) => {
            rotary_tables = tables.rotary(graph, rotary);
            inputs.extend([&rotary_tables.cos, &rotary_tables.sin]);
            attrs.push(("do_rotary", Attr::Int(1)));
            if rotary.pairs == Pairs::Neighbours {
                attrs.push(("rotary_interleaved", Attr::Int(1)));
            }
        }
        Position::Alibi(alibi) => {
            bias = tables.alibi(graph, alibi, lengths);
            // The cosines, sines and position ids are absent.
            inputs.extend([&absent, &absent, &absent, &bias]);
        }
        Position::Rotary(_) | Position::None => {}
    }
    let hidden: Value;
    if let (true, Some(window)) = (whole_prompt, attention.window) {
        // The operator has windows for causal attention only.
        hidden = tables.masks.after_prompt(graph, window, lengths);
        inputs.resize(BIAS, &absent);
        inputs.push(&hidden);
    }
    let chunks: Value;
    if let Some(size) = attention.chunk {
        chunks = tables.masks.chunks(graph, size, lengths);
        inputs.resize(BIAS, &absent);
        inputs.push(&chunks);
    }
    let sinks: Value;
    if let Some(own) = &attention.sinks {
        sinks = graph.parameter(&own.full_name());
        inputs.resize(SINKS, &absent);
        inputs.push(&sinks);
    }
    let name = format!("/{path}/self_attn/GroupQueryAttention");
    let mut outputs = vec![name.as_str()];
    if let Some([key, value]) = &cache.present {
        outputs.extend([key.as_str(), value]);
    }
    let mut made = graph
        .contrib_outputs("GroupQueryAttention", &name, &inputs, &outputs, &attrs)
        .into_iter();
    let context = made.next().expect("the first output has a name");
    match (made.next(), made.next()) {
        (Some(keys), Some(values)) => (context, [keys, values]),
        _ => (context, cache.past.clone()),
    }
}

/// New keys, or values, of no token, `[batch, 0, kv_heads * width]`: those of another layer are in
/// its cache already.
fn no_rows(
    graph: &mut GraphBuilder,
    (path, attention): (&str, &Attention),
    query: &Value,
) -> Value {
    let width = attention.num_key_value_heads * cache_head_dim(attention);
    let name = format!("/{path}/self_attn/no_rows");
    let starts = graph.constant_i64("zeros.2", &[0, 0], false);
    let ends = graph.constant_i64(&format!("no_rows.{width}"), &[0, width as i64], false);
    let axes = graph.constant_i64("axes.1.2", &[1, 2], false);
    graph.op("Slice", &name, &[query, &starts, &ends, &axes], &[])
}
