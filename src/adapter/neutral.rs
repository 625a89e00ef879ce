//! What the inputs of an unmerged graph hold where no adapter is bound: values with which the graph
//! computes what the base computes.
//!
//! | input | without effect |
//! | --- | --- |
//! | a low-rank pair | rank 0: no elements |
//! | another term, a factor | zeros, ones |
//! | blocks of a rotation | identities |
//! | a weight or bias in place of the base's | the base's; zeros for a bias that it lacks |
//! | rows in place of the base's | the base's rows |
//! | a router, a network of its own | zeros: what it weighs or makes is zero, too |

use std::collections::{BTreeMap, BTreeSet};

use super::form::{Delta, Form, FormTensor, InputStage, TensorRole};
use super::set::AdapterSet;
use super::{Adapter, AdapterError};
use crate::arch::{Module, ModuleKind};
use crate::model::BaseModel;

/// Values without effect.
#[derive(Debug, Clone, PartialEq)]
pub enum Neutral {
    /// No elements: the rank is 0.
    Empty,
    /// All elements are the same.
    Constant(f32),
    /// Elements in row-major order.
    Values(Vec<f32>),
}

/// An input of the graph.
#[derive(Debug, Clone, PartialEq)]
pub struct NeutralInput {
    /// Its name.
    pub name: String,
    /// The shape of the values.
    pub shape: Vec<usize>,
    /// The values; `None` if the input is never without effect.
    pub value: Option<Neutral>,
}

/// Receives the inputs one after the other.
pub type TakeNeutral<'t, E> = &'t mut dyn FnMut(NeutralInput) -> Result<(), E>;

impl AdapterSet<'_> {
    /// Calls `take` for each input of the graph that adapters are bound to, each once.
    ///
    /// # Errors
    /// If a tensor of the base can't be read, or `take` fails.
    pub fn for_each_neutral<E: From<AdapterError>>(
        &self,
        base: &BaseModel,
        take: TakeNeutral<E>,
    ) -> Result<(), E> {
        let mut seen = BTreeSet::new();
        for (path, lead) in self.leads() {
            let naming = lead.naming(path);
            let Some(form) = lead.unmerged_form(path) else {
                continue;
            };
            let base = lead.base(base);
            let modules = lead.spec.modules();
            let module = modules.iter().find(|module| module.path == path);
            for (tensor, kind) in kinds(&form) {
                let name = naming.input(tensor);
                if !seen.insert(name.clone()) {
                    continue;
                }
                let mut shape = tensor.shape.clone();
                let value = match kind {
                    Kind::Rank(axis) => {
                        shape[axis] = 0;
                        Some(Neutral::Empty)
                    }
                    Kind::ByRole => by_role(tensor.role),
                    Kind::Rotation => Some(Neutral::Values(identities(&shape))),
                    Kind::Weight => module
                        .map(|module| weight_of(base, module))
                        .transpose()?
                        .map(Neutral::Values),
                    Kind::Bias => Some(bias_of(base, module)?),
                    Kind::Rows(indices) => module
                        .map(|module| rows_of(base, module, indices))
                        .transpose()?
                        .map(Neutral::Values),
                };
                take(NeutralInput { name, shape, value })?;
            }
        }
        for (name, replacement) in self.replacements() {
            if seen.insert(replacement.input.clone()) {
                let lead = self.adapters()[0];
                let elements = replacement.shape.iter().product();
                let value = replaced_of(lead, lead.base(base), name, elements)?;
                take(NeutralInput {
                    name: replacement.input.clone(),
                    shape: replacement.shape.clone(),
                    value: Some(value),
                })?;
            }
        }
        for adapter in self.adapters() {
            for input in adapter.inputs() {
                if seen.insert(input.name.clone()) {
                    take(NeutralInput {
                        name: input.name,
                        shape: input.shape,
                        value: by_role(input.role),
                    })?;
                }
            }
        }
        Ok(())
    }
}

/// The values of a tensor without effect, whatever form it's in.
fn by_role(role: TensorRole) -> Option<Neutral> {
    let value = match role {
        TensorRole::Map => Some(0.0),
        other => other.neutral(),
    };
    value.map(Neutral::Constant)
}

/// How a tensor's values without effect are found.
enum Kind<'a> {
    /// This axis is the rank of a low-rank pair.
    Rank(usize),
    ByRole,
    Rotation,
    Weight,
    Bias,
    /// Rows of these tokens.
    Rows(&'a [usize]),
}

