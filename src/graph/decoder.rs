//! The whole decoder, from token ids to the next token.
//!
//! | input | shape |
//! | --- | --- |
//! | `input_ids` | i64 `[batch, sequence]` |
//! | `attention_mask` | i64 `[batch, total]`, total = cached + virtual + new tokens |
//! | `past_key_values.{i}.key`, `.value` | `[batch, num_key_value_heads, past, head_dim]` |
//! | `prompt_embeddings` (prompt learning) | `[num_virtual_tokens, embedding_dim]`; no rows when decoding |
//! | one for every adapter tensor | the checkpoint's own name and shape |
//!
//! | output | shape |
//! | --- | --- |
//! | `logits` | `[batch, 1, vocab_size]`, of the last position |
//! | `next_token` | i64 `[batch, 1]`, their argmax |
//! | `present.{i}.key`, `.value` | like `past` |

use super::attention::{Rotation, attention};
use super::builder::{Attr, Dim, GraphBuilder, Value};
use super::export::{Export, PROMPT_INPUT};
use super::linear::{embedding, linear};
use super::mlp::mlp;
use super::norm::{add_norm, norm};
use super::positions::{Lengths, learned_rows, lengths, rotary_tables};
use super::proto;
use super::{Parameters, attention as attention_block};
use crate::adapter::Adapter;
use crate::arch::{DecoderSpec, NormPlacement, Positions};
use crate::quantize::Accuracy;
use crate::weights::Dtype;

pub use attention_block::cache_head_dim;

/// Builds the graph for a `model.onnx` in `folder`: `parameters` says where each weight is, weights are
/// rounded to `storage`, arithmetic is in `compute`, and with quantized weights in `accuracy`.
pub fn build(
    export: &Export,
    parameters: &Parameters,
    storage: Dtype,
    compute: Dtype,
    accuracy: Accuracy,
    folder: &std::path::Path,
) -> proto::Model {
    let spec = export.spec;
    let builder = GraphBuilder::new(parameters, storage, compute, folder);
    let mut builder = builder.with_accuracy(accuracy);
    let graph = &mut builder;

    let sequence = [Dim::symbol("batch"), Dim::symbol("sequence")];
    let input_ids = graph.input_i64("input_ids", &sequence);
    let total = [Dim::symbol("batch"), Dim::symbol("total")];
    let attention_mask = graph.input_i64("attention_mask", &total);

    let mut hidden = embedding(graph, export, &spec.embed_tokens, &input_ids);
    if export.adapter.is_some_and(Adapter::has_virtual_tokens) {
        hidden = prepend_prompt(graph, spec, &hidden);
    }
    if let Some(project_in) = &spec.project_in {
        hidden = linear(graph, export, project_in, &hidden);
    }
    let lengths = lengths(graph, &attention_mask, &hidden);
    let rotation = match &spec.positions {
        Positions::Learned { table, offset } => {
            let rows = learned_rows(graph, &table.path, *offset, &lengths);
            hidden = graph.add("/embeddings/Add", &hidden, &rows);
            Rotation::None
        }
        Positions::Rotary(rotary) => {
            let tables = rotary_tables(graph, rotary, spec.max_position_embeddings);
            if 2 * rotary.inv_freq.len() % attention_block::ROTARY_MULTIPLE == 0 {
                Rotation::Inside(tables)
            } else {
                Rotation::Before(tables)
            }
        }
    };

    let mut hidden = match spec.norm_placement {
        NormPlacement::BeforeSublayer => norms_before(graph, export, &rotation, &lengths, hidden),
        NormPlacement::AfterResidual => norms_after(graph, export, &rotation, &lengths, hidden),
    };
    if let Some(project_out) = &spec.project_out {
        hidden = linear(graph, export, project_out, &hidden);
    }
    head(graph, export, &hidden);
    builder.finish()
}

