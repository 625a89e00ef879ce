//! The tensors that an adapter gives to the unmerged graph or its cache.

use std::collections::{BTreeMap, BTreeSet};

use ndarray::Array2;
use rayon::prelude::*;

use super::form::{BaseModule, TensorRole};
use super::{Adapter, AdapterError, ModuleWeights, Prompt};
use crate::arch::{Module, ModuleKind};
use crate::model::BaseModel;
use crate::weights::WriteTensorError;

/// An input of the unmerged graph that one of the adapter's tensors is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphInput {
    /// The input's name.
    pub name: String,
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// How the graph uses it.
    pub role: TensorRole,
    /// `[read, total]`: a token reads `read` of `total` tensors of this kind. `[1, 1]` except for
    /// experts.
    pub share: [usize; 2],
}

/// Receives a tensor's name and its values, in row-major order.
pub type TakeTensor<'a> = &'a (dyn Fn(&str, &[f32]) -> Result<(), WriteTensorError> + Sync);

impl Adapter {
    /// The adapter's inputs of the graph, each once.
    pub fn inputs(&self) -> Vec<GraphInput> {
        const ALWAYS: [usize; 2] = [1, 1];
        let mut all: Vec<GraphInput> = Vec::new();
        let mut seen = BTreeSet::new();
        let modules = self.spec.modules();
        let routed = modules.iter().filter_map(|module| match module.kind {
            ModuleKind::Routed { share, .. } => Some((module.path.as_str(), share)),
            _ => None,
        });
        let shares: BTreeMap<&str, [usize; 2]> = routed.collect();
        for (path, _) in self.modules() {
            let naming = self.naming(path);
            let form = self.unmerged_form(path).expect("it's the path of a module");
            for tensor in form.tensors() {
                let name = naming.input(tensor);
                if seen.insert(name.clone()) {
                    all.push(GraphInput {
                        name,
                        shape: tensor.shape.clone(),
                        role: tensor.role,
                        share: shares.get(path).copied().unwrap_or(ALWAYS),
                    });
                }
            }
        }
        for tensor in self.side_network().iter().flat_map(|own| own.tensors()) {
            all.push(GraphInput {
                name: self.naming("").input(&tensor),
                shape: tensor.shape.clone(),
                role: tensor.role,
                share: ALWAYS,
            });
        }
        for (_, replacement) in self.used_replacements() {
            all.push(GraphInput {
                name: replacement.input.clone(),
                shape: replacement.shape.clone(),
                role: TensorRole::InPlace,
                share: ALWAYS,
            });
        }
        if let Some(Prompt::Virtual(tensor) | Prompt::Prefix(tensor)) = self.prompt() {
            all.push(GraphInput {
                name: tensor.name.clone(),
                shape: tensor.shape.clone(),
                role: TensorRole::Prefill,
                share: ALWAYS,
            });
        }
        all
    }

    /// Calls `take` with the values of each of [`inputs`](Self::inputs). Each thread holds one
    /// module.
    ///
    /// # Errors
    /// If values can't be read or computed, or `take` fails.
    pub fn for_each_input(&self, base: &BaseModel, take: TakeTensor) -> Result<(), AdapterError> {
        let modules = self.spec.modules();
        let modules = modules.iter().map(|module| (module.path.as_str(), module));
        let modules: BTreeMap<&str, &Module> = modules.collect();
        let mut seen = BTreeSet::new();
        let mut work = Vec::new();
        for (path, _) in self.modules() {
            let naming = self.naming(path);
            let form = self.unmerged_form(path).expect("it's the path of a module");
            let names = form
                .tensors()
                .into_iter()
                .map(|tensor| naming.input(tensor));
            let unseen: Vec<String> = names.filter(|name| seen.insert(name.clone())).collect();
            work.push((path, naming, form, unseen));
        }
        work.into_par_iter()
            .try_for_each(|(path, naming, form, unseen)| {
                let module = modules.get(path);
                let own = BaseModule::reading(|| {
                    let module = module
                        .expect("a tensor outside of modules needs no parameters of a module");
                    self.read_module(base, module)
                });
                for tensor in form.tensors() {
                    let name = naming.input(tensor);
                    if unseen.contains(&name) {
                        take(&name, &tensor.values(&own)?)?;
                    }
                }
                Ok::<(), AdapterError>(())
            })?;
        for tensor in self.side_network().iter().flat_map(|own| own.tensors()) {
            let own = BaseModule::of(ModuleWeights::default());
            take(&self.naming("").input(&tensor), &tensor.values(&own)?)?;
        }
        for (_, replacement) in self.used_replacements() {
            let values = self.replacement_values(base, replacement)?;
            take(&replacement.input, &values)?;
        }
        if let Some(Prompt::Virtual(tensor) | Prompt::Prefix(tensor)) = self.prompt() {
            take(&tensor.name, &tensor.values)?;
        }
        Ok(())
    }

    /// The module's parameters before the adapter changes them: replaced ones, or the base's.
    /// Callers have checked the shapes of the base's tensors.
    ///
    /// # Errors
    /// If they can't be read.
    pub fn read_module(
        &self,
        base: &BaseModel,
        module: &Module,
    ) -> Result<ModuleWeights, AdapterError> {
        let read = |name: &str| match self.replaced().get(&format!("{}.{name}", module.path)) {
            Some(replacement) => self.replacement_values(base, replacement),
            None => Ok(base.values_of(&module.tensor(name))?),
        };
        let name = format!("{}.weight", module.path);
        let own = match self.replaced().contains_key(&name) {
            true => None,
            false => base.dequantized(module)?,
        };
        let weight = match own {
            Some(weight) => weight,
            None => {
                let shape = module.parameters().swap_remove(0).1;
                let stored = Array2::from_shape_vec((shape[0], shape[1]), read("weight")?)
                    .expect("callers have checked the shapes of the base's tensors");
                match module.is_stored_in_out() {
                    true => stored.t().as_standard_layout().into_owned(),
                    false => stored,
                }
            }
        };
        let bias = match module.kind {
            ModuleKind::Linear { bias: true, .. } => Some(read("bias")?.into()),
            _ => None,
        };
        Ok(ModuleWeights { weight, bias })
    }
}
