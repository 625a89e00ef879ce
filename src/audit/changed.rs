//! Tensors that the adapter changes.

use super::fit::{Fit, Merge};
use super::grid::grid_of;
use super::levels::new_levels;
use super::merges::{Ingredients, ONCE, Way, base_values, merged};
use super::verdict::{Candidates, Verdict, judge};
use super::{AuditError, Auditor, Figures, Finding, Found};
use crate::adapter::Adapter;
use crate::prepare::Change;
use crate::weights::{TensorView, round_to};

/// One parameter that the adapter changes.
struct Parameter<'a> {
    name: &'a str,
    shape: &'a [usize],
    base: Vec<f32>,
}

impl Auditor<'_> {
    /// Judges the tensors that `change` changes.
    pub(super) fn changed(&self, change: &Change) -> Result<Vec<Found>, AuditError> {
        let Ingredients { base, adapter, .. } = self.ingredients;
        let parameters = change.parameters();
        let values = merged(change, base, adapter, ONCE)?;
        let mut found = Vec::new();
        for (number, ((place, shape), values)) in parameters.iter().zip(&values).enumerate() {
            let (path, name) = place.rsplit_once('.').unwrap_or((place, ""));
            let module = self.modules.iter().find(|module| module.path == path);
            let own = match module {
                Some(module) => base_values(base, module, name, values.len())?,
                None => vec![0.0; values.len()],
            };
            let parameter = Parameter {
                name: place,
                shape,
                base: own,
            };
            let mut paths = vec![path];
            if path == adapter.spec.embed_tokens.path
                && self.head_follows
                && !self.pairing.is_tied()
            {
                paths.push(&adapter.spec.lm_head.path);
            }
            for path in paths {
                let Some(tensor) = self.pairing.find(path, name, shape[0]) else {
                    let stored = adapter.spec.stored_parameter(place);
                    found.push(Found::without_figures(
                        &stored,
                        None,
                        true,
                        Verdict::Missing,
                    ));
                    continue;
                };
                found.push(self.judged(change, number, &parameter, values, &tensor)?);
            }
        }
        Ok(found)
    }

    /// Judges the tensor of the parameter `number` of `change`, which becomes `expected`.
    fn judged(
        &self,
        change: &Change,
        number: usize,
        parameter: &Parameter,
        expected: &[f32],
        tensor: &TensorView,
    ) -> Result<Found, AuditError> {
        let dtype = tensor.dtype()?;
        let plain = |verdict| Found::without_figures(tensor.name, Some(dtype), true, verdict);
        if tensor.shape != parameter.shape {
            return Ok(plain(Verdict::Shape));
        }
        let values = tensor.to_f32()?;
        if !values.iter().all(|value| value.is_finite()) {
            return Ok(plain(Verdict::NotFinite));
        }
        let grid = grid_of(&values, dtype);
        let columns = parameter.shape.last().copied().unwrap_or(1);
        let merge = Merge {
            base: &parameter.base,
            merged: expected,
            columns,
        };
        let lost = merge.changes_nothing() || {
            let mut pairs = merge.base.iter().zip(merge.merged);
            pairs.all(|(base, merged)| round_to(*base, dtype) == round_to(*merged, dtype))
        };
        if merge.is(&values, dtype) || merge.is(&values, grid) {
            return Ok(Found {
                lost,
                ..plain(Verdict::Equal)
            });
        }
        if merge.changes_nothing() {
            return Ok(self.unlike(&parameter.base, &values, columns, true, tensor.name, dtype));
        }

        // A program that loads the base in 16 bits merges into rounded weights.
        let again = |way: Way| self.again(change, number, way);
        let rounded: Vec<f32> = merge
            .base
            .iter()
            .map(|value| round_to(*value, grid))
            .collect();
        let into_rounded = match rounded == merge.base {
            true => None,
            false => again(Way {
                rounded_base: Some(grid),
                ..ONCE
            }),
        };
        let into_rounded = into_rounded.as_deref().map(|merged| Merge {
            base: &rounded,
            merged,
            columns,
        });
        if let Some(merge) = into_rounded
            && merge.is(&values, grid)
        {
            return Ok(plain(Verdict::Equal));
        }
        let fits: Vec<Fit> = [Some(merge), into_rounded]
            .iter()
            .flatten()
            .map(|merge| merge.fit(&values, grid))
            .collect();
        let right = closest(fits).expect("there's at least the merge into the base itself");

        let fit_of = |merged: Vec<f32>| {
            let merge = Merge {
                base: if into_rounded.is_some() {
                    &rounded
                } else {
                    merge.base
                },
                merged: &merged,
                columns,
            };
            (!merge.changes_nothing()).then(|| merge.fit(&values, grid))
        };
        let rounded_base = into_rounded.is_some().then_some(grid);
        let way = Way {
            rounded_base,
            times: 1,
        };
        let by_other = |adapter| self.by_other(adapter, parameter, number, way);
        let under = || -> Vec<f32> {
            let found = values.iter().zip(merge.base.iter().zip(merge.merged));
            found
                .map(|(found, (base, merged))| found - (merged - base))
                .collect()
        };
        let candidates = Candidates {
            right,
            adapter_rounded: &|| {
                let merges = self.alternatives.rounded().filter_map(by_other);
                closest(merges.filter_map(fit_of).collect())
            },
            twice: &|| again(Way { times: 2, ..way }).and_then(fit_of),
            without_magnitudes: &|| {
                let adapter = self.alternatives.without_magnitudes()?;
                by_other(adapter).and_then(fit_of)
            },
            levels: &|| {
                let of = |found: &[f32]| new_levels(found, &values, merge.base, columns, grid);
                of(&under()).or_else(|| of(&values))
            },
        };
        let verdict = judge(&candidates, values.len());
        Ok(Found {
            finding: Finding {
                figures: Some(Figures {
                    scale: Some(right.scale),
                    error: right.error,
                    equal_elements: right.equal,
                    worst_ulps: right.worst_ulps,
                }),
                ..plain(verdict).finding
            },
            lost,
        })
    }

    /// What the parameter `number` of `change` becomes in another way; `None` if it can't be merged
    /// so.
    fn again(&self, change: &Change, number: usize, way: Way) -> Option<Vec<f32>> {
        let Ingredients { base, adapter, .. } = self.ingredients;
        let mut all = merged(change, base, adapter, way).ok()?;
        (number < all.len()).then(|| all.swap_remove(number))
    }

    /// What the parameter becomes with another adapter, which changes the same modules.
    fn by_other(
        &self,
        adapter: &Adapter,
        parameter: &Parameter,
        number: usize,
        way: Way,
    ) -> Option<Vec<f32>> {
        let path = parameter.name.rsplit_once('.')?.0;
        let module = self.modules.iter().find(|module| module.path == path)?;
        let change = match (adapter.module(path), adapter.replaced().get(parameter.name)) {
            (Some(adapter), _) => Change::Module { module, adapter },
            (None, Some(replacement)) => Change::Parameter {
                name: parameter.name,
                replacement,
            },
            (None, None) => return None,
        };
        let mut all = merged(&change, self.ingredients.base, adapter, way).ok()?;
        (number < all.len()).then(|| all.swap_remove(number))
    }
}

/// The fit with the smallest error.
fn closest(fits: Vec<Fit>) -> Option<Fit> {
    fits.into_iter().min_by(|a, b| a.error.total_cmp(&b.error))
}