/// Puts the virtual tokens in front of every row. When decoding, the input has no rows.
fn prepend_prompt(graph: &mut GraphBuilder, spec: &DecoderSpec, hidden: &Value) -> Value {
    let width = spec.embed_tokens.embedding_dim;
    let prompt = graph.input(
        PROMPT_INPUT,
        &[Dim::symbol("num_virtual_tokens"), width.into()],
    );
    let name = "/prompt_embeddings";
    let attrs = [("start", Attr::Int(0)), ("end", Attr::Int(1))];
    let batch = graph.op("Shape", &format!("{name}/batch"), &[hidden], &attrs);
    let rest = graph.op("Shape", &format!("{name}/rows"), &[&prompt], &[]);
    let shape = graph.op(
        "Concat",
        &format!("{name}/shape"),
        &[&batch, &rest],
        &[("axis", Attr::Int(0))],
    );
    let rows = graph.op("Expand", &format!("{name}/Expand"), &[&prompt, &shape], &[]);
    graph.op(
        "Concat",
        &format!("{name}/Concat"),
        &[&rows, hidden],
        &[("axis", Attr::Int(1))],
    )
}

/// `x + attention(norm(x))`, `x + mlp(norm(x))`, then the final norm. Behind the last layer's attention
/// only the last position matters, so only that goes on.
fn norms_before(
    graph: &mut GraphBuilder,
    export: &Export,
    rotation: &Rotation,
    lengths: &Lengths,
    embedded: Value,
) -> Value {
    let spec = export.spec;
    let mut residual = embedded;
    let mut update: Option<Value> = None;
    for (index, layer) in spec.layers.iter().enumerate() {
        let normed = match &update {
            None => norm(graph, &layer.attention_norm, &residual),
            Some(update) => {
                let (sum, normed) = add_norm(graph, &layer.attention_norm, &residual, update);
                residual = sum;
                normed
            }
        };
        let attended = attention(
            graph,
            export,
            index,
            &layer.attention,
            rotation,
            lengths,
            &normed,
        );
        if export.is_last_layer(index) {
            residual = graph.last_position("/residual/last", &residual);
        }
        let (sum, normed) = add_norm(graph, &layer.mlp_norm, &residual, &attended);
        residual = sum;
        update = Some(mlp(graph, export, &layer.path, &layer.mlp, &normed));
    }
    let update = update.expect("a decoder has at least one layer");
    match &spec.final_norm {
        Some(final_norm) => add_norm(graph, final_norm, &residual, &update).1,
        None => graph.add("/last/Add", &residual, &update),
    }
}

/// `norm(x + attention(x))`, `norm(x + mlp(x))`; behind the last layer's attention for the last position
/// only.
fn norms_after(
    graph: &mut GraphBuilder,
    export: &Export,
    rotation: &Rotation,
    lengths: &Lengths,
    embedded: Value,
) -> Value {
    let mut x = embedded;
    for (index, layer) in export.spec.layers.iter().enumerate() {
        let attended = attention(
            graph,
            export,
            index,
            &layer.attention,
            rotation,
            lengths,
            &x,
        );
        if export.is_last_layer(index) {
            x = graph.last_position("/hidden/last", &x);
        }
        x = add_norm(graph, &layer.attention_norm, &x, &attended).1;
        let update = mlp(graph, export, &layer.path, &layer.mlp, &x);
        x = add_norm(graph, &layer.mlp_norm, &x, &update).1;
    }
    match &export.spec.final_norm {
        Some(final_norm) => norm(graph, final_norm, &x),
        None => x,
    }
}

/// Adds `logits` and `next_token` of `hidden`, `[batch, 1, embedding_dim]`.
fn head(graph: &mut GraphBuilder, export: &Export, hidden: &Value) {
    let logits = linear(graph, export, &export.spec.lm_head, hidden);
    let logits = graph.op("Identity", "logits", &[&logits], &[]);
    let vocab = export.spec.vocab_size;
    graph.output(&logits, &[Dim::symbol("batch"), 1.into(), vocab.into()]);
    let attrs = [("axis", Attr::Int(-1)), ("keepdims", Attr::Int(0))];
    let next_token = graph.op("ArgMax", "next_token", &[&logits], &attrs);
    graph.output_i64(&next_token, &[Dim::symbol("batch"), 1.into()]);
}
