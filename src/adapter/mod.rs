//! PEFT adapters: what one does to a base model, whatever its method.
//!
//! A method reads its configuration and asks for its tensors; what comes out is the same for all of
//! them ([`Adapter`]): modules whose arithmetic changes ([`ModuleAdapter`]), parameters that are
//! replaced, tokens or cache rows in front of the prompt. Merging and exporting know only that.

mod error;
mod ln_tuning;
mod lora;
mod method;
mod prefix_tuning;
mod prompt_tuning;
mod replaced;
mod replication;
mod targets;
mod tensors;
mod token_rows;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;

use ndarray::{Array1, Array2};

pub use error::AdapterError;
pub use method::{PEFT_TYPES, peft_type};
pub use replaced::{Origin, Replacement};
pub use tensors::{AdapterTensors, Init};

use crate::arch::DecoderSpec;
use crate::graph::{EmbeddingSite, GraphBuilder, LinearSite, Value};
use crate::json_object::JsonObject;
use crate::model::BaseModel;

/// A module's parameters, widened to float32, while an adapter is folded into them.
#[derive(Debug, Clone)]
pub struct ModuleWeights {
    /// `[out_features, in_features]`, or `[num_embeddings, embedding_dim]`.
    pub weight: Array2<f32>,
    /// `[out_features]`, where the module has one.
    pub bias: Option<Array1<f32>>,
}

/// A tensor that is bound to an input of the unmerged graph.
#[derive(Debug, Clone)]
pub struct BoundTensor {
    /// The input's name.
    pub name: String,
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// Its elements.
    pub values: Vec<f32>,
}

/// Reads the weight of the module that an adapter belongs to.
pub type ReadWeight<'a> = &'a dyn Fn() -> Result<Array2<f32>, AdapterError>;

/// How an adapter changes one module.
pub trait ModuleAdapter: Debug + Send + Sync {
    /// Folds the adapter into the module.
    ///
    /// # Errors
    /// If its tensors can't be used with these weights.
    fn merge_into(&self, module: &mut ModuleWeights) -> Result<(), AdapterError>;

    /// Whether merging changes or adds the module's bias.
    fn merges_bias(&self) -> bool {
        false
    }

    /// The tensors that the nodes of [`linear`](Self::linear) or [`embedding`](Self::embedding) take as
    /// inputs, with whatever can be worked out beforehand folded in.
    ///
    /// # Errors
    /// If the module's weight is needed and can't be read.
    fn bound_tensors(&self, weight: ReadWeight) -> Result<Vec<BoundTensor>, AdapterError>;

    /// Adds the nodes of a linear layer behind the base's product; returns the layer's output, bias
    /// included.
    fn linear(&self, graph: &mut GraphBuilder, site: &LinearSite) -> Value;

    /// Adds the nodes of an embedding behind the base's rows; returns the rows.
    fn embedding(&self, graph: &mut GraphBuilder, site: &EmbeddingSite) -> Value;

    /// Trainable parameters, as PEFT counts them.
    fn trainable_params(&self) -> usize;
}

/// What prompt learning puts in front of the prompt.
#[derive(Debug, Clone)]
pub enum Prompt {
    /// Rows in front of the token embeddings, `[num_virtual_tokens, embedding_dim]`.
    Virtual(BoundTensor),
    /// Rows of the cache, `[num_virtual_tokens, layers * 2 * num_key_value_heads * head_dim]`.
    Prefix(BoundTensor),
}

impl Prompt {
    /// Tokens that it adds to the sequence.
    pub fn num_virtual_tokens(&self) -> usize {
        match self {
            Self::Virtual(tensor) | Self::Prefix(tensor) => tensor.shape[0],
        }
    }
}

/// What an adapter does to a base model.
#[derive(Debug)]
pub struct Adapter {
    /// `peft_type` of its configuration.
    pub peft_type: String,
    /// Its configuration.
    pub config: JsonObject,
    /// The architecture that it runs on: the base's, or one with replicated layers.
    pub spec: DecoderSpec,
    /// Its tensors; what isn't in `modules` and `prompt` is read when it's needed.
    pub tensors: AdapterTensors,
    effects: Effects,
}

