//! What methods that adapt modules share: the options that select modules, the biases and whole
//! modules that are replaced, and the loop over the selected modules.

use std::collections::BTreeSet;

use super::read_past::refuse_read_past;
use crate::adapter::replaced::{replace_base_layer, replace_biases, replace_modules};
use crate::adapter::targets::{DefaultTable, Targets};
use crate::adapter::{AdapterError, AdapterTensors, Effects, ModuleAdapter};
use crate::arch::{Module, ModuleKind, last_name};
use crate::json::JsonObject;
use crate::model::BaseModel;

/// The arguments of a method's loader.
#[derive(Debug)]
pub struct Loading<'a> {
    /// `adapter_config.json`
    pub config: &'a JsonObject,
    /// The base model.
    pub base: &'a BaseModel,
    /// The adapter's tensors.
    pub tensors: &'a mut AdapterTensors,
    /// The task that was asked for, for methods that have several.
    pub task_id: Option<usize>,
}

/// A linear layer to adapt.
#[derive(Debug, Clone)]
pub struct TargetLinear {
    /// The module.
    pub module: Module,
    /// Columns of the weight.
    pub in_features: usize,
    /// Rows of the weight.
    pub out_features: usize,
    /// Whether the base has a bias.
    pub bias: bool,
}

impl TargetLinear {
    /// The module's path.
    pub fn path(&self) -> &str {
        &self.module.path
    }

    /// The key of its tensor `name`.
    pub fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.module.path)
    }

    /// Elements of the weight.
    pub fn elements(&self) -> usize {
        self.in_features * self.out_features
    }
}

/// An embedding to adapt.
#[derive(Debug, Clone)]
pub struct TargetEmbedding {
    /// The module.
    pub module: Module,
    /// The number of rows.
    pub num_embeddings: usize,
    /// The width of a row.
    pub embedding_dim: usize,
}

impl TargetEmbedding {
    /// The key of its tensor `name`.
    pub fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.module.path)
    }
}

/// A module to adapt.
#[derive(Debug, Clone)]
pub enum TargetModule {
    /// A linear layer.
    Linear(TargetLinear),
    /// The token embedding.
    Embedding(TargetEmbedding),
}

/// A method that adapts modules, after its targets were selected and before its tensors are read.
#[derive(Debug)]
pub struct Tuner<'a> {
    /// `adapter_config.json`
    pub config: &'a JsonObject,
    /// The base model.
    pub base: &'a BaseModel,
    /// The adapter's tensors.
    pub tensors: &'a mut AdapterTensors,
    /// The selected modules, in the order in which PEFT visits them.
    pub selected: Vec<Module>,
    effects: Effects,
}

impl<'a> Tuner<'a> {
    /// Reads the shared options. `defaults` are targets by model type; `own_bias` is the method's
    /// own value of the option `bias` (`lora_only`), if it has that option.
    ///
    /// # Errors
    /// If an option is wrong, or a replaced parameter is missing or has another shape.
    pub fn open(
        loading: Loading<'a>,
        defaults: DefaultTable,
        own_bias: Option<&str>,
    ) -> Result<Self, AdapterError> {
        let Loading {
            config,
            base,
            tensors,
            ..
        } = loading;
        let modules = base.spec.modules();
        let targets = Targets::with_defaults(config, &base.spec.model_type, defaults)?;
        let selected = without_experts(&targets, targets.select(config, tensors, &modules)?, base);
        refuse_read_past(config, base, &selected)?;
        let mut effects = Effects::default();
        let saved = targets.saved(config, tensors, &modules)?;
        replace_modules(&mut effects, tensors, &base.spec, &saved)?;
        if let Some(own) = own_bias {
            replace_biases(&mut effects, tensors, config, own, &modules, &selected)?;
        }
        for module in &selected {
            replace_base_layer(&mut effects, tensors, base, module)?;
        }
        Ok(Self {
            config,
            base,
            tensors,
            selected,
            effects,
        })
    }

    /// Paths of selected modules for which the file holds another base weight. PEFT loads it after
    /// it has computed the adapter's parts from the base's own.
    pub fn reweighted(&self) -> BTreeSet<String> {
        let paths = self.selected.iter().map(|module| &module.path);
        let other = |path: &&String| {
            self.effects
                .replaced
                .contains_key(&format!("{path}.weight"))
        };
        paths.filter(other).cloned().collect()
    }

