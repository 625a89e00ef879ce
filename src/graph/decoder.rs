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

use super::attention::attention;
use super::builder::{Attr, Dim, GraphBuilder, Value};
use super::export::{Export, PROMPT_INPUT};
use super::linear::{embedding, linear};
use super::mlp::mlp;
use super::norm::{add_norm, norm};
use super::positions::{Lengths, PositionTables, learned_rows, lengths};
use super::proto;
use super::{Parameters, attention as attention_block};
use crate::adapter::Adapter;
use crate::arch::{Arrangement, DecoderSpec, EmbeddingScale, Layer, Norm};
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
    if let Some(EmbeddingScale::Rows(scale)) = spec.embedding_scale {
        hidden = times(graph, "/embeddings/scale", &hidden, scale);
    }
    if export.adapter.is_some_and(Adapter::has_virtual_tokens) {
        hidden = prepend_prompt(graph, spec, &hidden);
    }
    if let Some(EmbeddingScale::All(scale)) = spec.embedding_scale {
        hidden = times(graph, "/embeddings/scale", &hidden, scale);
    }
    if let Some(project_in) = &spec.project_in {
        hidden = linear(graph, export, project_in, &hidden);
    }
    let lengths = lengths(graph, &attention_mask, &hidden);
    if let Some(learned) = &spec.learned_positions {
        let rows = learned_rows(graph, &learned.table.path, learned.offset, &lengths);
        hidden = graph.add("/embeddings/Add", &hidden, &rows);
    }
    if let Some(embedding_norm) = &spec.embedding_norm {
        hidden = norm(graph, embedding_norm, &hidden);
    }

    let mut stream = Stream {
        residual: hidden,
        update: None,
    };
    let mut tables = PositionTables::new(spec.max_position_embeddings);
    for index in 0..spec.layers.len() {
        layer(graph, export, index, &mut tables, &lengths, &mut stream);
    }
    let mut hidden = match &spec.final_norm {
        Some(final_norm) => stream.normed(graph, final_norm),
        None => stream.sum(graph, "/last/Add"),
    };
    if let Some(project_out) = &spec.project_out {
        hidden = linear(graph, export, project_out, &hidden);
    }
    head(graph, export, &hidden);
    builder.finish()
}

