//! Self-attention with a cache, as one `GroupQueryAttention` node.
//!
//! With `past` and `present` bound to the same buffer the cache is updated in place.

use super::builder::{Attr, Dim, GraphBuilder, Value};
use super::export::Export;
use super::linear::{add_bias, linear};
use super::positions::{Lengths, RotaryTables};
use crate::arch::Attention;

/// How queries and keys are turned by their positions.
#[derive(Debug)]
pub enum Rotation {
    /// Not at all: positions were added to the embedding.
    None,
    /// Inside the attention node.
    Inside(RotaryTables),
    /// By nodes of their own, for heads that the attention node doesn't turn.
    Before(RotaryTables),
}

/// An attention that an adapter's nodes are built beside.
#[derive(Debug)]
pub struct AttentionSite<'a> {
    /// The attention's path; adapter nodes are named below it.
    pub path: &'a str,
    /// Queries, turned by their positions, of the positions that the output is wanted for: `[batch, sequence,
    /// num_attention_heads * head_dim]`.
    pub query: &'a Value,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads.
    pub num_key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

/// Widths that `GroupQueryAttention` takes are multiples of this; other heads are filled with zeros,
/// which change no score and no sum.
const HEAD_MULTIPLE: usize = 8;

/// The node turns heads whose width is a multiple of this.
pub const ROTARY_MULTIPLE: usize = 16;

/// The width of a head in the cache.
pub fn cache_head_dim(attention: &Attention) -> usize {
    attention.head_dim.next_multiple_of(HEAD_MULTIPLE)
}

/// Adds layer `index`'s attention and its cache inputs and outputs.
///
/// ```text
/// x ─ q_proj ─────────────────────┐
/// x ─ k_proj ─────────────────────┤
/// x ─ v_proj ─────────────────────┼─ GroupQueryAttention ─┬─ o_proj ─
/// past_key_values.{i}.key, .value ┘                       └─ present.{i}.key, .value
/// ```
///
/// What an adapter adds to the heads' outputs comes in before `o_proj`; it takes the queries.
///
/// - `x` and the value returned: `[batch, sequence, hidden_size]`; of the last layer, the last position
/// - cache: `[batch, num_key_value_heads, past, head_dim]`
pub fn attention(
    graph: &mut GraphBuilder,
    export: &Export,
    index: usize,
    attention: &Attention,
    rotation: &Rotation,
    lengths: &Lengths,
    x: &Value,
) -> Value {
    let path = &export.spec.layers[index].path;
    let heads = attention.num_attention_heads;
    let kv_heads = attention.num_key_value_heads;

    let mut query = linear(graph, export, &attention.q_proj, x);
    let mut key = linear(graph, export, &attention.k_proj, x);
    let mut value = linear(graph, export, &attention.v_proj, x);
    if let Rotation::Before(tables) = rotation {
        let mut turn = |x: &Value, path: &str, heads| turn(graph, tables, lengths, path, x, heads);
        query = turn(&query, &attention.q_proj.path, heads);
        key = turn(&key, &attention.k_proj.path, kv_heads);
    }
    let beside = beside(graph, export, index, attention, rotation, lengths, &query);
    let width = cache_head_dim(attention);
    if width != attention.head_dim {
        let mut widen = |x: &Value, path: &str, heads| {
            resize_heads(graph, path, x, heads, attention.head_dim, width)
        };
        query = widen(&query, &attention.q_proj.path, heads);
        key = widen(&key, &attention.k_proj.path, kv_heads);
        value = widen(&value, &attention.v_proj.path, kv_heads);
    }

    let cache = |length: &str| {
        [
            Dim::symbol("batch"),
            kv_heads.into(),
            Dim::symbol(length),
            width.into(),
        ]
    };
    let number = export.first_cache + index;
    let past_key = graph.input(&format!("past_key_values.{number}.key"), &cache("past"));
    let past_value = graph.input(&format!("past_key_values.{number}.value"), &cache("past"));
    let mut inputs = vec![
        &query,
        &key,
        &value,
        &past_key,
        &past_value,
        &lengths.last_index,
        &lengths.total_i32,
    ];
    let mut attrs = vec![
        ("num_heads", Attr::Int(heads as i64)),
        ("kv_num_heads", Attr::Int(kv_heads as i64)),
        ("scale", Attr::Float(attention.scale as f32)),
    ];
    if let Rotation::Inside(tables) = rotation {
        inputs.extend([&tables.cos, &tables.sin]);
        attrs.push(("do_rotary", Attr::Int(1)));
    }
    let name = format!("/{path}/self_attn/GroupQueryAttention");
    let present = ["key", "value"].map(|kind| format!("present.{number}.{kind}"));
    let outputs = [name.as_str(), present[0].as_str(), present[1].as_str()];
    let made = graph.contrib_outputs("GroupQueryAttention", &name, &inputs, &outputs, &attrs);
    graph.output(&made[1], &cache("present"));
    graph.output(&made[2], &cache("present"));

    let mut context = made[0].clone();
    if export.is_last_layer(index) {
        let name = format!("/{path}/self_attn/last");
        context = graph.last_position(&name, &context);
    }
    if width != attention.head_dim {
        let path = &attention.o_proj.path;
        context = resize_heads(graph, path, &context, heads, width, attention.head_dim);
    }
    let Some(beside) = beside else {
        return linear(graph, export, &attention.o_proj, &context);
    };
    let name = format!("/{}/adapter/Add", attention.path());
    let context = graph.add(&name, &context, &beside);
    let output = linear(graph, export, &attention.o_proj, &context);
    // PEFT projects the two terms one by one, so that a bias counts twice.
    let bias = graph.find_parameter(&format!("{}.bias", attention.o_proj.path));
    let path = format!("{}/adapter", attention.o_proj.path);
    add_bias(graph, &path, &output, bias.as_ref())
}

