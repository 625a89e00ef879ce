//! PEFT adapters: how one changes a base model.
//!
//! A method reads its configuration and takes its tensors. The result has the same form for all
//! methods, [`Adapter`]: modules whose arithmetic changes ([`ModuleAdapter`]), parameters that are
//! replaced, and tokens or cache rows in front of the prompt. Merging and exporting know only that.

mod adaptation;
mod error;
pub mod folder;
pub mod form;
mod hub;
mod inputs;
mod keys;
mod methods;
mod neutral;
mod peft_options;
mod replaced;
mod set;
mod side_network;
mod targets;
mod task;
mod tensors;
mod token_rows;
mod toolbox;
mod vocabulary;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::path::Path;

use ndarray::{Array1, Array2};

pub use error::AdapterError;
pub use folder::ValuesFrom;
pub use hub::fetch_adapter;
pub use inputs::{GraphInput, TakeTensor};
pub use methods::{
    Class, METHODS, Method, PEFT_TYPES, Residual, expert_folders, names_experts, peft_type,
};
pub use neutral::{Neutral, NeutralInput};
pub use peft_options::{nulls_on_llama, options_inside, options_of};
pub use replaced::{Origin, Replacement};
use replaced::{replace_saved_embeddings, replaces_pair};
pub use set::{AdapterSet, SetError};
pub use side_network::{SideNetwork, SideParameter};
pub use task::Task;
pub use tensors::{AdapterTensors, Init};

pub use self::form::AdapterForm;
use self::form::{Form, Naming, Native};
use crate::arch::{DecoderSpec, Layer};
use crate::json::{ConfigError, JsonObject};
use crate::model::BaseModel;

/// A module's parameters in float32, while an adapter is merged into them.
#[derive(Debug, Clone, Default)]
pub struct ModuleWeights {
    /// `[out_features, in_features]`, or `[num_embeddings, embedding_dim]`.
    pub weight: Array2<f32>,
    /// `[out_features]`, if the module has one.
    pub bias: Option<Array1<f32>>,
}

/// A tensor for an input of the unmerged graph.
#[derive(Debug, Clone)]
pub struct BoundTensor {
    /// The input's name.
    pub name: String,
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// Its elements, in row-major order.
    pub values: Vec<f32>,
}

/// How an adapter changes one module.
pub trait ModuleAdapter: Debug + Send + Sync {
    /// The reduced form of the change. The nodes of the unmerged graph, the tensors bound to them
    /// and the merge follow from it. Values are computed only when they're needed.
    fn form(&self) -> Form<'_>;

    /// Merges the adapter into the module. A method that has a cheaper way than its form overrides
    /// this.
    ///
    /// # Errors
    /// If its tensors can't be used with these weights.
    fn merge_into(&self, module: &mut ModuleWeights) -> Result<(), AdapterError> {
        self.form().merge_into(module)
    }

    /// The method's own computation in every forward pass.
    fn native(&self) -> Native<'_> {
        Native::Missing
    }

    /// For methods that take a part out of the base's weight: what PEFT leaves of it when it loads
    /// the adapter.
    fn residual(&self) -> Option<&Residual> {
        None
    }

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
    /// The number of tokens that it adds to the sequence.
    pub fn num_virtual_tokens(&self) -> usize {
        match self {
            Self::Virtual(tensor) | Self::Prefix(tensor) => tensor.shape[0],
        }
    }
}

/// Parameter counts of prompt learning, as PEFT counts them. They include the encoder that makes
/// the prompt in training, even if the file holds only its output.
#[derive(Debug, Clone, Copy, Default)]
struct PromptCounts {
    trainable: usize,
    frozen: usize,
    /// The number of elements in the adapter's file.
    saved: usize,
}

impl PromptCounts {
    /// Counts of a prompt that's trained and saved without an encoder.
    fn plain(elements: usize) -> Self {
        Self {
            trainable: elements,
            frozen: 0,
            saved: elements,
        }
    }
}

/// An adapter, loaded for a base model.
#[derive(Debug)]
pub struct Adapter {
    /// `peft_type` of its configuration.
    pub peft_type: String,
    /// Its configuration.
    pub config: JsonObject,
    /// The architecture that it runs on: the base's, or one with replicated layers.
    pub spec: DecoderSpec,
    /// Its tensors. Those that aren't in `modules` or `prompt` are read when they're needed.
    pub tensors: AdapterTensors,
    /// The form of its nodes when it isn't merged.
    pub adapter_form: AdapterForm,
    effects: Effects,
    /// The base with the adapter's vocabulary size, if the base's differs.
    resized: Option<BaseModel>,
}

