//! The whole decoder, from token ids to the next token.
//!
//! | input | shape |
//! | --- | --- |
//! | `input_ids` | i64 `[batch, sequence]` |
//! | `attention_mask` | i64 `[batch, total]`, total = cached + virtual + new tokens |
//! | `past_key_values.{i}.key`, `.value` | `[batch, num_key_value_heads, past, head_dim]` |
//! | `past_key_values.{i}.conv_state` and others | `[batch, …]`, the states of layers that have some |
//! | `prompt_embeddings` (prompt learning) | `[virtual_tokens, embedding_dim]`; empty in decode steps |
//! | one for each adapter tensor | the checkpoint's name and shape |
//!
//! | output | shape |
//! | --- | --- |
//! | `logits` | `[batch, 1, vocab_size]`, of the last position |
//! | `next_token` | i64 `[batch, 1]`, their argmax |
//! | `present.{i}.key` and others | like `past` |

use super::adaptation::Carried;
use super::attention::attention;
use super::before_layers::BeforeLayers;
use super::builder::{Attr, Dim, GraphBuilder, Value};
use super::experts::apart_mixture;
use super::lengths::{Lengths, lengths};
use super::linear::{embedding, linear, times};
use super::mlp::mlp;
use super::norm::{add_norm, norm};
use super::pass::{Export, PROMPT_INPUT, Pass};
use super::per_layer::{addition, slices};
use super::positions::{PositionTables, learned_rows};
use super::recurrence::recurrence;
use super::{Adaptation, Arithmetic, AttentionOperator, Parameters, proto, streams};
use crate::arch::{DecoderSpec, EmbeddingScale, Layer, Mlp, Norm, Residual, Streams};

/// Builds the graph for a `model.onnx` in `folder`, with weights from `parameters`.
pub fn build(
    export: &Export,
    parameters: &Parameters,
    arithmetic: Arithmetic,
    folder: &std::path::Path,
) -> proto::Model {
    let Export { spec, adaptation } = *export;
    let mut builder = GraphBuilder::new(parameters, arithmetic, folder);
    let graph = &mut builder;

    let sequence = [Dim::symbol("batch"), Dim::symbol("sequence")];
    let input_ids = graph.input_i64("input_ids", &sequence);
    let total = [Dim::symbol("batch"), Dim::symbol("total")];
    let attention_mask = graph.input_i64("attention_mask", &total);

    let all_positions = adaptation.is_some_and(Adaptation::takes_whole_calls);
    let mut pass = Pass {
        spec,
        adaptation,
        token_gate: None,
        per_layer: None,
        first_cache: 0,
        whole_sequences: adaptation.is_some_and(Adaptation::runs_whole_sequences),
        all_positions,
        last_from: match arithmetic.attention {
            AttentionOperator::GroupQuery if !all_positions => spec.layers_without_keys(),
            _ => None,
        },
    };
    let embedded = embedded(graph, &pass, &input_ids);
    if let Some(own) = &spec.per_layer {
        let ids = adaptation.is_none_or(|adaptation| !adaptation.has_virtual_tokens());
        let ids = ids.then_some(&input_ids);
        pass.per_layer = Some(slices(graph, &pass, own, ids, &embedded));
    }
    let lengths = lengths(graph, &attention_mask, &embedded);
    let mut tables = PositionTables::new(spec.max_position_embeddings);
    let hidden = positioned(graph, spec, &lengths, embedded.clone());

    let carried = match adaptation {
        None => Carried::default(),
        Some(adaptation) => adaptation.before_layers(&mut BeforeLayers {
            graph,
            input_ids: &input_ids,
            embedded: &embedded,
            hidden: &hidden,
            spec,
            adaptation,
            tables: &mut tables,
            lengths: &lengths,
            next_cache: spec.layers.len(),
        }),
    };
    pass.token_gate = carried.token_gate;
    let mut hidden = layers(graph, &pass, &mut tables, &lengths, hidden, carried.state);
    if pass.all_positions {
        hidden = graph.last_position("/hidden/last", &hidden);
    }
    head(graph, &pass, &hidden);
    builder.finish()
}