    /// Refuses such files, for methods that compute parts from the base's weight.
    ///
    /// # Errors
    /// If the file holds another base weight.
    pub fn refuse_reweighted(&self) -> Result<(), AdapterError> {
        match self.reweighted().first() {
            None => Ok(()),
            Some(path) => Err(self.tensors.layout(format!(
                "`{path}.base_layer.weight` isn't the base's weight, and PEFT would compute this method from both: use the \
                 base that the adapter was made for"
            ))),
        }
    }

    /// The selected modules, which must all be linear layers.
    ///
    /// # Errors
    /// If one isn't.
    pub fn layers(&self) -> Result<Vec<TargetLinear>, AdapterError> {
        let selected = self.selected.iter();
        selected
            .map(|module| match target_module(self.base, module) {
                Some(TargetModule::Linear(layer)) => Ok(layer),
                _ => Err(not_adaptable(self.config, module, "linear layers")),
            })
            .collect()
    }

    /// Adapts every selected module, all of which must be linear layers.
    ///
    /// # Errors
    /// If one isn't, or `make` fails.
    pub fn adapt<A: ModuleAdapter + 'static>(
        mut self,
        mut make: impl FnMut(&mut AdapterTensors, &TargetLinear) -> Result<A, AdapterError>,
    ) -> Result<Effects, AdapterError> {
        for layer in self.layers()? {
            let adapter = make(self.tensors, &layer)?;
            self.insert(&layer.module.path, Box::new(adapter));
        }
        Ok(self.effects)
    }

    /// Adapts every selected module: linear layers, and the token embedding.
    ///
    /// # Errors
    /// If one is something else, or `make` fails.
    pub fn adapt_any(
        mut self,
        mut make: impl FnMut(
            &mut AdapterTensors,
            &TargetModule,
        ) -> Result<Box<dyn ModuleAdapter>, AdapterError>,
    ) -> Result<Effects, AdapterError> {
        for module in std::mem::take(&mut self.selected) {
            let allowed = "linear layers and the token embedding";
            let target = target_module(self.base, &module)
                .ok_or_else(|| not_adaptable(self.config, &module, allowed))?;
            let adapter = make(self.tensors, &target)?;
            self.insert(&module.path, adapter);
        }
        Ok(self.effects)
    }

    /// Sets the adapter of the module at `path`.
    pub fn insert(&mut self, path: &str, adapter: Box<dyn ModuleAdapter>) {
        self.effects.modules.insert(path.to_owned(), adapter);
    }

    /// Counts trainable parameters that modules share.
    pub fn count_shared(&mut self, trainable: usize) {
        self.effects.shared_params += trainable;
    }

    /// Counts parameters that PEFT adds and doesn't train, without buffers.
    pub fn count_frozen(&mut self, frozen: usize) {
        self.effects.frozen_params += frozen;
    }
}

/// The module as one to adapt; `None` if methods can't adapt its kind.
pub fn target_module(base: &BaseModel, module: &Module) -> Option<TargetModule> {
    match module.kind {
        ModuleKind::Linear {
            in_features,
            out_features,
            bias,
            ..
        } => Some(TargetModule::Linear(TargetLinear {
            module: module.clone(),
            in_features,
            out_features,
            bias,
        })),
        ModuleKind::Embedding {
            num_embeddings,
            embedding_dim,
        } if module.path == base.spec.embed_tokens.path => {
            Some(TargetModule::Embedding(TargetEmbedding {
                module: module.clone(),
                num_embeddings,
                embedding_dim,
            }))
        }
        _ => None,
    }
}

/// Removes experts from the selected modules. In Transformers they are parts of stacked tensors,
/// not modules, so PEFT ignores them. One remains, to be refused, if the user's list names it and
/// no other module has that name, or if nothing else is selected.
pub fn without_experts(targets: &Targets, selected: Vec<Module>, base: &BaseModel) -> Vec<Module> {
    let is_expert = |module: &Module| {
        matches!(module.kind, ModuleKind::Routed { .. }) && !base.spec.is_router(&module.path)
    };
    let name = |module: &Module| last_name(&module.path).to_owned();
    let (experts, mut others): (Vec<_>, Vec<_>) = selected.into_iter().partition(is_expert);
    let names: BTreeSet<_> = others.iter().map(name).collect();
    let stays = |module: &Module| {
        names.is_empty() || (targets.are_listed() && !names.contains(&name(module)))
    };
    others.extend(experts.into_iter().filter(stays));
    others
}

/// The error for a selected module that the method can't adapt.
pub fn not_adaptable(config: &JsonObject, module: &Module, allowed: &str) -> AdapterError {
    AdapterError::Targets {
        path: config.path().to_owned(),
        message: format!(
            "`target_modules` selects `{}`, which this method can't adapt; only {allowed} are supported",
            module.path
        ),
    }
}
