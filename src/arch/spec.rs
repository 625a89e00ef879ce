//! The description of a decoder, as data.
//!
//! Every module has two names: `path`, its path in the model, which adapters target
//! (`model.layers.0.self_attn.q_proj`), and `source`, the module path in the checkpoint whose
//! tensors it uses. They differ for replicated layers, and for a head that's tied to the embedding.

use super::{
    Arrangement, Attention, Embedding, LatentCache, Linear, Mixture, Mlp, Module, Norm,
    PerLayerEmbeddings, PlainParameter, Position, Projections, PromptAttention, Recurrence, State,
    Streams,
};
use crate::json::{ConfigError, JsonObject};

/// A decoder-only language model.
#[derive(Debug, Clone)]
pub struct DecoderSpec {
    /// `model_type` of `config.json`.
    pub model_type: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Rows of the embedding and of the head.
    pub vocab_size: usize,
    /// Number of supported positions: those that the model was made for, or fewer.
    pub max_position_embeddings: usize,
    /// The reason, if fewer positions are supported than the model was made for.
    pub positions_end: Option<&'static str>,
    /// The prefix of names (`model.`) that some checkpoints omit.
    pub base_prefix: &'static str,
    /// Pairs of prefixes: a module's name, and another name that checkpoints may use for it.
    pub other_names: &'static [(&'static str, &'static str)],
    /// The modules' names in the checkpoint, if the decoder is the text tower of a multimodal
    /// wrapper.
    pub tower: Option<Tower>,
    /// Token embedding.
    pub embed_tokens: Embedding,
    /// A factor for the embeddings.
    pub embedding_scale: Option<EmbeddingScale>,
    /// A learned embedding of positions, added to the token embedding.
    pub learned_positions: Option<LearnedPositions>,
    /// A norm of the embeddings, before the first layer.
    pub embedding_norm: Option<Norm>,
    /// Projection from the embedding's width to `hidden_size`, if they differ.
    pub project_in: Option<Linear>,
    /// A second embedding, of which each layer takes a slice.
    pub per_layer: Option<PerLayerEmbeddings>,
    /// Several residual streams in place of one.
    pub streams: Option<Streams>,
    /// One entry per layer.
    pub layers: Vec<Layer>,
    /// A factor for each layer's output; empty if there are none.
    pub layer_scales: Vec<PlainParameter>,
    /// The norm after the last layer.
    pub final_norm: Option<Norm>,
    /// Projection from `hidden_size` back to the embedding's width.
    pub project_out: Option<Linear>,
    /// The head, from hidden states to logits. If it's tied, its source is the embedding's.
    pub lm_head: Linear,
    /// Logits are multiplied by this.
    pub logit_scale: Option<f64>,
    /// Scaled logits become `cap * tanh(logits / cap)`.
    pub logit_softcap: Option<f64>,
}

/// The names of a multimodal wrapper's text tower in a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tower {
    /// Replaces `base_prefix` in module paths.
    pub prefix: String,
    /// The head's name.
    pub head: String,
}

impl Tower {
    /// The checkpoint's name for the module `path`, in a decoder whose paths begin with `below` and
    /// whose head is `head`.
    pub(super) fn name_of(&self, path: &str, below: &str, head: &str) -> String {
        match path.strip_prefix(below) {
            Some(rest) => format!("{}{rest}", self.prefix),
            None if path == head => self.head.clone(),
            None => path.to_owned(),
        }
    }
}

/// A factor for the embeddings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum EmbeddingScale {
    /// Applies to the table's rows only, not to virtual tokens.
    Rows(f64),
    /// Applies to all embeddings, virtual tokens included.
    All(f64),
}

/// A table with one row per position: row `position + offset` is added to the embedding.
#[derive(Debug, Clone)]
pub struct LearnedPositions {
    /// The table.
    pub table: Embedding,
    /// Number of rows before the first position.
    pub offset: usize,
}

/// One layer: a mixer of tokens, and an MLP. A layer may lack one of them.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Module path: `model.layers.0`.
    pub path: String,
    /// Self-attention, if the layer has it.
    pub attention: Option<Attention>,
    /// A mixer with a state, if the layer has one. Beside attention, both take the same input, and
    /// their outputs are added.
    pub recurrence: Option<Recurrence>,
    /// The MLP.
    pub mlp: Mlp,
    /// How they, their norms and the residual stream are combined.
    pub arrangement: Arrangement,
    /// The outputs of mixer and MLP are multiplied by this before they're added to the
    /// residual.
    pub residual_scale: Option<f64>,
}