/// What a method's loader returns.
#[derive(Debug, Default)]
struct Effects {
    modules: BTreeMap<String, Box<dyn ModuleAdapter>>,
    replaced: BTreeMap<String, Replacement>,
    prompt: Option<Prompt>,
    /// Whether a tied head keeps sharing the embedding's tensor, since both change alike.
    keeps_tie: bool,
    /// Parameter counts of prompt learning.
    prompt_counts: PromptCounts,
    /// Trainable parameters that several modules share.
    shared_params: usize,
    /// Parameters that PEFT adds and doesn't train.
    frozen_params: usize,
    /// The architecture, if it isn't the base's.
    spec: Option<DecoderSpec>,
    /// The task that it was loaded for, if its method has tasks.
    task: Option<Task>,
    /// If set, the adapter acts from the last occurrence of these tokens in the prompt on.
    invocation: Option<Vec<u32>>,
    /// Whether the output for a token depends on all tokens of the call.
    whole_calls: bool,
    /// A network that runs with the decoder.
    side_network: Option<Box<dyn SideNetwork>>,
    /// Why it can't be merged: a clause whose subject is the method.
    unmergeable: Option<&'static str>,
    /// Bytes of the tensors of its experts, and whether an expert was drawn fresh.
    expert_bytes: u64,
    has_fresh_experts: bool,
    /// Notes for the user about its experts.
    expert_notes: Vec<String>,
}

/// Refuses what a base of this architecture can't be given.
fn refuse_unfit(
    effects: &Effects,
    config: &JsonObject,
    spec: &DecoderSpec,
    is_resized: bool,
) -> Result<(), ConfigError> {
    let refused = |reason: &str| {
        let reason = format!("a `{}` {reason}", spec.model_type);
        Err(config.refused("peft_type", &reason))
    };
    if spec.takes_whole_prompts() && effects.prompt.is_some() {
        return refused(
            "sees its prompt in both directions, and with prompt learning PEFT drops the `token_type_ids` that say so",
        );
    }
    let by_layer = spec.per_layer.as_ref();
    let needs_ids = by_layer.is_some_and(|per_layer| !per_layer.takes_virtual_tokens);
    if needs_ids && matches!(effects.prompt, Some(Prompt::Virtual(_))) {
        return refused(
            "has an embedding for each layer, which virtual tokens lack; PEFT fails, too",
        );
    }
    let other_layers = effects.spec.as_ref();
    let other_layers = other_layers.is_some_and(|other| other.layers.len() != spec.layers.len());
    if spec.has_more_than_a_stream() && (effects.side_network.is_some() || other_layers) {
        return refused(
            "has layers that take more than the layer before gives, so it can't be run a second time or with other layers here",
        );
    }
    if by_layer.is_some() && is_resized {
        return refused("has an embedding for each layer, of which new tokens' rows are unknown");
    }
    Ok(())
}

impl Effects {
    /// Counts the file of an expert, an adapter that this one mixes.
    fn add_expert(&mut self, expert: &methods::Expert) {
        self.expert_bytes += expert.stored_bytes;
        self.has_fresh_experts |= expert.fresh;
        self.expert_notes.extend_from_slice(&expert.notes);
    }
}

impl Adapter {
    /// Loads the adapter in `folder` for `base`. If the folder has only a configuration and nothing
    /// shows that it was trained, it's drawn fresh with `seed`.
    ///
    /// # Errors
    /// If the method or an option isn't supported, a target doesn't exist, or a tensor is missing,
    /// unused or of another shape.
    pub fn load(folder: &Path, base: &BaseModel, seed: u64) -> Result<Self, AdapterError> {
        Self::load_for_task(folder, base, seed, ValuesFrom::default(), None)
    }

    /// Like [`load`](Self::load), with a choice of where values come from, and of the task for
    /// methods that have several.
    ///
    /// # Errors
    /// As [`load`](Self::load); also if the method has no tasks, or fewer than asked for.
    pub fn load_for_task(
        folder: &Path,
        base: &BaseModel,
        seed: u64,
        values: ValuesFrom,
        task_id: Option<usize>,
    ) -> Result<Self, AdapterError> {
        let config = JsonObject::read(&folder.join(folder::CONFIG))?;
        let tensors = AdapterTensors::open(folder, &config, seed, values)?;
        Self::of(config, tensors, base, task_id)
    }

