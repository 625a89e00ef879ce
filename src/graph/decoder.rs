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
use super::lengths::{Lengths, lengths};
use super::linear::{embedding, linear};
use super::mlp::mlp;
use super::norm::{add_norm, norm};
use super::positions::{PositionTables, active_mask, learned_rows};
use super::{Arithmetic, Parameters, attention as attention_block, proto};
use crate::adapter::{Adapter, BACKBONE, Beside, Mixture, Shadow};
use crate::arch::{Arrangement, DecoderSpec, EmbeddingScale, Layer, Norm};

pub use attention_block::cache_head_dim;

/// Builds the graph for a `model.onnx` in `folder`: `parameters` says where each weight is.
pub fn build(
    export: &Export,
    parameters: &Parameters,
    arithmetic: Arithmetic,
    folder: &std::path::Path,
) -> proto::Model {
    let spec = export.spec;
    let mut builder = GraphBuilder::new(parameters, arithmetic, folder);
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
    if export
        .adapter
        .is_some_and(|adapter| adapter.invocation().is_some())
    {
        let mask = active_mask(graph, &lengths);
        graph.set_token_gate(mask);
    }
    let mut tables = PositionTables::new(spec.max_position_embeddings);
    let shadow = match export.adapter.and_then(Adapter::beside) {
        Some(Beside::Shadow(shadow)) => {
            let shared = shadow.shares_embeddings.then(|| hidden.clone());
            let inputs = (&input_ids, shared);
            let state = shadow_state(graph, export, shadow, &mut tables, &lengths, inputs);
            Some((&**shadow, state))
        }
        _ => None,
    };
    let hidden = positioned(graph, spec, &lengths, hidden);

    if let Some(Beside::Mixture(mixture)) = export.adapter.and_then(Adapter::beside) {
        let shares = scaling_pass(graph, export, mixture, &mut tables, &lengths, &hidden);
        graph.set_token_gate(shares);
    }
    let mut hidden = layers(graph, export, &mut tables, &lengths, hidden, shadow);
    if export.needs_all_positions() {
        hidden = graph.last_position("/hidden/last", &hidden);
    }
    head(graph, export, &hidden);
    builder.finish()
}

/// Adds learned positions to the embedding, and normalises it, where the model does.
fn positioned(
    graph: &mut GraphBuilder,
    spec: &DecoderSpec,
    lengths: &Lengths,
    mut hidden: Value,
) -> Value {
    if let Some(learned) = &spec.learned_positions {
        let rows = learned_rows(graph, &learned.table.path, learned.offset, lengths);
        hidden = graph.add("/embeddings/Add", &hidden, &rows);
    }
    if let Some(embedding_norm) = &spec.embedding_norm {
        hidden = norm(graph, embedding_norm, &hidden);
    }
    hidden
}

/// Everything between the embedding and the head, with Shadow's state on the way.
fn layers(
    graph: &mut GraphBuilder,
    export: &Export,
    tables: &mut PositionTables,
    lengths: &Lengths,
    embedded: Value,
    mut shadow: Option<(&Shadow, Value)>,
) -> Value {
    let spec = export.spec;
    let mut stream = Stream {
        residual: embedded,
        update: None,
    };
    for index in 0..spec.layers.len() {
        if let Some((shadow, state)) = &mut shadow {
            let sum = stream.sum(graph, &format!("/{}/Add", spec.layers[index].path));
            if let Some(drawn) = shadow.enter(graph, index, &sum, state) {
                stream.residual = drawn;
            }
        }
        layer(graph, export, index, tables, lengths, &mut stream);
    }
    let hidden = match &spec.final_norm {
        Some(final_norm) => stream.normed(graph, final_norm),
        None => stream.sum(graph, "/last/Add"),
    };
    match &spec.project_out {
        Some(project_out) => linear(graph, export, project_out, &hidden),
        None => hidden,
    }
}

/// X-LoRA's first pass, with caches of its own behind those of the second; returns the experts' shares.
fn scaling_pass(
    graph: &mut GraphBuilder,
    export: &Export,
    mixture: &Mixture,
    tables: &mut PositionTables,
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
    let hidden = layers(graph, &first, tables, lengths, embedded.clone(), None);
    graph.set_scope("", "");
    mixture.shares(graph, &hidden)
}

/// Shadow's backbone, over the base's embeddings, if they're given, or its own; returns the state of the first block.
fn shadow_state(
    graph: &mut GraphBuilder,
    export: &Export,
    shadow: &Shadow,
    tables: &mut PositionTables,
    lengths: &Lengths,
    (input_ids, shared): (&Value, Option<Value>),
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
        None => {
            let rows = embedding(graph, &backbone, &spec.embed_tokens, input_ids);
            match spec.embedding_scale {
                Some(EmbeddingScale::Rows(scale) | EmbeddingScale::All(scale)) => {
                    times(graph, "/embeddings/scale", &rows, scale)
                }
                None => rows,
            }
        }
    };
    if let Some(project_in) = &spec.project_in {
        hidden = linear(graph, &backbone, project_in, &hidden);
    }
    let hidden = positioned(graph, spec, lengths, hidden);
    let hidden = layers(graph, &backbone, tables, lengths, hidden, None);
    graph.set_scope("", "");
    shadow.projected(graph, hidden)
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
    let batch = graph.size_of_axis(&format!("{name}/batch"), hidden, 0);
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
    // An `Identity` would copy them.
    let logits = graph.renamed(&logits, "logits");
    let vocab = spec.vocab_size;
    graph.output(
        logits.name(),
        &[Dim::symbol("batch"), 1.into(), vocab.into()],
    );
    let next_token = graph.place_of_largest("next_token", &logits);
    graph.output_i64(&next_token, &[Dim::symbol("batch"), 1.into()]);
}
