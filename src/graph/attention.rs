//! Self-attention with a cache.
//!
//! If `past` and `present` are bound to the same buffer, the cache is updated in place.

mod absorbed;
mod cache;
mod compressed;
mod group_query;
mod latent;
mod operator;
mod standard;

pub use absorbed::AbsorbedChange;
pub use cache::cache_size;
pub use operator::AttentionOperator;

use super::builder::{Attr, GraphBuilder, Value};
use super::lengths::{Lengths, Operands};
use super::linear::{add_bias, linear, times};
use super::norm::norm_of_heads;
use super::pass::Pass;
use super::positions::PositionTables;
use crate::arch::{
    Attention, FusedRows, NormOrder, Pairs, Position, Projections, QueryScale, RotarySpec,
};
use cache::{Cache, cache_head_dim};
use compressed::compressed_attention;
use group_query::group_query;
use latent::latent_inputs;
use standard::standard;

/// Where an adapter's addition to an attention is inserted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionPlace {
    /// It's added to the heads' outputs, before the output projection. The projection's bias then
    /// counts twice, as in PEFT.
    Heads,
    /// It's added to the output of the output projection.
    Output,
}

/// An attention, as an adapter sees it.
#[derive(Debug)]
pub struct AttentionSite<'a> {
    /// The attention's path; adapter nodes are named below it.
    pub path: &'a str,
    /// Queries after the rotary embedding, `[batch, sequence, num_attention_heads * head_dim]`; of
    /// the last layer, the last position only.
    pub query: &'a Value,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key and value heads.
    pub num_key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

/// `GroupQueryAttention` applies the rotary embedding itself only if the head width and the rotated
/// width are multiples of this.
const ROTARY_MULTIPLE: usize = 16;

/// Queries, keys and values.
enum Inputs {
    /// Each on its own, `[batch, sequence, heads * head_dim]`.
    Three([Value; 3]),
    /// Concatenated along the last axis.
    Joined(Value),
    /// Queries alone; keys and values are those of another layer.
    Query(Value),
}