/// Turns the heads of `x`, `[batch, sequence, heads * head_dim]`, by their positions.
fn turn(
    graph: &mut GraphBuilder,
    tables: &RotaryTables,
    lengths: &Lengths,
    path: &str,
    x: &Value,
    heads: usize,
) -> Value {
    graph.contrib(
        "RotaryEmbedding",
        &format!("/{path}/RotaryEmbedding"),
        // One position counts for the first token; the others follow it.
        &[x, &lengths.past, &tables.cos, &tables.sin],
        &[("num_heads", Attr::Int(heads as i64))],
    )
}

/// What an adapter adds to the outputs of the heads, if it does; `query` is turned already unless the attention node
/// does that.
fn beside(
    graph: &mut GraphBuilder,
    export: &Export,
    index: usize,
    attention: &Attention,
    rotation: &Rotation,
    lengths: &Lengths,
    query: &Value,
) -> Option<Value> {
    let path = attention.path();
    let (form, naming) = export.module_form(path)?;
    let heads = attention.num_attention_heads;
    let mut query = match rotation {
        Rotation::Inside(tables) => {
            let path = format!("{path}/adapter");
            turn(graph, tables, lengths, &path, query, heads)
        }
        Rotation::None | Rotation::Before(_) => query.clone(),
    };
    if export.is_last_layer(index) {
        query = graph.last_position(&format!("/{path}/adapter/last"), &query);
    }
    let site = AttentionSite {
        path,
        query: &query,
        num_attention_heads: heads,
        num_key_value_heads: attention.num_key_value_heads,
        head_dim: attention.head_dim,
    };
    Some(form.attention(graph, &naming, &site))
}

/// Widens every head of `[batch, sequence, heads * from]` with zeros, or cuts it, to
/// `[batch, sequence, heads * to]`.
fn resize_heads(
    graph: &mut GraphBuilder,
    path: &str,
    x: &Value,
    heads: usize,
    from: usize,
    to: usize,
) -> Value {
    let shape = [0, 0, heads as i64, from as i64];
    let split = graph.reshape(&format!("/{path}/split_heads"), x, &shape);
    let name = format!("/{path}/resize_heads");
    let resized = if to > from {
        let added = (to - from) as i64;
        let pads = graph.constant_i64(
            &format!("{name}/pads"),
            &[0, 0, 0, 0, 0, 0, 0, added],
            false,
        );
        graph.op("Pad", &name, &[&split, &pads], &[])
    } else {
        let start = graph.constant_i64("zero", &[0], false);
        let end = graph.constant_i64(&format!("{name}/end"), &[to as i64], false);
        let axis = graph.constant_i64("last_axis", &[3], false);
        graph.op("Slice", &name, &[&split, &start, &end, &axis], &[])
    };
    graph.reshape(
        &format!("/{path}/join_heads"),
        &resized,
        &[0, 0, (heads * to) as i64],
    )
}
