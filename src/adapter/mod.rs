//! PEFT adapters: what one does to a base model, whatever its method.
//!
//! A method reads its configuration and asks for its tensors; what comes out is the same for all of
//! them ([`Adapter`]): modules whose arithmetic changes ([`ModuleAdapter`]), parameters that are
//! replaced, tokens or cache rows in front of the prompt. Merging and exporting know only that.

mod adaptation;
mod error;
pub mod folder;
pub mod form;
mod hub;
mod inputs;
mod keys;
mod methods;
mod replaced;
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
pub use folder::Values;
pub use hub::fetch_adapter;
pub use inputs::{GraphInput, TakeTensor};
pub use methods::{
    Class, METHODS, Method, PEFT_TYPES, Residual, expert_folders, names_experts, peft_type,
};
pub use replaced::{Origin, Replacement};
use replaced::{replace_saved_embeddings, replaces_pair};
pub use side_network::{SideNetwork, SideParameter};
pub use task::Task;
pub use tensors::{AdapterTensors, Init};

pub use self::form::AdapterForm;
use self::form::{Form, Naming, Native};
use crate::arch::{DecoderSpec, Layer};
use crate::json::JsonObject;
use crate::model::BaseModel;

/// A module's parameters, widened to float32, while an adapter is folded into them.
#[derive(Debug, Clone, Default)]
pub struct ModuleWeights {
    /// `[out_features, in_features]`, or `[num_embeddings, embedding_dim]`.
    pub weight: Array2<f32>,
    /// `[out_features]`, where the module has one.
    pub bias: Option<Array1<f32>>,
}

/// Values for an input of the unmerged graph.
#[derive(Debug, Clone)]
pub struct BoundTensor {
    /// The input's name.
    pub name: String,
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// Its elements.
    pub values: Vec<f32>,
}

/// How an adapter changes one module.
pub trait ModuleAdapter: Debug + Send + Sync {
    /// What its tensors reduce to. The nodes of the unmerged graph, the tensors bound to them and the
    /// merge follow from it; values are worked out only when they're asked for.
    fn form(&self) -> Form<'_>;

    /// Folds the adapter into the module. Only a method that has a shorter way than its form says so
    /// itself.
    ///
    /// # Errors
    /// If its tensors can't be used with these weights.
    fn merge_into(&self, module: &mut ModuleWeights) -> Result<(), AdapterError> {
        self.form().merge_into(module)
    }

    /// What the method itself computes at every forward.
    fn native(&self) -> Native<'_> {
        Native::Missing
    }

    /// What PEFT leaves of the base's weight when it loads the adapter, where it takes something out.
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
    /// Tokens that it adds to the sequence.
    pub fn num_virtual_tokens(&self) -> usize {
        match self {
            Self::Virtual(tensor) | Self::Prefix(tensor) => tensor.shape[0],
        }
    }
}

/// Parameters of prompt learning, as PEFT counts them: those of what makes the prompt in training, of which
/// a file may hold only the outcome.
#[derive(Debug, Clone, Copy, Default)]
struct PromptCounts {
    trainable: usize,
    frozen: usize,
    /// Elements in the adapter's file.
    saved: usize,
}