/// Adds the attention of layer `index` and its cache inputs and outputs.
///
/// ```text
/// x ─ q_proj (─ norm) (─ RotaryEmbedding) ─┐   a norm may come after the rotary embedding
/// x ─ k_proj (─ norm) (─ RotaryEmbedding) ─┤
/// x ─ v_proj ──────────────────────────────┼─ operator ─┬─ o_proj ─
/// past_key_values.{i}.key, .value ─────────┘            └─ present.{i}.key, .value
/// ```
///
/// An adapter may add a value computed from the queries, before or after `o_proj`.
///
/// - `x` and the returned value: `[batch, sequence, hidden_size]`; the last layer returns the last
///   position only
/// - cache: `[batch, num_key_value_heads, past, head_dim]`
pub(super) fn attention(
    graph: &mut GraphBuilder,
    pass: &Pass,
    (index, attention): (usize, &Attention),
    tables: &mut PositionTables,
    lengths: &Lengths,
    x: &Value,
) -> Value {
    let path = &pass.spec.layers[index].path;
    let heads = attention.num_attention_heads;
    let width = cache_head_dim(attention);

    let is_adapted = pass
        .adaptation
        .is_some_and(|own| own.adapts_attention(attention.path()));
    let x = &match attention.input_scale {
        Some(factor) => times(graph, &format!("/{path}/self_attn/input"), x, factor),
        None => x.clone(),
    };
    if let Some(latent) = attention.projections.absorbed() {
        let layer = (index, attention, latent);
        return compressed_attention(graph, pass, layer, tables, lengths, x);
    }
    let mut gate = None;
    let inputs = match attention.projections.latent() {
        Some(latent) => {
            let of = (path.as_str(), attention, latent);
            latent_inputs(graph, pass, of, tables, lengths, x)
        }
        None => {
            let mut inputs = projected(graph, pass, attention, path, x);
            if let (true, Inputs::Three([query, ..])) = (attention.gated, &mut inputs) {
                let [own, beside] = split_gate(graph, attention, path, query);
                *query = own;
                gate = Some(beside);
            }
            prepared(graph, attention, path, tables, lengths, inputs, is_adapted)
        }
    };
    let added = match &inputs {
        Inputs::Three([query, ..]) if is_adapted => {
            added(graph, pass, (index, attention), tables, lengths, query)
        }
        _ => None,
    };
    let inputs = widened(graph, attention, path, inputs);

    let number = pass.first_cache + index;
    let cache = match attention.keys_of_layer() {
        None => Cache::new(graph, attention, number),
        Some(layer) => Cache {
            past: tables.kept(pass.first_cache + layer),
            present: None,
        },
    };
    let (mut context, kept) = match &lengths.operands {
        Operands::GroupQuery {
            last_index,
            total_i32,
        } => {
            let rows = [last_index, total_i32];
            let layer = (path.as_str(), attention);
            group_query(graph, layer, tables, lengths, rows, inputs, &cache)
        }
        Operands::Standard { start } => {
            let layer = (path.as_str(), attention);
            standard(graph, layer, tables, lengths, start, inputs, &cache)
        }
    };
    tables.keep(number, kept);
    if pass.is_last_layer(index) {
        let name = format!("/{path}/self_attn/last");
        context = graph.last_position(&name, &context);
    }
    if width != attention.value_dim() {
        let path = &attention.o_proj.path;
        context = resize_heads(graph, path, &context, heads, width, attention.value_dim());
    }
    if let Some(mut gate) = gate {
        let at = |part: &str| format!("/{path}/self_attn/gate/{part}");
        if pass.is_last_layer(index) {
            gate = graph.last_position(&at("last"), &gate);
        }
        let open = graph.op("Sigmoid", &at("Sigmoid"), &[&gate], &[]);
        context = graph.mul(&at("Mul"), &context, &open);
    }
    let Some((added, place)) = added else {
        return linear(graph, pass, &attention.o_proj, &context);
    };
    let name = format!("/{}/adapter/Add", attention.path());
    if place == AttentionPlace::Output {
        let output = linear(graph, pass, &attention.o_proj, &context);
        return graph.add(&name, &output, &added);
    }
    let context = graph.add(&name, &context, &added);
    let output = linear(graph, pass, &attention.o_proj, &context);
    // PEFT projects the two terms separately, so the bias counts twice.
    let bias = graph.find_parameter(&format!("{}.bias", attention.o_proj.path));
    let path = format!("{}/adapter", attention.o_proj.path);
    add_bias(graph, &path, &output, bias.as_ref())
}

/// Applies the rotary embedding to the heads of `x`, `[batch, sequence, heads * head_dim]`.
fn rotate(
    graph: &mut GraphBuilder,
    tables: &mut PositionTables,
    rotary: &RotarySpec,
    lengths: &Lengths,
    name: &str,
    x: &Value,
    (heads, head_dim): (usize, usize),
) -> Value {
    let rotary_tables = tables.rotary(graph, rotary);
    let first_row = tables.first_row(graph, rotary, lengths);
    let mut attrs = vec![("num_heads", Attr::Int(heads as i64))];
    if rotary.dim() != head_dim {
        attrs.push(("rotary_embedding_dim", Attr::Int(rotary.dim() as i64)));
    }
    if rotary.pairs == Pairs::Neighbours {
        attrs.push(("interleaved", Attr::Int(1)));
    }
    graph.contrib(
        "RotaryEmbedding",
        &format!("/{name}/RotaryEmbedding"),
        // A single position is that of the first token; the others follow.
        &[x, &first_row, &rotary_tables.cos, &rotary_tables.sin],
        &attrs,
    )
}