/// The tensors of `form`.
fn kinds<'f>(form: &'f Form) -> Vec<(&'f FormTensor<'f>, Kind<'f>)> {
    let mut special: Vec<(*const (), Kind)> = Vec::new();
    let key = |tensor: &FormTensor| std::ptr::from_ref(tensor).cast::<()>();
    match form {
        Form::Linear(form) => {
            for stage in &form.input {
                if let InputStage::Rotation { blocks, .. } = stage {
                    special.push((key(blocks), Kind::Rotation));
                }
            }
            if let Some(Delta::LowRank { a, b }) = &form.delta {
                special.push((key(a), Kind::Rank(0)));
                special.push((key(b), Kind::Rank(1)));
            }
            special.extend(form.weight.iter().map(|tensor| (key(tensor), Kind::Weight)));
            special.extend(form.bias.iter().map(|tensor| (key(tensor), Kind::Bias)));
        }
        Form::Embedding(form) => {
            if let Some((a, b)) = &form.delta {
                special.push((key(a), Kind::Rank(0)));
                special.push((key(b), Kind::Rank(1)));
            }
            special.extend(
                form.rotation
                    .iter()
                    .map(|tensor| (key(tensor), Kind::Rotation)),
            );
        }
        Form::Tokens(form) => special.push((key(&form.rows), Kind::Rows(form.indices))),
        Form::Native(_) | Form::Attention(_) => {}
    }
    let mut special: BTreeMap<*const (), Kind> = special.into_iter().collect();
    let all = form.tensors().into_iter();
    all.map(|tensor| (tensor, special.remove(&key(tensor)).unwrap_or(Kind::ByRole)))
        .collect()
}

/// `[n, b, b]`: `n` identities.
fn identities(shape: &[usize]) -> Vec<f32> {
    let (size, count) = (shape[1], shape[0]);
    let one = (0..size * size).map(|index| if index % (size + 1) == 0 { 1.0 } else { 0.0 });
    let one: Vec<f32> = one.collect();
    one.repeat(count)
}

/// The base's weight as the unmerged graph uses it: `[out_features, in_features]`.
fn weight_of(base: &BaseModel, module: &Module) -> Result<Vec<f32>, AdapterError> {
    if let Some(weight) = base.dequantized(module)? {
        return Ok(weight.iter().copied().collect());
    }
    let values = base.values_of(&module.tensor("weight"))?;
    let shape = module.parameters().swap_remove(0).1;
    Ok(match module.is_stored_in_out() {
        true => transposed(&values, shape[0], shape[1]),
        false => values,
    })
}

fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let at = |index: usize| values[(index % rows) * columns + index / rows];
    (0..rows * columns).map(at).collect()
}

fn bias_of(base: &BaseModel, module: Option<&Module>) -> Result<Neutral, AdapterError> {
    Ok(match module {
        Some(module) if matches!(module.kind, ModuleKind::Linear { bias: true, .. }) => {
            Neutral::Values(base.values_of(&module.tensor("bias"))?)
        }
        _ => Neutral::Constant(0.0),
    })
}

fn rows_of(base: &BaseModel, module: &Module, indices: &[usize]) -> Result<Vec<f32>, AdapterError> {
    let table = weight_of(base, module)?;
    let width = module.parameters().swap_remove(0).1[1];
    // An added token has no row in the base.
    let row = |&index: &usize| match table.get(index * width..(index + 1) * width) {
        Some(row) => row.to_vec(),
        None => vec![0.0; width],
    };
    Ok(indices.iter().flat_map(row).collect())
}

/// The base's parameter `name`; zeros for rows that it lacks, or if it has none.
fn replaced_of(
    adapter: &Adapter,
    base: &BaseModel,
    name: &str,
    elements: usize,
) -> Result<Neutral, AdapterError> {
    let modules = adapter.spec.modules();
    let found = name.rsplit_once('.').and_then(|(path, parameter)| {
        let module = modules.iter().find(|module| module.path == path)?;
        Some((module, parameter))
    });
    let Some((module, parameter)) = found else {
        return Ok(Neutral::Constant(0.0));
    };
    if base.tensor(&module.tensor(parameter)).is_err() {
        return Ok(Neutral::Constant(0.0));
    }
    // As stored, since a replaced parameter is, too.
    let mut values = match base.dequantized(module)? {
        Some(weight) if parameter == "weight" => match module.is_stored_in_out() {
            true => weight.t().iter().copied().collect(),
            false => weight.iter().copied().collect(),
        },
        _ => base.values_of(&module.tensor(parameter))?,
    };
    values.resize(elements, 0.0);
    Ok(Neutral::Values(values))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_without_effect_is_the_identity() {
        let two = identities(&[2, 2, 2]);
        assert_eq!(two, [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn a_matrix_is_transposed() {
        assert_eq!(
            transposed(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2, 3),
            [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]
        );
    }
}
