//! What an adapter changes, and where a LoRA adapter can hold it.

use std::collections::{BTreeMap, BTreeSet};

use ndarray::Array1;

use super::ConvertError;
use super::pair::Change;
use crate::adapter::form::{BaseModule, Delta, EmbeddingForm, Form, FormTensor, LinearForm};
use crate::adapter::{Adapter, AdapterError, BoundTensor, ModuleAdapter, ModuleWeights, Origin};
use crate::arch::{Module, ModuleKind};
use crate::model::BaseModel;

/// Names that PEFT writes before every module's path.
pub const PREFIX: &str = "base_model.model.";

const SAVED: &str = "modules_to_save";
const TOKENS: &str = "trainable_token_indices";

/// What a LoRA adapter holds besides pairs.
#[derive(Debug, Default)]
pub struct Carried {
    /// Tensors that are copied.
    pub tensors: Vec<BoundTensor>,
    /// Options of the configuration that go with them, as they are.
    pub options: Vec<&'static str>,
    /// New values of the biases that change, by the module's path; of modules that have one.
    pub biases: BTreeMap<String, Vec<f32>>,
}

/// What an adapter changes.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The modules that get a pair.
    pub modules: Vec<(&'a Module, &'a dyn ModuleAdapter)>,
    /// What else there is.
    pub carried: Carried,
}

impl<'a> Plan<'a> {
    /// Goes through all that `adapter` changes.
    ///
    /// # Errors
    /// If LoRA can't hold something.
    pub fn of(
        adapter: &'a Adapter,
        base: &BaseModel,
        modules: &'a [Module],
    ) -> Result<Self, ConvertError> {
        if let Some(reason) = adapter.merge_refusal() {
            return Err(ConvertError::NoDelta { reason });
        }
        let mut plan = Self {
            modules: Vec::new(),
            carried: Carried::default(),
        };
        let by_path: BTreeMap<&str, &Module> =
            modules.iter().map(|m| (m.path.as_str(), m)).collect();
        for (path, own) in adapter.modules() {
            let Some(&module) = by_path.get(path) else {
                continue;
            };
            match (own.form(), &module.kind) {
                (Form::Tokens(form), _) => plan.carry_rows(adapter, path, &form.rows)?,
                (_, ModuleKind::Routed { .. }) => {
                    return Err(ConvertError::Expert {
                        path: path.to_owned(),
                    });
                }
                _ => plan.modules.push((module, own)),
            }
        }
        if plan.modules.is_empty() {
            let changes: BTreeSet<&str> = adapter
                .modules()
                .map(|(path, _)| path)
                .chain(adapter.replaced().keys().map(String::as_str))
                .collect();
            return Err(ConvertError::NoMatrix {
                peft_type: adapter.peft_type.clone(),
                first: changes
                    .first()
                    .map_or_else(String::new, |name| (*name).to_owned()),
            });
        }
        plan.carry_replaced(adapter, base, &by_path)?;
        plan.carry_option(adapter, "layer_replication");
        let ends = [&adapter.spec.embed_tokens.path, &adapter.spec.lm_head.path];
        let is_end = |(module, _): &(&Module, _)| ends.contains(&&module.path);
        // Pairs of a tied embedding and its head are kept apart: both have the whole change.
        if !plan.modules.iter().any(is_end) {
            plan.carry_option(adapter, "ensure_weight_tying");
        }
        Ok(plan)
    }

    fn carry_option(&mut self, adapter: &Adapter, option: &'static str) {
        if adapter.config.get(option).is_some() && !self.carried.options.contains(&option) {
            self.carried.options.push(option);
        }
    }

    /// Rows of tokens are replaced in LoRA as well.
    fn carry_rows(
        &mut self,
        adapter: &Adapter,
        path: &str,
        rows: &FormTensor,
    ) -> Result<(), ConvertError> {
        self.carry_option(adapter, TOKENS);
        let none = BaseModule::of(ModuleWeights::default());
        self.carry(BoundTensor {
            name: adapter.naming(path).input(rows),
            shape: rows.shape.clone(),
            values: rows.values(&none)?.into_owned(),
        });
        Ok(())
    }

    /// Adds `tensor`, unless a tied head or embedding has added it already.
    fn carry(&mut self, tensor: BoundTensor) {
        let tensors = &mut self.carried.tensors;
        if tensors.iter().all(|other| other.name != tensor.name) {
            tensors.push(tensor);
        }
    }