/// An adapter's addition to an attention, and its place. `query` includes the rotary embedding,
/// unless the attention node applies it.
fn added(
    graph: &mut GraphBuilder,
    pass: &Pass,
    (index, attention): (usize, &Attention),
    tables: &mut PositionTables,
    lengths: &Lengths,
    query: &Value,
) -> Option<(Value, AttentionPlace)> {
    let path = attention.path();
    let adaptation = pass.adaptation?;
    let heads = attention.num_attention_heads;
    let mut query = match &attention.position {
        Position::Rotary(rotary) if rotates_inside(graph, attention, rotary) => {
            let name = format!("{path}/adapter");
            let size = (heads, attention.head_dim);
            rotate(graph, tables, rotary, lengths, &name, query, size)
        }
        _ => query.clone(),
    };
    if pass.is_last_layer(index) {
        query = graph.last_position(&format!("/{path}/adapter/last"), &query);
    }
    let site = AttentionSite {
        path,
        query: &query,
        num_attention_heads: heads,
        num_key_value_heads: attention.num_key_value_heads,
        head_dim: attention.head_dim,
    };
    adaptation.attention(graph, &site)
}

/// Whether the attention node applies the rotary embedding itself.
fn rotates_inside(graph: &GraphBuilder, attention: &Attention, rotary: &RotarySpec) -> bool {
    let sizes = [attention.head_dim, rotary.dim()];
    let norms_follow =
        attention.query_key_norms.is_some() && attention.norm_order == NormOrder::AfterRotation;
    graph.attention_operator() == AttentionOperator::GroupQuery
        && rotary.long.is_none()
        && !norms_follow
        && attention.projections.latent().is_none()
        && attention.keys_of_layer().is_none()
        && sizes
            .iter()
            .all(|size| size.is_multiple_of(ROTARY_MULTIPLE))
}

/// The outputs of the query, key and value projections.
fn projected(
    graph: &mut GraphBuilder,
    pass: &Pass,
    attention: &Attention,
    path: &str,
    x: &Value,
) -> Inputs {
    match &attention.projections {
        Projections::Separate { query, key, value } => {
            Inputs::Three([query, key, value].map(|layer| linear(graph, pass, layer, x)))
        }
        Projections::KeyIsValue { query, key } => {
            let [query, key] = [query, key].map(|layer| linear(graph, pass, layer, x));
            let value = key.clone();
            Inputs::Three([query, key, value])
        }
        Projections::OfLayer { query, .. } => Inputs::Query(linear(graph, pass, query, x)),
        Projections::Fused { qkv, rows } => {
            let joined = linear(graph, pass, qkv, x);
            match rows {
                FusedRows::Kinds => Inputs::Joined(joined),
                FusedRows::Groups => Inputs::Three(split_groups(graph, attention, path, &joined)),
                FusedRows::Blocks(blocks) => {
                    Inputs::Three(split_blocks(graph, attention, path, &joined, *blocks))
                }
            }
        }
        Projections::Latent(_) => unreachable!("its inputs are made by `latent_inputs`"),
    }
}

/// Applies norms, clipping, rotary embedding and a scale of queries to the projections' outputs, if
/// the model has them.
/// Joined inputs are split only if one of these needs it, or if `apart`.
fn prepared(
    graph: &mut GraphBuilder,
    attention: &Attention,
    path: &str,
    tables: &mut PositionTables,
    lengths: &Lengths,
    inputs: Inputs,
    apart: bool,
) -> Inputs {
    let before = match &attention.position {
        Position::Rotary(rotary) if !rotates_inside(graph, attention, rotary) => Some(rotary),
        _ => None,
    };
    let apart = apart
        || attention.query_key_norms.is_some()
        || attention.query_scale.is_some()
        || before.is_some();
    let inputs = match inputs {
        Inputs::Joined(qkv) if apart => Inputs::Three(split_kinds(graph, attention, path, &qkv)),
        other => other,
    };
    let heads = [attention.num_attention_heads, attention.num_key_value_heads];
    let width = attention.head_dim;
    let inputs = match attention.norm_order {
        NormOrder::BeforeRotation => normed(graph, attention, inputs),
        NormOrder::AfterRotation => inputs,
    };
    let inputs = match attention.clip {
        None => inputs,
        Some(clip) => inputs.map(attention, path, |value, name, _| {
            let name = format!("/{name}/Clip");
            graph.clip(&name, value, -clip as f32, clip as f32)
        }),
    };
    let inputs = match before {
        None => inputs,
        Some(rotary) => {
            let mut rotate = |name: &str, x: &Value, heads| {
                let name = format!("{path}/self_attn/{name}");
                rotate(graph, tables, rotary, lengths, &name, x, (heads, width))
            };
            match inputs {
                Inputs::Three([query, key, value]) => {
                    let query = rotate("query", &query, heads[0]);
                    let key = rotate("key", &key, heads[1]);
                    Inputs::Three([query, key, value])
                }
                Inputs::Query(query) => Inputs::Query(rotate("query", &query, heads[0])),
                Inputs::Joined(qkv) => Inputs::Joined(qkv),
            }
        }
    };
    let inputs = match (attention.query_scale, inputs) {
        (Some(scale), Inputs::Three([query, key, value])) => {
            let query = scaled_query(graph, path, tables, lengths, scale, &query);
            Inputs::Three([query, key, value])
        }
        (_, inputs) => inputs,
    };
    match attention.norm_order {
        NormOrder::BeforeRotation => inputs,
        NormOrder::AfterRotation => normed(graph, attention, inputs),
    }
}