/// `x` times a constant.
fn times(graph: &mut GraphBuilder, name: &str, x: &Value, factor: f64) -> Value {
    let constant = graph.filled(&format!("{name}/factor"), &[], factor as f32);
    graph.mul(name, x, &constant)
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

/// The residual stream, and what's still to be added to it: a norm adds and normalises in one node.
struct Stream {
    residual: Value,
    update: Option<Value>,
}

impl Stream {
    /// What will be added.
    fn add(&mut self, update: Value) {
        self.update = Some(update);
    }

    /// The stream, with everything added; `name` is the sum's, if there's one.
    fn sum(&mut self, graph: &mut GraphBuilder, name: &str) -> Value {
        if let Some(update) = self.update.take() {
            self.residual = graph.add(name, &self.residual, &update);
        }
        self.residual.clone()
    }

    /// Its norm, with everything added.
    fn normed(&mut self, graph: &mut GraphBuilder, by: &Norm) -> Value {
        match self.update.take() {
            None => norm(graph, by, &self.residual),
            Some(update) => {
                let (sum, normed) = add_norm(graph, by, &self.residual, &update);
                self.residual = sum;
                normed
            }
        }
    }

    /// The same, and the norm takes the stream's place.
    fn norm(&mut self, graph: &mut GraphBuilder, by: &Norm) -> Value {
        self.residual = self.normed(graph, by);
        self.residual.clone()
    }
}

/// Adds layer `index`. Behind the last layer's attention only the last position matters, so only that goes on.
fn layer(
    graph: &mut GraphBuilder,
    export: &Export,
    index: usize,
    tables: &mut PositionTables,
    lengths: &Lengths,
    stream: &mut Stream,
) {
    let layer = &export.spec.layers[index];
    let path = &layer.path;
    let sum = format!("/{path}/Add");

    let x = match &layer.arrangement {
        Arrangement::Before { attention, .. }
        | Arrangement::Around {
            attention: [attention, _],
            ..
        }
        | Arrangement::Parallel { attention, .. } => stream.normed(graph, attention),
        Arrangement::NormedResidual { attention, .. } => stream.norm(graph, attention),
        Arrangement::AfterResidual { .. } | Arrangement::After { .. } => stream.sum(graph, &sum),
    };
    let mut attended = attention(graph, export, index, tables, lengths, &x);
    let mut x = x;
    if export.is_last_layer(index) {
        stream.residual = graph.last_position("/residual/last", &stream.residual);
        if let Arrangement::Parallel { mlp: None, .. } = layer.arrangement {
            x = graph.last_position("/hidden/last", &x);
        }
    }
    match &layer.arrangement {
        Arrangement::After { attention, .. }
        | Arrangement::Around {
            attention: [_, attention],
            ..
        } => attended = norm(graph, attention, &attended),
        _ => {}
    }
    attended = scaled(graph, layer, "attention", attended);

    let x = match &layer.arrangement {
        Arrangement::Parallel { mlp: None, .. } => x,
        Arrangement::Parallel { mlp: Some(mlp), .. } => norm(graph, mlp, &stream.residual),
        Arrangement::Before { mlp, .. } | Arrangement::Around { mlp: [mlp, _], .. } => {
            stream.add(attended.clone());
            stream.normed(graph, mlp)
        }
        Arrangement::NormedResidual { mlp, .. } => {
            stream.add(attended.clone());
            stream.norm(graph, mlp)
        }
        Arrangement::AfterResidual { attention, .. } => {
            stream.add(attended.clone());
            stream.norm(graph, attention)
        }
        Arrangement::After { .. } => {
            stream.add(attended.clone());
            stream.sum(graph, &format!("/{path}/self_attn/Add"))
        }
    };
    let mut made = mlp(graph, export, path, &layer.mlp, &x);
    match &layer.arrangement {
        Arrangement::After { mlp, .. } | Arrangement::Around { mlp: [_, mlp], .. } => {
            made = norm(graph, mlp, &made);
        }
        _ => {}
    }
    made = scaled(graph, layer, "mlp", made);
    match &layer.arrangement {
        Arrangement::Parallel { .. } => {
            let both = graph.add(&format!("/{path}/parallel/Add"), &attended, &made);
            stream.add(both);
        }
        Arrangement::AfterResidual { mlp, .. } => {
            stream.add(made);
            stream.norm(graph, mlp);
        }
        _ => stream.add(made),
    }
}

/// What a sublayer gives, times the layer's factor.
fn scaled(graph: &mut GraphBuilder, layer: &Layer, sublayer: &str, made: Value) -> Value {
    match layer.residual_scale {
        None => made,
        Some(factor) => {
            let name = format!("/{}/{sublayer}/scale", layer.path);
            times(graph, &name, &made, factor)
        }
    }
}

/// Adds `logits` and `next_token` of `hidden`, `[batch, 1, embedding_dim]`.
fn head(graph: &mut GraphBuilder, export: &Export, hidden: &Value) {
    let spec = export.spec;
    let mut logits = linear(graph, export, &spec.lm_head, hidden);
    if let Some(scale) = spec.logit_scale {
        logits = times(graph, "/logits/scale", &logits, scale);
    }
    if let Some(cap) = spec.logit_softcap {
        let divided = times(graph, "/logits/softcap/divided", &logits, 1.0 / cap);
        let bent = graph.op("Tanh", "/logits/softcap/Tanh", &[&divided], &[]);
        logits = times(graph, "/logits/softcap", &bent, cap);
    }
    let logits = graph.op("Identity", "logits", &[&logits], &[]);
    let vocab = spec.vocab_size;
    graph.output(&logits, &[Dim::symbol("batch"), 1.into(), vocab.into()]);
    let attrs = [("axis", Attr::Int(-1)), ("keepdims", Attr::Int(0))];
    let next_token = graph.op("ArgMax", "next_token", &[&logits], &attrs);
    graph.output_i64(&next_token, &[Dim::symbol("batch"), 1.into()]);
}