    /// A fresh adapter for the configuration in `folder`, for its shapes and counts alone: its
    /// tensors have no values, nothing is drawn, and only the architecture and the tensors' dtypes
    /// of `base` are read.
    ///
    /// # Errors
    /// If the method or an option isn't supported, or a target doesn't exist.
    pub fn without_values(folder: &Path, base: &BaseModel) -> Result<Self, AdapterError> {
        let config = JsonObject::read(&folder.join(folder::CONFIG))?;
        let tensors = AdapterTensors::without_values(&config)?;
        Self::of(config, tensors, base, None)
    }

    /// The adapter in `folder`, for its configuration and its tensors' names and shapes. Of `base`,
    /// only the architecture and the tensors' dtypes are read.
    ///
    /// # Errors
    /// As [`load_for_task`](Self::load_for_task).
    pub fn without_base_weights(
        folder: &Path,
        base: &BaseModel,
        values: ValuesFrom,
        task_id: Option<usize>,
    ) -> Result<Self, AdapterError> {
        let config = JsonObject::read(&folder.join(folder::CONFIG))?;
        let tensors = AdapterTensors::without_base_weights(folder, &config, values)?;
        Self::of(config, tensors, base, task_id)
    }

    fn of(
        config: JsonObject,
        mut tensors: AdapterTensors,
        base: &BaseModel,
        task_id: Option<usize>,
    ) -> Result<Self, AdapterError> {
        let config = tensors.spell(&config, &base.spec);
        let size = vocabulary::size_in_file(&config, &tensors, &base.spec);
        let mut resized = size.map(|size| base.resized(size));
        let seen = resized.as_ref().unwrap_or(base);
        let mut effects = match methods::load(&config, seen, &mut tensors, task_id) {
            Err(error) if resized.is_none() => {
                let size = vocabulary::size_of_mismatch(&error, &base.spec).ok_or(error)?;
                tensors.begin_again();
                let seen = resized.insert(base.resized(size));
                methods::load(&config, seen, &mut tensors, task_id)?
            }
            loaded => loaded?,
        };
        let seen = resized.as_ref().unwrap_or(base);
        refuse_unfit(&effects, &config, &seen.spec, resized.is_some())?;
        let modules = effects.spec.as_ref().unwrap_or(&seen.spec).modules();
        replace_saved_embeddings(&mut effects, &mut tensors, seen, &modules)?;
        if let Some(resized) = &resized {
            vocabulary::complete(&mut effects, &tensors, resized)?;
            vocabulary::note(&mut tensors, base, resized.spec.vocab_size);
        }
        effects.keeps_tie |= replaces_pair(&effects, &seen.spec);
        tensors.finish()?;
        for note in std::mem::take(&mut effects.expert_notes) {
            tensors.note(note);
        }
        let spec = effects.spec.take();
        Ok(Self {
            peft_type: peft_type(&config)?.to_owned(),
            config,
            spec: spec.unwrap_or_else(|| resized.as_ref().unwrap_or(base).spec.clone()),
            tensors,
            adapter_form: AdapterForm::default(),
            effects,
            resized,
        })
    }

    /// Chooses the form of its nodes when it isn't merged.
    ///
    /// # Errors
    /// If the method's own computation isn't implemented for one of its modules.
    pub fn with_form(mut self, form: AdapterForm) -> Result<Self, AdapterError> {
        self.adapter_form = form;
        let missing = |(_, module): &(&str, &dyn ModuleAdapter)| {
            form == AdapterForm::Native && matches!(module.native(), Native::Missing)
        };
        if let Some((path, _)) = self.modules().find(missing) {
            return Err(AdapterError::Form {
                path: path.to_owned(),
                peft_type: self.peft_type.clone(),
            });
        }
        Ok(self)
    }

    /// The base to use: `base`, which it was loaded for, with the adapter's vocabulary size.
    pub fn base<'a>(&'a self, base: &'a BaseModel) -> &'a BaseModel {
        self.resized.as_ref().unwrap_or(base)
    }

