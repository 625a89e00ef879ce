//! The whole decoder, from token ids to the next token.
//!
//! | input | shape |
//! | --- | --- |
//! | `input_ids` | i64 `[batch, sequence]` |
//! | `attention_mask` | i64 `[batch, total]`, total = cached + virtual + new tokens |
//! | `past_key_values.{i}.key`, `.value` | `[batch, num_key_value_heads, past, head_dim]` |
//! | `prompt_embeddings` (prompt learning) | `[num_virtual_tokens, embedding_dim]`; no rows when decoding |
//! | `active_from` (activated LoRA) | i64 `[batch, 1]`, the first position that the adapter acts on; no adapter: any that's never reached |
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
use super::positions::{Lengths, active_mask, learned_rows, lengths, rotary_tables};
use super::proto;
use super::{Parameters, attention as attention_block};
use crate::adapter::{Adapter, BACKBONE, Beside, Mixture, Shadow};
use crate::arch::{DecoderSpec, NormPlacement, Positions};
use crate::weights::Dtype;

pub use attention_block::cache_head_dim;

/// Builds the graph for a `model.onnx` in `folder`: `parameters` says where each weight is, weights are
/// rounded to `storage`, arithmetic is in `compute`.
pub fn build(
    export: &Export,
    parameters: &Parameters,
    storage: Dtype,
    compute: Dtype,
    folder: &std::path::Path,
) -> proto::Model {
    let spec = export.spec;
    let mut builder = GraphBuilder::new(parameters, storage, compute, folder);
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
    if export
        .adapter
        .is_some_and(|adapter| adapter.invocation().is_some())
    {
        let mask = active_mask(graph, &lengths);
        graph.set_token_gate(mask);
    }
    let shadow = match export.adapter.and_then(Adapter::beside) {
        Some(Beside::Shadow(shadow)) => {
            let shared = shadow.shares_embeddings.then(|| hidden.clone());
            Some((
                &**shadow,
                shadow_state(graph, export, shadow, &lengths, &input_ids, shared),
            ))
        }
        _ => None,
    };
    let (hidden, rotation) = positioned(graph, spec, &lengths, hidden);

    if let Some(Beside::Mixture(mixture)) = export.adapter.and_then(Adapter::beside) {
        let shares = scaling_pass(graph, export, mixture, &rotation, &lengths, &hidden);
        graph.set_token_gate(shares);
    }
    let mut hidden = layers(graph, export, &rotation, &lengths, hidden, shadow);
    if export.needs_all_positions() {
        hidden = graph.last_position("/hidden/last", &hidden);
    }
    head(graph, export, &hidden);
    builder.finish()
}

/// Tells positions apart: learned rows are added to the embedding, or the tables of a rotation made.
fn positioned(
    graph: &mut GraphBuilder,
    spec: &DecoderSpec,
    lengths: &Lengths,
    hidden: Value,
) -> (Value, Rotation) {
    match &spec.positions {
        Positions::Learned { table, offset } => {
            let rows = learned_rows(graph, &table.path, *offset, lengths);
            let hidden = graph.add("/embeddings/Add", &hidden, &rows);
            (hidden, Rotation::None)
        }
        Positions::Rotary(rotary) => {
            let tables = rotary_tables(graph, rotary, spec.max_position_embeddings);
            if 2 * rotary.inv_freq.len() % attention_block::ROTARY_MULTIPLE == 0 {
                (hidden, Rotation::Inside(tables))
            } else {
                (hidden, Rotation::Before(tables))
            }
        }
    }
}

/// Everything between the embedding and the head, with Shadow's state on the way.
fn layers(
    graph: &mut GraphBuilder,
    export: &Export,
    rotation: &Rotation,
    lengths: &Lengths,
    embedded: Value,
    shadow: Option<(&Shadow, Value)>,
) -> Value {
    let run = match export.spec.norm_placement {
        NormPlacement::BeforeSublayer => norms_before,
        NormPlacement::AfterResidual => norms_after,
    };
    let hidden = run(graph, export, rotation, lengths, embedded, shadow);
    match &export.spec.project_out {
        Some(project_out) => linear(graph, export, project_out, &hidden),
        None => hidden,
    }
}

/// X-LoRA's first pass, with caches of its own behind those of the second; returns the experts' shares.
fn scaling_pass(
    graph: &mut GraphBuilder,
    export: &Export,
    mixture: &Mixture,
    rotation: &Rotation,
    lengths: &Lengths,
    embedded: &Value,
) -> Value {
    let first = Export {
        adapter: export.adapter.filter(|_| mixture.scales_first_pass()),
        first_cache: export.spec.layers.len(),
        all_positions: true,
        ..*export
    };
    graph.set_scope("/scaling_pass", "");
    if mixture.scales_first_pass() {
        let shares = mixture.first_shares(graph);
        graph.set_token_gate(shares);
    }
    let hidden = layers(graph, &first, rotation, lengths, embedded.clone(), None);
    graph.set_scope("", "");
    mixture.shares(graph, &hidden)
}

/// Shadow's backbone, over the base's embeddings or its own; returns the state of the first block.
fn shadow_state(
    graph: &mut GraphBuilder,
    export: &Export,
    shadow: &Shadow,
    lengths: &Lengths,
    input_ids: &Value,
    shared: Option<Value>,
) -> Value {
    let spec = &shadow.spec;
    let backbone = Export {
        spec,
        adapter: None,
        first_cache: export.spec.layers.len(),
        all_positions: true,
    };
    graph.set_scope("/shadow_backbone", BACKBONE);
    let mut hidden = match shared {
        Some(rows) => rows,
        None => embedding(graph, &backbone, &spec.embed_tokens, input_ids),
    };
    if let Some(project_in) = &spec.project_in {
        hidden = linear(graph, &backbone, project_in, &hidden);
    }
    let (hidden, rotation) = positioned(graph, spec, lengths, hidden);
    let hidden = layers(graph, &backbone, &rotation, lengths, hidden, None);
    graph.set_scope("", "");
    shadow.projected(graph, hidden)
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
    mut shadow: Option<(&Shadow, Value)>,
) -> Value {
    let spec = export.spec;
    let mut residual = embedded;
    let mut update: Option<Value> = None;
    for (index, layer) in spec.layers.iter().enumerate() {
        if let Some((shadow, state)) = &mut shadow {
            if let Some(update) = update.take() {
                residual = graph.add(&format!("/{}/Add", layer.path), &residual, &update);
            }
            let drawn = shadow.enter(graph, index, &residual, state);
            residual = drawn.unwrap_or(residual);
        }
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
    mut shadow: Option<(&Shadow, Value)>,
) -> Value {
    let mut x = embedded;
    for (index, layer) in export.spec.layers.iter().enumerate() {
        if let Some((shadow, state)) = &mut shadow {
            x = shadow.enter(graph, index, &x, state).unwrap_or(x);
        }
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