/// What a method found in its configuration and tensors.
#[derive(Debug, Default)]
struct Effects {
    modules: BTreeMap<String, Box<dyn ModuleAdapter>>,
    replaced: BTreeMap<String, Replacement>,
    prompt: Option<Prompt>,
    /// A tied head keeps sharing the embedding's tensor, since both change alike.
    keeps_tie: bool,
    /// Trainable parameters that aren't in the tensors above: an encoder that only training needs.
    encoder_params: usize,
}

impl Adapter {
    /// Loads the adapter in `folder` for `base`, or draws a fresh one with `seed` where the folder has
    /// only a configuration.
    ///
    /// # Errors
    /// If the method isn't supported, an option is, a tensor is missing, has another shape or isn't
    /// used, or a target doesn't exist.
    pub fn load(folder: &Path, base: &BaseModel, seed: u64) -> Result<Self, AdapterError> {
        let config = JsonObject::read(&folder.join("adapter_config.json"))?;
        let mut tensors = AdapterTensors::open(folder, &config, seed)?;
        let (spec, effects) = method::load(&config, base, &mut tensors)?;
        tensors.finish()?;
        Ok(Self {
            peft_type: peft_type(&config)?.to_owned(),
            config,
            spec,
            tensors,
            effects,
        })
    }

    /// The adapter of the module at `path`, if it has one.
    pub fn module(&self, path: &str) -> Option<&dyn ModuleAdapter> {
        self.effects.modules.get(path).map(AsRef::as_ref)
    }

    /// All adapted modules, by path.
    pub fn modules(&self) -> impl Iterator<Item = (&str, &dyn ModuleAdapter)> {
        self.effects
            .modules
            .iter()
            .map(|(path, adapter)| (path.as_str(), adapter.as_ref()))
    }

    /// Parameters that are replaced, by name.
    pub fn replaced(&self) -> &BTreeMap<String, Replacement> {
        &self.effects.replaced
    }

    /// What it puts in front of the prompt.
    pub fn prompt(&self) -> Option<&Prompt> {
        self.effects.prompt.as_ref()
    }

    /// Whether the graph takes virtual tokens.
    pub fn has_virtual_tokens(&self) -> bool {
        matches!(self.effects.prompt, Some(Prompt::Virtual(_)))
    }

    /// Whether a tied head still shares the embedding's tensor after a merge.
    pub fn keeps_tie(&self) -> bool {
        self.effects.keeps_tie
    }

    /// Why it can't be folded into the weights, if so.
    pub fn merge_refusal(&self) -> Option<String> {
        self.effects.prompt.as_ref().map(|_| {
            format!(
                "{} adds virtual tokens, not a change of weights, so it can't be merged",
                self.peft_type
            )
        })
    }

    /// The values of a replaced parameter.
    ///
    /// # Errors
    /// If they can't be read.
    pub fn replacement_values(
        &self,
        base: &BaseModel,
        replacement: &Replacement,
    ) -> Result<Vec<f32>, AdapterError> {
        match &replacement.origin {
            Origin::Adapter => self.tensors.read(&replacement.key),
            Origin::Base(source) => Ok(base.tensor(source)?.to_f32()?),
        }
    }

    /// Trainable parameters, as PEFT's `get_nb_trainable_parameters` counts them.
    pub fn trainable_params(&self) -> usize {
        let modules: usize = self
            .modules()
            .map(|(_, module)| module.trainable_params())
            .sum();
        let replaced = self.effects.replaced.values();
        let replaced: usize = replaced.filter(|r| r.trainable).map(Replacement::len).sum();
        let prompt = match &self.effects.prompt {
            Some(Prompt::Virtual(tensor) | Prompt::Prefix(tensor)) => tensor.values.len(),
            None => 0,
        };
        match self.effects.encoder_params {
            0 => modules + replaced + prompt,
            encoder => modules + replaced + encoder,
        }
    }

    /// Parameters that it adds to the base's: all but those that stand in the base's own place.
    pub fn added_params(&self) -> usize {
        let in_place = self.effects.replaced.values();
        let in_place: usize = in_place
            .filter(|r| r.trainable && !r.is_copy)
            .map(Replacement::len)
            .sum();
        self.trainable_params() - in_place
    }
}