    /// How the unmerged graph changes the module at `path`, if it does.
    pub fn unmerged_form(&self, path: &str) -> Option<Form<'_>> {
        let module = self.module(path)?;
        Some(match (self.adapter_form, module.native()) {
            (AdapterForm::Native, Native::Own(own)) => Form::Native(own),
            _ => module.form(),
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

    /// How the graph's inputs for the module at `path` are named.
    pub fn naming(&self, path: &str) -> Naming {
        let method = self.peft_type.to_lowercase();
        Naming {
            path: path.to_owned(),
            derived: format!("{}{path}.{method}.", tensors::PREFIX),
        }
    }

    /// Replaced parameters by name, without those that the module's form replaces itself.
    pub fn used_replacements(&self) -> impl Iterator<Item = (&str, &Replacement)> {
        self.effects.replaced.iter().filter_map(|(name, found)| {
            let (path, parameter) = name.rsplit_once('.')?;
            let own = self.unmerged_form(path);
            let used = !own.is_some_and(|own| own.replaces(parameter));
            used.then_some((name.as_str(), found))
        })
    }

    /// Names of the base's weights that the unmerged graph doesn't use.
    pub fn replaced_weights(&self) -> BTreeSet<String> {
        let forms = self.modules().filter_map(|(path, _)| {
            let form = self.unmerged_form(path)?;
            form.replaces("weight").then(|| format!("{path}.weight"))
        });
        let others = self.used_replacements().map(|(name, _)| name.to_owned());
        let weights = others.filter(|name| name.ends_with(".weight"));
        forms.chain(weights).collect()
    }

    /// All replaced parameters, by name.
    pub fn replaced(&self) -> &BTreeMap<String, Replacement> {
        &self.effects.replaced
    }

    /// What it puts in front of the prompt.
    pub fn prompt(&self) -> Option<&Prompt> {
        self.effects.prompt.as_ref()
    }

    /// The task that it was loaded for; `None` if its method has no tasks.
    pub fn task(&self) -> Option<Task> {
        self.effects.task
    }

    /// Whether a tied head still shares the embedding's tensor after a merge.
    pub fn keeps_tie(&self) -> bool {
        self.effects.keeps_tie
    }

    /// The adapter acts from the last occurrence of these tokens in the prompt on; `None` if it
    /// always does.
    pub fn invocation(&self) -> Option<&[u32]> {
        self.effects.invocation.as_deref()
    }

    /// The network that runs with the decoder, if the method has one.
    pub fn side_network(&self) -> Option<&dyn SideNetwork> {
        self.effects.side_network.as_deref()
    }

    /// Layers with a cache of their own that the side network adds after those of the architecture.
    pub fn more_layers(&self) -> &[Layer] {
        let network = self.side_network();
        network.map_or(&[], |network| network.layers(&self.spec))
    }

    /// Why it can't be merged; `None` if it can.
    pub fn merge_refusal(&self) -> Option<String> {
        let tokens = "adds virtual tokens, not a change of weights";
        let prompt = self.effects.prompt.as_ref().map(|_| tokens);
        let reason = prompt.or(self.effects.unmergeable)?;
        Some(format!(
            "{} {reason}, so it can't be merged",
            self.peft_type
        ))
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
            Origin::Slice(first) => {
                let part = *first..first + replacement.len();
                self.tensors.read_part(&replacement.key, part)
            }
            Origin::Base(source) => Ok(base.values_of(source)?),
            Origin::Rows(source) => {
                let mut values = base.values_of(source)?;
                values.resize(replacement.len(), 0.0);
                Ok(values)
            }
            Origin::Zeros => Ok(vec![0.0; replacement.len()]),
        }
    }

    /// Notes for the user about how it was loaded.
    pub fn notes(&self) -> &[String] {
        self.tensors.notes()
    }

    /// Whether its values, or those of an expert, were drawn fresh.
    pub fn is_fresh(&self) -> bool {
        self.tensors.is_fresh() || self.effects.has_fresh_experts
    }

    /// Bytes of its tensors as stored, its experts' included; for a fresh one in float32.
    pub fn stored_bytes(&self) -> u64 {
        let own = self.tensors.stored_bytes();
        own.unwrap_or(4 * self.saved_params() as u64) + self.effects.expert_bytes
    }

    /// Trainable parameters, as PEFT's `get_nb_trainable_parameters` counts them.
    pub fn trainable_params(&self) -> usize {
        let modules: usize = self
            .modules()
            .map(|(_, module)| module.trainable_params())
            .sum();
        let replaced = self.effects.replaced.values();
        let replaced: usize = replaced.filter(|r| r.trainable).map(Replacement::len).sum();
        let prompt = self.effects.prompt_counts.trainable;
        modules + replaced + self.effects.shared_params + prompt
    }

    /// The number of elements that a file of a fresh adapter would hold.
    pub fn saved_params(&self) -> usize {
        let prompt = self.effects.prompt_counts;
        self.trainable_params() - prompt.trainable + prompt.saved
    }

    /// Parameters that it adds to the base's. Those that replace a parameter of the base don't
    /// count.
    pub fn added_params(&self) -> usize {
        let in_place = self.effects.replaced.values();
        let in_place: usize = in_place
            .filter(|r| r.trainable && !r.is_copy)
            .map(Replacement::len)
            .sum();
        let frozen = self.effects.frozen_params + self.effects.prompt_counts.frozen;
        self.trainable_params() + frozen - in_place
    }
}

#[cfg(test)]
mod tests;