/// Applies the norms of queries, keys and values.
fn normed(graph: &mut GraphBuilder, attention: &Attention, inputs: Inputs) -> Inputs {
    let heads = [attention.num_attention_heads, attention.num_key_value_heads];
    let width = attention.head_dim;
    let inputs = match (inputs, &attention.query_key_norms) {
        (Inputs::Three([query, key, value]), Some([query_norm, key_norm])) => Inputs::Three([
            norm_of_heads(graph, query_norm, heads[0], width, &query),
            norm_of_heads(graph, key_norm, heads[1], width, &key),
            value,
        ]),
        (Inputs::Query(query), Some([query_norm, _])) => {
            Inputs::Query(norm_of_heads(graph, query_norm, heads[0], width, &query))
        }
        (inputs, _) => inputs,
    };
    match (inputs, &attention.value_norm) {
        (Inputs::Three([query, key, value]), Some(value_norm)) => {
            let value = norm_of_heads(graph, value_norm, heads[1], width, &value);
            Inputs::Three([query, key, value])
        }
        (inputs, _) => inputs,
    }
}

/// Queries times the factor of their positions. The rotary embedding is linear, so it may come
/// before or after this.
fn scaled_query(
    graph: &mut GraphBuilder,
    path: &str,
    tables: &mut PositionTables,
    lengths: &Lengths,
    scale: QueryScale,
    query: &Value,
) -> Value {
    let factors = tables.query_scale(graph, scale, lengths);
    graph.mul(&format!("/{path}/self_attn/query/scale"), query, &factors)
}

/// Pads heads to the width that the attention node needs.
fn widened(graph: &mut GraphBuilder, attention: &Attention, path: &str, inputs: Inputs) -> Inputs {
    let width = cache_head_dim(attention);
    if width == attention.head_dim || attention.projections.latent().is_some() {
        return inputs;
    }
    inputs.map(attention, path, |value, name, heads| {
        resize_heads(graph, name, value, heads, attention.head_dim, width)
    })
}

impl Inputs {
    /// Applies `change` to each value; it's also passed the value's name and number of heads.
    fn map(
        self,
        attention: &Attention,
        path: &str,
        mut change: impl FnMut(&Value, &str, usize) -> Value,
    ) -> Self {
        let heads = attention.num_attention_heads;
        let kv_heads = attention.num_key_value_heads;
        let name = |part: &str| format!("{path}/self_attn/{part}");
        match self {
            Self::Joined(qkv) => Self::Joined(change(&qkv, &name("qkv"), heads + 2 * kv_heads)),
            Self::Query(query) => Self::Query(change(&query, &name("query"), heads)),
            Self::Three([query, key, value]) => Self::Three([
                change(&query, &name("query"), heads),
                change(&key, &name("key"), kv_heads),
                change(&value, &name("value"), kv_heads),
            ]),
        }
    }
}