/// The token embeddings, after those of virtual tokens, `[batch, sequence, hidden_size]`.
fn embedded(graph: &mut GraphBuilder, pass: &Pass, input_ids: &Value) -> Value {
    let spec = pass.spec;
    let mut hidden = embedding(graph, pass, &spec.embed_tokens, input_ids);
    if let Some(EmbeddingScale::Rows(scale)) = spec.embedding_scale {
        hidden = times(graph, "/embeddings/scale", &hidden, scale);
    }
    if pass.adaptation.is_some_and(Adaptation::has_virtual_tokens) {
        hidden = prepend_prompt(graph, spec, &hidden);
    }
    if let Some(EmbeddingScale::All(scale)) = spec.embedding_scale {
        hidden = times(graph, "/embeddings/scale", &hidden, scale);
    }
    match &spec.project_in {
        Some(project_in) => linear(graph, pass, project_in, &hidden),
        None => hidden,
    }
}

/// The embeddings of a decoder that an adaptation adds: `shared` if given, otherwise from its own
/// table.
pub(super) fn own_embedding(
    graph: &mut GraphBuilder,
    pass: &Pass,
    input_ids: &Value,
    shared: Option<&Value>,
) -> Value {
    let Some(shared) = shared else {
        return embedded(graph, pass, input_ids);
    };
    match &pass.spec.project_in {
        Some(project_in) => linear(graph, pass, project_in, shared),
        None => shared.clone(),
    }
}

/// Adds learned positions and a norm to the embeddings, if the model has them.
pub(super) fn positioned(
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

/// Adds all layers, from the embeddings to the head's input. `state` is the adaptation's.
pub(super) fn layers(
    graph: &mut GraphBuilder,
    pass: &Pass,
    tables: &mut PositionTables,
    lengths: &Lengths,
    embedded: Value,
    mut state: Option<Value>,
) -> Value {
    let spec = pass.spec;
    if let Some(own) = &spec.streams {
        return several_streams(graph, pass, own, tables, lengths, &embedded);
    }
    let mut stream = Stream {
        residual: embedded,
        update: None,
    };
    let all_lengths = LayerLengths::new(graph, pass, lengths);
    for index in 0..spec.layers.len() {
        if pass.last_from == Some(index) {
            let sum = stream.sum(graph, &format!("/{}/Add", spec.layers[index].path));
            stream.residual = graph.last_position("/residual/last", &sum);
        }
        let lengths = all_lengths.of(index);
        if let (Some(adaptation), Some(state)) = (pass.adaptation, &mut state) {
            let sum = stream.sum(graph, &format!("/{}/Add", spec.layers[index].path));
            if let Some(changed) = adaptation.enter_layer(graph, index, &sum, state) {
                stream.residual = changed;
            }
        }
        layer(graph, pass, index, tables, lengths, &mut stream);
        finish(graph, pass, index, &mut stream);
    }
    let hidden = match &spec.final_norm {
        Some(final_norm) => stream.normed(graph, final_norm),
        None => stream.sum(graph, "/last/Add"),
    };
    match &spec.project_out {
        Some(project_out) => linear(graph, pass, project_out, &hidden),
        None => hidden,
    }
}

/// The layers of a decoder with several residual streams, and its final norm.
fn several_streams(
    graph: &mut GraphBuilder,
    pass: &Pass,
    own: &Streams,
    tables: &mut PositionTables,
    lengths: &Lengths,
    embedded: &Value,
) -> Value {
    let mut all = streams::begin(graph, pass, own, embedded);
    let all_lengths = LayerLengths::new(graph, pass, lengths);
    for index in 0..pass.spec.layers.len() {
        if pass.last_from == Some(index) {
            all = graph.last_position("/streams/last", &all);
        }
        let lengths = all_lengths.of(index);
        all = streams::layer(graph, pass, own, index, tables, lengths, &all);
    }
    let hidden = streams::end(graph, pass, own, &all);
    normed(graph, pass.spec.final_norm.as_ref(), hidden)
}

/// The lengths by layer: the last layers may get the last position only.
struct LayerLengths<'a> {
    all: &'a Lengths,
    last: Option<(usize, Lengths)>,
}

impl<'a> LayerLengths<'a> {
    fn new(graph: &mut GraphBuilder, pass: &Pass, all: &'a Lengths) -> Self {
        let from = pass.last_from;
        let last = from.map(|from| (from, all.of_last_position(graph)));
        Self { all, last }
    }