impl PromptCounts {
    /// Of what's trained and saved as it is.
    fn plain(elements: usize) -> Self {
        Self {
            trainable: elements,
            frozen: 0,
            saved: elements,
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
    /// Which nodes it gets where it isn't merged.
    pub adapter_form: AdapterForm,
    effects: Effects,
    /// The base with the vocabulary that the adapter was trained with, where that's another one.
    resized: Option<BaseModel>,
}

/// What a method found in its configuration and tensors.
#[derive(Debug, Default)]
struct Effects {
    modules: BTreeMap<String, Box<dyn ModuleAdapter>>,
    replaced: BTreeMap<String, Replacement>,
    prompt: Option<Prompt>,
    /// A tied head keeps sharing the embedding's tensor, since both change alike.
    keeps_tie: bool,
    /// Parameters of what makes the prompt.
    prompt_counts: PromptCounts,
    /// Trainable parameters that several modules share.
    shared_params: usize,
    /// Parameters that PEFT adds and doesn't train.
    frozen_params: usize,
    /// The architecture, where it isn't the base's.
    spec: Option<DecoderSpec>,
    /// The task that it was loaded for, of methods that have several.
    task: Option<Task>,
    /// Tokens of the prompt from whose last occurrence on the adapter acts.
    invocation: Option<Vec<u32>>,
    /// What it computes depends on all tokens of a call together.
    whole_calls: bool,
    /// What it adds to the model as a whole.
    side_network: Option<Box<dyn SideNetwork>>,
    /// What it does that can't be merged.
    unmergeable: Option<&'static str>,
    /// Bytes of the tensors of adapters that it mixes, and whether one of them was drawn fresh.
    expert_bytes: u64,
    has_fresh_experts: bool,
    /// What users should be told of how those are taken.
    expert_notes: Vec<String>,
}

impl Effects {
    /// Counts the file of an adapter that this one mixes.
    fn add_expert(&mut self, expert: &methods::Expert) {
        self.expert_bytes += expert.stored_bytes;
        self.has_fresh_experts |= expert.fresh;
        self.expert_notes.extend_from_slice(&expert.notes);
    }
}

impl Adapter {
    /// Loads the adapter in `folder` for `base`, or draws a fresh one with `seed` where the folder has
    /// only a configuration, and nothing says that there were weights.
    ///
    /// # Errors
    /// If the method isn't supported, an option is, a tensor is missing, has another shape or isn't
    /// used, or a target doesn't exist.
    pub fn load(folder: &Path, base: &BaseModel, seed: u64) -> Result<Self, AdapterError> {
        Self::load_for_task(folder, base, seed, Values::default(), None)
    }

    /// The same with the values that are asked for, and for one task of a method that has several.
    ///
    /// # Errors
    /// If the method has none, or there's no such task.
    pub fn load_for_task(
        folder: &Path,
        base: &BaseModel,
        seed: u64,
        values: Values,
        task_id: Option<usize>,
    ) -> Result<Self, AdapterError> {
        let config = JsonObject::read(&folder.join(folder::CONFIG))?;
        let tensors = AdapterTensors::open(folder, &config, seed, values)?;
        Self::of(config, tensors, base, task_id)
    }

    /// The fresh adapter of the configuration in `folder`, for its shapes and counts alone: its tensors
    /// have no values, nothing is drawn, and of `base` only the architecture and the tensors' types are
    /// read.
    ///
    /// # Errors
    /// If the method or an option isn't supported, or a target doesn't exist.
    pub fn without_values(folder: &Path, base: &BaseModel) -> Result<Self, AdapterError> {
        let config = JsonObject::read(&folder.join(folder::CONFIG))?;
        let tensors = AdapterTensors::without_values(&config)?;
        Self::of(config, tensors, base, None)
    }

    fn of(
        config: JsonObject,
        mut tensors: AdapterTensors,
        base: &BaseModel,
        task_id: Option<usize>,
    ) -> Result<Self, AdapterError> {
        let config = tensors.spell(&config, &base.spec);
        let told = vocabulary::told(&config, &tensors, &base.spec);
        let mut resized = told.map(|size| base.resized(size));
        let seen = resized.as_ref().unwrap_or(base);
        let mut effects = match methods::load(&config, seen, &mut tensors, task_id) {
            Err(error) if resized.is_none() => {
                let size = vocabulary::of_mismatch(&error, &base.spec).ok_or(error)?;
                tensors.begin_again();
                let seen = resized.insert(base.resized(size));
                methods::load(&config, seen, &mut tensors, task_id)?
            }
            loaded => loaded?,
        };
        let seen = resized.as_ref().unwrap_or(base);
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

    /// The same with other nodes where it isn't merged.
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

    /// `base`, which it was loaded for, with the vocabulary that it was trained with.
    pub fn base<'a>(&'a self, base: &'a BaseModel) -> &'a BaseModel {
        self.resized.as_ref().unwrap_or(base)
    }

    /// What the unmerged graph does to the module at `path`, if anything.
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

    /// How the inputs of the module at `path` are called.
    pub fn naming(&self, path: &str) -> Naming {
        let method = self.peft_type.to_lowercase();
        Naming {
            path: path.to_owned(),
            derived: format!("{}{path}.{method}.", tensors::PREFIX),
        }
    }

    /// Parameters that are replaced and still used where forms replace some themselves, by name.
    pub fn used_replacements(&self) -> impl Iterator<Item = (&str, &Replacement)> {
        self.effects.replaced.iter().filter_map(|(name, found)| {
            let (path, parameter) = name.rsplit_once('.')?;
            let own = self.unmerged_form(path);
            let used = !own.is_some_and(|own| own.replaces(parameter));
            used.then_some((name.as_str(), found))
        })
    }

    /// Names of the weights that the unmerged graph has others for, whatever these are.
    pub fn replaced_weights(&self) -> BTreeSet<String> {
        let forms = self.modules().filter_map(|(path, _)| {
            let form = self.unmerged_form(path)?;
            form.replaces("weight").then(|| format!("{path}.weight"))
        });
        let others = self.used_replacements().map(|(name, _)| name.to_owned());
        let weights = others.filter(|name| name.ends_with(".weight"));
        forms.chain(weights).collect()
    }

    /// Parameters that are replaced, by name.
    pub fn replaced(&self) -> &BTreeMap<String, Replacement> {
        &self.effects.replaced
    }

    /// What it puts in front of the prompt.
    pub fn prompt(&self) -> Option<&Prompt> {
        self.effects.prompt.as_ref()
    }

    /// The task that it was loaded for; `None` where its method has none.
    pub fn task(&self) -> Option<Task> {
        self.effects.task
    }

    /// Whether the graph takes virtual tokens.
    pub fn has_virtual_tokens(&self) -> bool {
        matches!(self.effects.prompt, Some(Prompt::Virtual(_)))
    }

    /// Whether a tied head still shares the embedding's tensor after a merge.
    pub fn keeps_tie(&self) -> bool {
        self.effects.keeps_tie
    }

    /// The tokens from whose last occurrence in the prompt on the adapter acts; `None` where it always does.
    pub fn invocation(&self) -> Option<&[u32]> {
        self.effects.invocation.as_deref()
    }

    /// What it adds to the model as a whole, apart from what it does to modules.
    pub fn side_network(&self) -> Option<&dyn SideNetwork> {
        self.effects.side_network.as_deref()
    }

    /// Layers of the unmerged graph that have a cache of their own, behind those of the architecture.
    pub fn more_layers(&self) -> &[Layer] {
        let network = self.side_network();
        network.map_or(&[], |network| network.layers(&self.spec))
    }

    /// Whether what it computes depends on all tokens of a call together: a prompt can't be split then, and every
    /// position of the last layer counts.
    pub fn takes_whole_calls(&self) -> bool {
        self.effects.whole_calls
    }

    /// Why it can't be folded into the weights, if so.
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
            Origin::Part(first) => {
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

    /// What users should be told of how it's taken.
    pub fn notes(&self) -> &[String] {
        self.tensors.notes()
    }

    /// Whether its values, or those of an adapter that it mixes, were drawn fresh.
    pub fn is_fresh(&self) -> bool {
        self.tensors.is_fresh() || self.effects.has_fresh_experts
    }

    /// Bytes of its tensors as stored, with those of adapters that it mixes; for a fresh one in float32.
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

    /// Elements that a file of a fresh adapter would hold.
    pub fn saved_params(&self) -> usize {
        let prompt = self.effects.prompt_counts;
        self.trainable_params() - prompt.trainable + prompt.saved
    }

    /// Parameters that it adds to the base's: all but those that stand in the base's own place.
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