/// Splits `[batch, sequence, heads * 2 head_dim]` into queries and their gates.
fn split_gate(
    graph: &mut GraphBuilder,
    attention: &Attention,
    path: &str,
    both: &Value,
) -> [Value; 2] {
    let (heads, width) = (attention.num_attention_heads, attention.head_dim);
    let at = |part: &str| format!("/{path}/self_attn/{part}");
    let shape = [0, 0, heads as i64, 2 * width as i64];
    let by_head = graph.reshape(&at("query_and_gate"), both, &shape);
    let names = ["query/heads", "gate/heads"].map(at);
    let parts = graph.split(&at("query_and_gate/Split"), &by_head, -1, [width; 2], names);
    let joined = [0, 0, (heads * width) as i64];
    let [query, gate] = parts;
    [
        graph.reshape(&at("query/own"), &query, &joined),
        graph.reshape(&at("gate"), &gate, &joined),
    ]
}

/// Splits `[batch, sequence, (heads + 2 kv_heads) * head_dim]` into queries, keys and values.
fn split_kinds(
    graph: &mut GraphBuilder,
    attention: &Attention,
    path: &str,
    qkv: &Value,
) -> [Value; 3] {
    let width = attention.head_dim;
    let (query, key) = (
        attention.num_attention_heads * width,
        attention.num_key_value_heads * width,
    );
    let names = ["query", "key", "value"].map(|name| format!("/{path}/self_attn/{name}"));
    graph.split(
        &format!("/{path}/self_attn/Split"),
        qkv,
        -1,
        [query, key, key],
        names,
    )
}

/// Splits queries, keys and values if the rows are grouped by key head: its queries, its key, its
/// value.
fn split_groups(
    graph: &mut GraphBuilder,
    attention: &Attention,
    path: &str,
    qkv: &Value,
) -> [Value; 3] {
    let kv_heads = attention.num_key_value_heads;
    let queries = attention.num_attention_heads / kv_heads;
    let name = format!("/{path}/self_attn");
    let shape = [
        0,
        0,
        kv_heads as i64,
        ((queries + 2) * attention.head_dim) as i64,
    ];
    let groups = graph.reshape(&format!("{name}/groups"), qkv, &shape);
    let sizes = [queries, 1, 1].map(|heads| heads * attention.head_dim);
    let parts = ["query", "key", "value"].map(|part| format!("{name}/{part}/groups"));
    let split = graph.split(&format!("{name}/Split"), &groups, -1, sizes, parts);
    let mut heads = [attention.num_attention_heads, kv_heads, kv_heads].into_iter();
    let mut names = ["query", "key", "value"].into_iter();
    split.map(|part| {
        let width = heads.next().unwrap_or(0) * attention.head_dim;
        let part_name = format!("{name}/{}", names.next().unwrap_or(""));
        graph.reshape(&part_name, &part, &[0, 0, width as i64])
    })
}

/// Splits queries, keys and values if the rows are in `blocks` of equal size: queries, values and
/// keys of each.
fn split_blocks(
    graph: &mut GraphBuilder,
    attention: &Attention,
    path: &str,
    qkv: &Value,
    blocks: usize,
) -> [Value; 3] {
    let width = attention.num_attention_heads * attention.head_dim;
    let block = width / blocks;
    let name = format!("/{path}/self_attn");
    let shape = [0, 0, blocks as i64, 3 * block as i64];
    let joined = graph.reshape(&format!("{name}/blocks"), qkv, &shape);
    let parts = ["query", "value", "key"].map(|part| format!("{name}/{part}/blocks"));
    let split = graph.split(&format!("{name}/Split"), &joined, -1, [block; 3], parts);
    let mut whole = |part: &str, of: &Value| {
        graph.reshape(&format!("{name}/{part}"), of, &[0, 0, width as i64])
    };
    let [query, value, key] = &split;
    [
        whole("query", query),
        whole("key", key),
        whole("value", value),
    ]
}

/// Pads every head of `[batch, sequence, heads * from]` with zeros, or truncates it, to
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
        graph.pad(&name, &split, &[0, 0, 0, 0, 0, 0, 0, added])
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
