//! What a decoder consists of, as data.
//!
//! Every module has two names: `path`, its place in the model that adapters address
//! (`model.layers.0.self_attn.q_proj`), and `source`, the checkpoint's module whose tensors it uses.
//! They differ where layers are replicated, and for a head that is tied to the embedding.

use super::{Arrangement, Attention, Embedding, Linear, Mlp, Module, Norm};
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
    /// Positions that the model was made for, or fewer where only those are supported.
    pub max_position_embeddings: usize,
    /// Why there are no more, where the model was made for more.
    pub positions_end: Option<&'static str>,
    /// The first part of every checkpoint name that some checkpoints leave out (`model.`).
    pub base_prefix: &'static str,
    /// Modules that checkpoints may have under another name, with that name.
    pub other_names: &'static [(&'static str, &'static str)],
    /// How the checkpoint calls the modules, where the decoder is a wrapper's text tower.
    pub tower: Option<Tower>,
    /// Token embedding.
    pub embed_tokens: Embedding,
    /// What embeddings are multiplied by.
    pub embedding_scale: Option<EmbeddingScale>,
    /// A learned row for each position, added to the embedding.
    pub learned_positions: Option<LearnedPositions>,
    /// A norm of the embedding, before the first layer.
    pub embedding_norm: Option<Norm>,
    /// From the embedding's width to `hidden_size`, where they differ.
    pub project_in: Option<Linear>,
    /// One entry a layer.
    pub layers: Vec<Layer>,
    /// The norm behind the last layer.
    pub final_norm: Option<Norm>,
    /// From `hidden_size` back to the embedding's width.
    pub project_out: Option<Linear>,
    /// From hidden states to logits. Tied: its source is the embedding's.
    pub lm_head: Linear,
    /// Logits are multiplied by this.
    pub logit_scale: Option<f64>,
    /// Logits, scaled, become `cap * tanh(logits / cap)`.
    pub logit_softcap: Option<f64>,
}

/// The names of a wrapper's text tower in a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tower {
    /// In the place of the first part of the modules' paths (`base_prefix`).
    pub prefix: String,
    /// The head's.
    pub head: String,
}

impl Tower {
    /// What the checkpoint calls the module at `path`, of a decoder whose paths begin with `below` and whose head is at `head`.
    pub(super) fn name_of(&self, path: &str, below: &str, head: &str) -> String {
        match path.strip_prefix(below) {
            Some(rest) => format!("{}{rest}", self.prefix),
            None if path == head => self.head.clone(),
            None => path.to_owned(),
        }
    }
}

/// A factor of the token embeddings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum EmbeddingScale {
    /// Of what the table gives: virtual tokens are left as they are.
    Rows(f64),
    /// Of everything, virtual tokens too.
    All(f64),
}

/// A table with a row a position: row `position + offset` is added to the embedding.
#[derive(Debug, Clone)]
pub struct LearnedPositions {
    /// The table.
    pub table: Embedding,
    /// Rows before the first position.
    pub offset: usize,
}

/// One layer: attention and a multilayer perceptron.
#[derive(Debug, Clone)]
pub struct Layer {
    /// `model.layers.0`
    pub path: String,
    /// Self-attention.
    pub attention: Attention,
    /// The perceptron.
    pub mlp: Mlp,
    /// How the two, their norms and the residual stream are put together.
    pub arrangement: Arrangement,
    /// What attention and perceptron give is multiplied by this before it's added to the residual.
    pub residual_scale: Option<f64>,
}

impl DecoderSpec {
    /// A decoder of these parts and nothing else; the residual stream is as wide as the embedding.
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
            layers,
            final_norm: None,
            project_out: None,
            lm_head,
            logit_scale: None,
            logit_softcap: None,
        })
    }

    /// What the checkpoint calls the module at `path`.
    pub fn stored_name(&self, path: &str) -> String {
        match &self.tower {
            Some(tower) => tower.name_of(path, self.base_prefix, &self.lm_head.path),
            None => path.to_owned(),
        }
    }

    /// What the checkpoint calls the parameter `name`.
    pub fn stored_parameter(&self, name: &str) -> String {
        match name.rsplit_once('.') {
            Some((path, parameter)) => format!("{}.{parameter}", self.stored_name(path)),
            None => name.to_owned(),
        }
    }

    /// What the token embedding's module multiplies its rows by, if anything.
    pub fn row_scale(&self) -> Option<f64> {
        match self.embedding_scale {
            Some(EmbeddingScale::Rows(scale)) => Some(scale),
            Some(EmbeddingScale::All(_)) | None => None,
        }
    }

    /// Gives the embedding and the head `size` rows.
    pub fn resize_vocabulary(&mut self, size: usize) {
        self.vocab_size = size;
        self.embed_tokens.num_embeddings = size;
        self.lm_head.out_features = size;
    }

    /// Whether the checkpoint's tensor `source` has a row for each token.
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

    /// Whether head and embedding share one tensor.
    pub fn tied(&self) -> bool {
        self.lm_head.source == self.embed_tokens.source
    }

    /// Whether `config.json` ties the head to the embedding. PEFT goes by that, and ties what it adds to them, also where
    /// the checkpoint holds both apart.
    pub fn says_tied(&self) -> bool {
        self.lm_head.tied
    }

    /// Whether a layer has experts.
    pub fn has_experts(&self) -> bool {
        let mut layers = self.layers.iter();
        layers.any(|layer| matches!(layer.mlp, Mlp::Experts { .. }))
    }

    /// Whether `path` is the router of a layer's experts.
    pub fn is_router(&self, path: &str) -> bool {
        self.layers
            .iter()
            .any(|layer| matches!(&layer.mlp, Mlp::Experts { router, .. } if router.path == path))
    }

    /// All modules with parameters (and norms without any), embedding first, head last. Linear layers are in
    /// Transformers' order.
    pub fn modules(&self) -> Vec<Module> {
        let mut all = vec![self.embed_tokens.module()];
        all.extend(self.learned_positions.iter().map(|p| p.table.module()));
        all.extend(self.embedding_norm.iter().map(Norm::module));
        all.extend(self.project_out.iter().map(Linear::module));
        all.extend(self.project_in.iter().map(Linear::module));
        for layer in &self.layers {
            let attention = &layer.attention;
            all.extend(attention.linears().into_iter().map(Linear::module));
            if let Some([query, key]) = &attention.query_key_norms {
                all.push(query.module(attention.num_attention_heads));
                all.push(key.module(attention.num_key_value_heads));
            }
            all.extend(layer.mlp.linears().into_iter().map(Linear::module));
            all.extend(layer.mlp.routed());
            all.extend(layer.arrangement.norms().map(Norm::module));
        }
        all.extend(self.final_norm.iter().map(Norm::module));
        all.push(self.lm_head.module());
        all
    }

    /// The linear layers, in no particular order.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        let layers = self.layers.iter();
        let inner = layers
            .flat_map(|layer| [layer.attention.linears(), layer.mlp.linears()])
            .flatten();
        let outer = [&self.project_in, &self.project_out];
        inner
            .chain(outer.into_iter().flatten())
            .chain([&self.lm_head])
    }
}