impl Layer {
    /// Its linear layers that adapters can target.
    fn linears(&self) -> Vec<&Linear> {
        let mut all = Vec::new();
        all.extend(self.attention.iter().flat_map(Attention::linears));
        all.extend(self.recurrence.iter().flat_map(Recurrence::linears));
        all.extend(self.mlp.linears());
        all
    }

    /// Its modules, without the norms around the sublayers.
    fn modules(&self) -> Vec<Module> {
        let mut all = Vec::new();
        if let Some(attention) = &self.attention {
            all.extend(attention.linears().into_iter().map(Linear::module));
            all.extend(attention.norm_modules());
            all.extend(attention.sinks.iter().map(PlainParameter::module));
            let latent = attention.projections.latent();
            let norms = latent.iter().flat_map(|latent| latent.norms());
            all.extend(norms.map(Norm::module));
        }
        all.extend(self.recurrence.iter().flat_map(Recurrence::modules));
        all.extend(self.mlp.linears().into_iter().map(Linear::module));
        all.extend(self.mlp.routed());
        all.extend(self.mlp.act_fn());
        all
    }

    /// Path and source of every module, mutable.
    pub fn names_mut(&mut self) -> Vec<(&mut String, &mut String)> {
        fn of_linear(linear: &mut Linear) -> (&mut String, &mut String) {
            (&mut linear.path, &mut linear.source)
        }
        fn of_norm(norm: &mut Norm) -> (&mut String, &mut String) {
            (&mut norm.path, &mut norm.source)
        }
        let mut all = Vec::new();
        if let Some(Attention {
            projections,
            o_proj,
            query_key_norms,
            sinks,
            value_norm,
            ..
        }) = &mut self.attention
        {
            match projections {
                Projections::Latent(latent) => all.extend(latent.names_mut()),
                other => all.extend(other.linears_mut().into_iter().map(of_linear)),
            }
            all.push(of_linear(o_proj));
            let norms = query_key_norms.iter_mut().flatten().chain(value_norm);
            all.extend(norms.map(|norm| of_norm(&mut norm.norm)));
            all.extend(sinks.iter_mut().map(PlainParameter::names_mut));
        }
        let recurrence = self.recurrence.iter_mut();
        all.extend(recurrence.flat_map(Recurrence::names_mut));
        all.extend(self.mlp.names_mut());
        all.extend(self.arrangement.norms_mut().map(of_norm));
        all
    }

    /// Whether it mixes tokens.
    pub fn has_mixer(&self) -> bool {
        self.attention.is_some() || self.recurrence.is_some()
    }

    /// The states that it passes from token to token.
    pub fn states(&self) -> Vec<State> {
        let recurrence = self.recurrence.as_ref();
        recurrence.map_or_else(Vec::new, Recurrence::states)
    }
}

impl DecoderSpec {
    /// A decoder with these parts and no others; `hidden_size` is the embedding's width.
    pub(super) fn plain(
        config: &JsonObject,
        max_position_embeddings: usize,
        embed_tokens: Embedding,
        layers: Vec<Layer>,
        lm_head: Linear,
    ) -> Result<Self, ConfigError> {
        Ok(Self {
            model_type: config.optional_text("model_type")?.unwrap_or("").to_owned(),
            hidden_size: embed_tokens.embedding_dim,
            vocab_size: embed_tokens.num_embeddings,
            max_position_embeddings,
            positions_end: None,
            base_prefix: "",
            other_names: &[],
            tower: None,
            embed_tokens,
            embedding_scale: None,
            learned_positions: None,
            embedding_norm: None,
            project_in: None,
            per_layer: None,
            streams: None,
            layers,
            layer_scales: Vec::new(),
            final_norm: None,
            project_out: None,
            lm_head,
            logit_scale: None,
            logit_softcap: None,
        })
    }

    /// The checkpoint's name for the module `path`.
    pub fn stored_name(&self, path: &str) -> String {
        match &self.tower {
            Some(tower) => tower.name_of(path, self.base_prefix, &self.lm_head.path),
            None => path.to_owned(),
        }
    }

    /// The checkpoint's name for the parameter `name`.
    pub fn stored_parameter(&self, name: &str) -> String {
        match name.rsplit_once('.') {
            Some((path, parameter)) => format!("{}.{parameter}", self.stored_name(path)),
            None => name.to_owned(),
        }
    }