    /// The lengths for layer `index`.
    fn of(&self, index: usize) -> &Lengths {
        match &self.last {
            Some((from, last)) if index >= *from => last,
            _ => self.all,
        }
    }
}

/// What follows the sublayers of layer `index`: its per-layer input, and the factor of its output.
fn finish(graph: &mut GraphBuilder, pass: &Pass, index: usize, stream: &mut Stream) {
    let path = &pass.spec.layers[index].path;
    if let (Some(own), Some(slices)) = (&pass.spec.per_layer, &pass.per_layer) {
        let sum = stream.sum(graph, &format!("/{path}/mlp/Add"));
        stream.add(addition(graph, pass, own, index, slices, &sum));
    }
    if let Some(scale) = pass.spec.layer_scales.get(index) {
        let sum = stream.sum(graph, &format!("/{path}/per_layer/Add"));
        let factor = graph.parameter(&scale.full_name());
        stream.residual = graph.mul(&format!("/{path}/layer_scalar/Mul"), &sum, &factor);
    }
}

/// Prepends the virtual tokens to every sequence. In a decode step, the input has no rows.
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

/// The residual stream, with an update that's not added yet: one node may add and normalise.
struct Stream {
    residual: Value,
    update: Option<Value>,
}

impl Stream {
    /// Sets the update.
    fn add(&mut self, update: Value) {
        self.update = Some(update);
    }

    /// The stream after the update; `name` names the sum.
    fn sum(&mut self, graph: &mut GraphBuilder, name: &str) -> Value {
        if let Some(update) = self.update.take() {
            self.residual = graph.add(name, &self.residual, &update);
        }
        self.residual.clone()
    }

    /// The norm of the stream after the update.
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

    /// Replaces the stream by its norm after the update.
    fn replace_by_norm(&mut self, graph: &mut GraphBuilder, by: &Norm) -> Value {
        self.residual = self.normed(graph, by);
        self.residual.clone()
    }

    /// The input of a sublayer with the norm `before` it; `name` names the sum.
    fn enter(
        &mut self,
        graph: &mut GraphBuilder,
        before: Option<&Norm>,
        residual: Residual,
        name: &str,
    ) -> Value {
        match (before, residual) {
            (None, _) => self.sum(graph, name),
            (Some(before), Residual::Plain) => self.normed(graph, before),
            (Some(before), Residual::Normed) => self.replace_by_norm(graph, before),
        }
    }

    /// Adds a sublayer's output to the stream, and applies the norm `closing` to the sum if there's
    /// one.
    fn leave(&mut self, graph: &mut GraphBuilder, made: Value, closing: Option<&Norm>) {
        self.add(made);
        if let Some(closing) = closing {
            self.replace_by_norm(graph, closing);
        }
    }
}