    /// Whole modules, and biases.
    fn carry_replaced(
        &mut self,
        adapter: &Adapter,
        base: &BaseModel,
        by_path: &BTreeMap<&str, &Module>,
    ) -> Result<(), ConvertError> {
        let converted: BTreeSet<&str> = self.modules.iter().map(|(m, _)| m.path.as_str()).collect();
        let ends = [&adapter.spec.embed_tokens.path, &adapter.spec.lm_head.path];
        for (place, replacement) in adapter.replaced() {
            let Some((path, name)) = place.rsplit_once('.') else {
                continue;
            };
            if converted.contains(path) {
                // A new bias is found with the module's change.
                if name == "weight" {
                    self.carry(BoundTensor {
                        name: format!("{PREFIX}{path}.base_layer.weight"),
                        shape: replacement.shape.clone(),
                        values: adapter.replacement_values(base, replacement)?,
                    });
                }
                continue;
            }
            // A head with rows of its own has no bias in LoRA either.
            if replacement.origin == Origin::Zeros {
                continue;
            }
            let is_routed = by_path
                .get(path)
                .is_some_and(|module| matches!(module.kind, ModuleKind::Routed { .. }));
            if is_routed {
                return Err(ConvertError::Expert {
                    path: path.to_owned(),
                });
            }
            let values = adapter.replacement_values(base, replacement)?;
            let is_end = ends.iter().any(|end| *end == path);
            if replacement.is_copy || (is_end && name == "weight") {
                if replacement.is_copy {
                    self.carry_option(adapter, SAVED);
                }
                // A saved embedding keeps its key, which depends on what is around it. A tied head
                // has the same one.
                let is_saved = !replacement.is_copy && replacement.origin == Origin::Adapter;
                let name = match is_saved {
                    true => format!("{PREFIX}{}", replacement.key),
                    false => format!("{PREFIX}{place}"),
                };
                self.carry(BoundTensor {
                    name,
                    shape: replacement.shape.clone(),
                    values,
                });
            } else if name == "bias" {
                self.carried.biases.insert(path.to_owned(), values);
            } else {
                return Err(ConvertError::Parameter {
                    name: place.clone(),
                    peft_type: adapter.peft_type.clone(),
                });
            }
        }
        Ok(())
    }
}

/// The change of a module's matrix, `[out_features, in_features]` or, of an embedding, `[width,
/// tokens]`; and its new bias where that isn't the base's.
///
/// # Errors
/// If the adapter's tensors can't be used.
pub fn change_of(
    adapter: &Adapter,
    base: &BaseModel,
    module: &Module,
    own: &dyn ModuleAdapter,
) -> Result<(Change, Option<Vec<f32>>), AdapterError> {
    let before = adapter.read_module(base, module)?;
    if let Some(change) = product(&own.form(), adapter, base, module)? {
        let bias = new_bias(base, module, before.bias.as_ref())?;
        return Ok((change, bias));
    }
    let mut after = before.clone();
    own.merge_into(&mut after)?;
    let bias = new_bias(base, module, after.bias.as_ref())?;
    let change = after.weight - before.weight;
    let change = match module.kind {
        ModuleKind::Embedding { .. } => change.reversed_axes().as_standard_layout().into_owned(),
        _ => change,
    };
    Ok((Change::Matrix(change), bias))
}

/// The change as a product, if the form is nothing else.
fn product(
    form: &Form,
    adapter: &Adapter,
    base: &BaseModel,
    module: &Module,
) -> Result<Option<Change>, AdapterError> {
    let (a, b) = match form {
        Form::Linear(LinearForm {
            input,
            weight: None,
            delta: Some(Delta::LowRank { a, b }),
            gain: None,
            bias: None,
            output: None,
        }) if input.is_empty() => (a, b),
        Form::Embedding(EmbeddingForm {
            delta: Some((a, b)),
            multiplies: false,
            rotation: None,
            gain: None,
        }) => (a, b),
        _ => return Ok(None),
    };
    let own = BaseModule::reading(|| adapter.read_module(base, module));
    let (a, b) = (a.matrix(&own)?, b.matrix(&own)?);
    Ok(Some(Change::Product { b, a }))
}

/// The bias after the merge, where it isn't the base's.
fn new_bias(
    base: &BaseModel,
    module: &Module,
    merged: Option<&Array1<f32>>,
) -> Result<Option<Vec<f32>>, AdapterError> {
    let Some(merged) = merged else {
        return Ok(None);
    };
    let own = match has_bias(module) {
        true => base.values_of(&module.tensor("bias"))?,
        false => vec![0.0; merged.len()],
    };
    let merged = merged.to_vec();
    Ok((merged != own).then_some(merged))
}

/// Whether the base's module has a bias.
pub fn has_bias(module: &Module) -> bool {
    module.parameters().iter().any(|(name, _)| *name == "bias")
}