    /// The attentions of the layers that have one, mutable.
    pub fn attentions_mut(&mut self) -> impl Iterator<Item = &mut Attention> {
        self.layers
            .iter_mut()
            .flat_map(|layer| &mut layer.attention)
    }

    /// The attentions of the layers that have one.
    pub fn attentions(&self) -> impl Iterator<Item = &Attention> {
        self.layers.iter().flat_map(|layer| &layer.attention)
    }

    /// The first attention, if any layer has one.
    pub fn first_attention(&self) -> Option<&Attention> {
        self.attentions().next()
    }

    /// Whether any layer has latent attention.
    pub fn has_latent_attention(&self) -> bool {
        let mut all = self.attentions();
        all.any(|attention| attention.projections.latent().is_some())
    }

    /// What latent attention caches, if any layer has it.
    pub fn latent_cache(&self) -> Option<LatentCache> {
        let mut all = self.attentions();
        all.find_map(|attention| Some(attention.projections.latent()?.cache))
    }

    /// Sets what latent attention caches. Returns whether any layer has it.
    pub fn set_latent_cache(&mut self, cache: LatentCache) -> bool {
        let mut found = false;
        for attention in self.attentions_mut() {
            if let Projections::Latent(latent) = &mut attention.projections {
                latent.cache = cache;
                found = true;
            }
        }
        found
    }

    /// Whether the linear layer at `path` is applied to queries and outputs of latent attention, in
    /// place of what's cached.
    pub fn is_absorbed(&self, path: &str) -> bool {
        let mut all = self.attentions();
        all.any(|attention| {
            let latent = attention.projections.absorbed();
            latent.is_some_and(|latent| latent.expand.path == path)
        })
    }

    /// Whether any layer passes a state from token to token.
    pub fn has_states(&self) -> bool {
        self.layers.iter().any(|layer| layer.recurrence.is_some())
    }

    /// The first of the last layers that all attend to keys of another layer, if there are such.
    pub fn layers_without_keys(&self) -> Option<usize> {
        let has_keys = |layer: &Layer| {
            let attention = layer.attention.as_ref();
            attention.is_none_or(|attention| attention.keys_of_layer().is_none())
        };
        let first = self.layers.iter().rposition(has_keys)? + 1;
        (first < self.layers.len()).then_some(first)
    }

    /// Whether layers pass on more than one residual stream, or read more than it.
    pub fn has_more_than_a_stream(&self) -> bool {
        self.streams.is_some() || self.per_layer.is_some() || !self.layer_scales.is_empty()
    }

    /// The attention with the widest heads, if any layer has one; the first of several.
    pub fn widest_attention(&self) -> Option<&Attention> {
        let wider = |widest: &Attention, other: &Attention| other.head_dim > widest.head_dim;
        self.attentions()
            .reduce(|widest, other| if wider(widest, other) { other } else { widest })
    }

    /// Whether a prompt must be run as a whole: its tokens attend to all others.
    pub fn takes_whole_prompts(&self) -> bool {
        self.attentions()
            .any(|attention| attention.prompt == PromptAttention::Whole)
    }

    /// The length beyond which all keys of a sequence are computed with other frequencies, if it
    /// has one.
    pub fn frequencies_change_beyond(&self) -> Option<usize> {
        self.attentions()
            .find_map(|attention| match &attention.position {
                Position::Rotary(rotary) => rotary.long.as_ref().map(|long| long.beyond),
                Position::Alibi(_) | Position::None => None,
            })
    }

    /// The factor for the embedding table's rows, if there's one.
    pub fn row_scale(&self) -> Option<f64> {
        match self.embedding_scale {
            Some(EmbeddingScale::Rows(scale)) => Some(scale),
            Some(EmbeddingScale::All(_)) | None => None,
        }
    }

    /// Sets the number of rows of embedding and head to `size`.
    pub fn resize_vocabulary(&mut self, size: usize) {
        self.vocab_size = size;
        self.embed_tokens.num_embeddings = size;
        self.lm_head.out_features = size;
    }

    /// Whether the checkpoint's tensor `source` has one row per token.
    pub fn has_row_a_token(&self, source: &str) -> bool {
        [
            &self.embed_tokens.source,
            &self.lm_head.source,
            &self.lm_head.path,
        ]
        .into_iter()
        .filter_map(|module| source.strip_prefix(module.as_str()))
        .any(|name| [".weight", ".bias"].contains(&name))
    }