/// Adds layer `index`. After the last layer's mixer only the last position is needed, so the others
/// are dropped.
fn layer(
    graph: &mut GraphBuilder,
    pass: &Pass,
    index: usize,
    tables: &mut PositionTables,
    lengths: &Lengths,
    stream: &mut Stream,
) {
    let layer = &pass.spec.layers[index];
    let (path, arrangement) = (&layer.path, &layer.arrangement);
    let residual = arrangement.residual;
    let [around_attention, around_mlp] = [&arrangement.attention, &arrangement.mlp];
    // The sublayers of a parallel layer may share a norm.
    let shares_norm = arrangement.parallel && around_mlp.before.is_none();

    let sum = format!("/{path}/Add");
    if !layer.has_mixer() {
        if pass.is_last_layer(index) {
            let whole = stream.sum(graph, &sum);
            stream.residual = graph.last_position("/residual/last", &whole);
        }
        let x = stream.enter(graph, around_mlp.before.as_ref(), residual, &sum);
        let made = mlp(graph, pass, path, &layer.mlp, &x);
        let made = normed(graph, around_mlp.after.as_ref(), made);
        let made = scaled(graph, layer, "mlp", made);
        stream.leave(graph, made, around_mlp.closing.as_ref());
        return;
    }
    let mut x = stream.enter(graph, around_attention.before.as_ref(), residual, &sum);
    let mixed = mixed(graph, pass, index, tables, lengths, &x);
    if pass.is_last_layer(index) {
        stream.residual = graph.last_position("/residual/last", &stream.residual);
        if shares_norm {
            x = graph.last_position("/hidden/last", &x);
        }
    }
    let mixed = normed(graph, around_attention.after.as_ref(), mixed);
    let mixed = scaled(graph, layer, "attention", mixed);
    if let Mlp::Absent = layer.mlp {
        stream.leave(graph, mixed, around_attention.closing.as_ref());
        return;
    }

    match (arrangement.parallel, &around_mlp.before) {
        (true, None) => {}
        (true, Some(before)) => x = norm(graph, before, &stream.residual),
        (false, before) => {
            let closing = around_attention.closing.as_ref();
            stream.leave(graph, mixed.clone(), closing);
            let sum = format!("/{path}/self_attn/Add");
            x = stream.enter(graph, before.as_ref(), residual, &sum);
        }
    }
    let mixture = layer.mlp.mixture();
    let apart = mixture.and_then(|mixture| Some((mixture, mixture.apart.as_ref()?)));
    let made = match apart {
        Some(own) => apart_mixture(graph, pass, path, own, &x, &stream.residual),
        None => mlp(graph, pass, path, &layer.mlp, &x),
    };
    let made = normed(graph, around_mlp.after.as_ref(), made);
    let mut made = scaled(graph, layer, "mlp", made);
    if arrangement.parallel {
        made = graph.add(&format!("/{path}/parallel/Add"), &mixed, &made);
    }
    stream.leave(graph, made, around_mlp.closing.as_ref());
}

/// The output of layer `index`'s mixer, or the sum of both.
fn mixed(
    graph: &mut GraphBuilder,
    pass: &Pass,
    index: usize,
    tables: &mut PositionTables,
    lengths: &Lengths,
    x: &Value,
) -> Value {
    let layer = &pass.spec.layers[index];
    let own = layer.recurrence.as_ref();
    let passed = own.map(|own| recurrence(graph, pass, index, own, lengths, x));
    let own = layer.attention.as_ref();
    let attended = own.map(|own| attention(graph, pass, (index, own), tables, lengths, x));
    match (passed, attended) {
        (Some(passed), Some(attended)) => {
            graph.add(&format!("/{}/mixers/Add", layer.path), &passed, &attended)
        }
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => x.clone(),
    }
}

/// `x` after the norm, if there's one.
pub(super) fn normed(graph: &mut GraphBuilder, by: Option<&Norm>, x: Value) -> Value {
    match by {
        Some(by) => norm(graph, by, &x),
        None => x,
    }
}

/// A sublayer's output times the layer's factor, if it has one.
fn scaled(graph: &mut GraphBuilder, layer: &Layer, sublayer: &str, made: Value) -> Value {
    match layer.residual_scale {
        None => made,
        Some(factor) => {
            let name = format!("/{}/{sublayer}/scale", layer.path);
            times(graph, &name, &made, factor)
        }
    }
}

/// Adds the outputs `logits` and `next_token`; `hidden` is `[batch, 1, embedding_dim]`.
fn head(graph: &mut GraphBuilder, pass: &Pass, hidden: &Value) {
    let spec = pass.spec;
    let mut logits = linear(graph, pass, &spec.lm_head, hidden);
    if let Some(scale) = spec.logit_scale {
        logits = times(graph, "/logits/scale", &logits, scale);
    }
    if let Some(cap) = spec.logit_softcap {
        let divided = times(graph, "/logits/softcap/divided", &logits, 1.0 / cap);
        let bent = graph.op("Tanh", "/logits/softcap/Tanh", &[&divided], &[]);
        logits = times(graph, "/logits/softcap", &bent, cap);
    }
    // Renamed, since an `Identity` node would copy them.
    let logits = graph.renamed(&logits, "logits");
    let vocab = spec.vocab_size;
    graph.output(
        logits.name(),
        &[Dim::symbol("batch"), 1.into(), vocab.into()],
    );
    let next_token = graph.place_of_largest("next_token", &logits);
    graph.output_i64(&next_token, &[Dim::symbol("batch"), 1.into()]);
}