    /// Whether head and embedding share a tensor.
    pub fn tied(&self) -> bool {
        self.lm_head.source == self.embed_tokens.source
    }

    /// Whether `config.json` ties the head to the embedding. PEFT follows that key and ties what it
    /// adds to both, even if the checkpoint has separate tensors.
    pub fn says_tied(&self) -> bool {
        self.lm_head.tied
    }

    /// Whether any layer has experts.
    pub fn has_experts(&self) -> bool {
        let mut layers = self.layers.iter();
        layers.any(|layer| layer.mlp.mixture().is_some())
    }

    /// Whether `path` is the router of a layer's experts.
    pub fn is_router(&self, path: &str) -> bool {
        let mut mixtures = self.layers.iter().filter_map(|layer| layer.mlp.mixture());
        mixtures.any(|mixture| mixture.router.linear.path == path)
    }

    /// Whether `path` is a router, or the gate of a shared expert. Both stay float in a quantized
    /// model.
    pub fn steers_experts(&self, path: &str) -> bool {
        let mut mixtures = self.layers.iter().filter_map(|layer| layer.mlp.mixture());
        mixtures.any(|mixture| {
            let shared = mixture.shared.as_ref();
            let gate = shared.and_then(|shared| shared.gate.as_ref());
            let mut all = [Some(&mixture.router.linear), gate].into_iter().flatten();
            all.any(|linear| linear.path == path)
        })
    }

    /// Whether `path` is a linear layer that computes a layer's keys or values and nothing else.
    pub fn makes_keys_or_values(&self, path: &str) -> bool {
        let attentions = self
            .layers
            .iter()
            .filter_map(|layer| layer.attention.as_ref());
        let mut all = attentions.flat_map(|attention| match &attention.projections {
            Projections::Separate { key, value, .. } => vec![key, value],
            Projections::KeyIsValue { key, .. } => vec![key],
            _ => vec![],
        });
        all.any(|linear| linear.path == path)
    }

    /// The numbers of columns of the weights of an expert like that with the module `path`; none
    /// for other modules.
    pub fn widths_of_experts(&self, path: &str) -> Vec<usize> {
        let mut mixtures = self.layers.iter().filter_map(|layer| layer.mlp.mixture());
        let holds = |holder: &str| {
            let rest = path.strip_prefix(holder);
            rest.is_some_and(|rest| rest.starts_with('.'))
        };
        let linears = mixtures
            .find(|mixture| holds(&mixture.path))
            .and_then(|mixture| mixture.experts.first())
            .map_or(vec![], |expert| expert.linears());
        linears.iter().map(|linear| linear.in_features).collect()
    }

    /// All modules, including norms without parameters: embedding first, head last, linear layers
    /// in Transformers' order.
    pub fn modules(&self) -> Vec<Module> {
        let mut all = vec![self.embed_tokens.module()];
        all.extend(self.learned_positions.iter().map(|p| p.table.module()));
        all.extend(self.embedding_norm.iter().map(Norm::module));
        all.extend(self.project_out.iter().map(Linear::module));
        all.extend(self.project_in.iter().map(Linear::module));
        for (index, layer) in self.layers.iter().enumerate() {
            all.extend(layer.modules());
            all.extend(layer.arrangement.norms().map(Norm::module));
            if let Some(streams) = &self.streams {
                all.extend(streams.layers[index].modules());
            }
            if let Some(per_layer) = &self.per_layer {
                all.extend(per_layer.layers[index].modules());
            }
            all.extend(self.layer_scales.get(index).map(PlainParameter::module));
        }
        all.extend(self.final_norm.iter().map(Norm::module));
        all.extend(self.per_layer.iter().flat_map(PerLayerEmbeddings::modules));
        all.extend(self.streams.iter().flat_map(Streams::modules));
        all.push(self.lm_head.module());
        all
    }

    /// All linear layers, those of experts included, in no particular order.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        let layers = self.layers.iter();
        let inner = layers.flat_map(|layer| {
            let experts = layer.mlp.mixture().map(Mixture::experts_linears);
            [layer.linears(), experts.unwrap_or_default()].concat()
        });
        let outer = [&self.project_in, &self.project_out];
        let streams = self.streams.iter().flat_map(Streams::linears);
        let per_layer = self.per_layer.iter().flat_map(PerLayerEmbeddings::linears);
        inner
            .chain(outer.into_iter().flatten())
            .chain(streams)
            .chain(per_layer)
            .chain([&self.lm_head])
    }
}
