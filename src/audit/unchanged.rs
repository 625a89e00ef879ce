//! Tensors that should be the base's.

use super::grid::{grid_of, ulp};
use super::levels::new_levels;
use super::verdict::Verdict;
use super::{AuditError, Auditor, Figures, Finding, Found};
use crate::arch::Module;
use crate::weights::{Dtype, TensorView, round_to};

impl Auditor<'_> {
    /// Judges the tensor of the parameter `name` of `module`, which the adapter doesn't change.
    pub(super) fn unchanged(
        &self,
        module: &Module,
        name: &str,
        shape: &[usize],
    ) -> Result<Found, AuditError> {
        let base = self.ingredients.base;
        let own = base.values_of(&module.tensor(name))?;
        // Some parameters of activations are scalars.
        let rows = shape.first().copied().unwrap_or(1);
        let Some(tensor) = self.pairing.find(&module.path, name, rows) else {
            let spec = &self.ingredients.adapter.spec;
            let stored = spec.stored_parameter(&format!("{}.{name}", module.path));
            return Ok(Found::without_figures(
                &stored,
                None,
                false,
                Verdict::Missing,
            ));
        };
        let dtype = tensor.dtype()?;
        if tensor.shape != shape || own.len() != shape.iter().product::<usize>() {
            let verdict = Verdict::Shape;
            return Ok(Found::without_figures(
                tensor.name,
                Some(dtype),
                false,
                verdict,
            ));
        }
        let values = tensor.to_f32()?;
        let columns = shape.last().copied().unwrap_or(1);
        Ok(self.unlike(&own, &values, columns, false, tensor.name, dtype))
    }

    /// Judges a tensor that should be a copy of the base's.
    pub(super) fn copied(&self, tensor: &TensorView, own: &TensorView) -> Found {
        let same = tensor.shape == own.shape && tensor.stored == own.stored;
        if same && tensor.bytes == own.bytes {
            return Found::without_figures(tensor.name, tensor.dtype().ok(), false, Verdict::Equal);
        }
        match (tensor.to_f32(), own.to_f32(), tensor.dtype()) {
            (Ok(values), Ok(own_values), Ok(dtype)) if tensor.shape == own.shape => {
                let columns = tensor.shape.last().copied().unwrap_or(1);
                self.unlike(&own_values, &values, columns, false, tensor.name, dtype)
            }
            _ => {
                let verdict = match tensor.shape == own.shape {
                    true => Verdict::Changed,
                    false => Verdict::Shape,
                };
                Found::without_figures(tensor.name, tensor.dtype().ok(), false, verdict)
            }
        }
    }

    /// Judges `values`, which should be those of the base, rounded to `dtype`.
    pub(super) fn unlike(
        &self,
        base: &[f32],
        values: &[f32],
        columns: usize,
        adapted: bool,
        name: &str,
        dtype: Dtype,
    ) -> Found {
        let plain = |verdict| Found::without_figures(name, Some(dtype), adapted, verdict);
        if !values.iter().all(|value| value.is_finite()) {
            return plain(Verdict::NotFinite);
        }
        let grid = grid_of(values, dtype);
        let rounded_to = |to: Dtype| {
            let mut pairs = base.iter().zip(values);
            pairs.all(|(base, value)| round_to(*base, to) == *value)
        };
        if rounded_to(dtype) {
            return plain(Verdict::Equal);
        }
        let mut figures = Figures {
            scale: None,
            error: 0.0,
            equal_elements: 0.0,
            worst_ulps: 0.0,
        };
        let (mut off, mut norm) = (0.0, 0.0);
        for (&base, &value) in base.iter().zip(values) {
            let difference = f64::from(value) - f64::from(base);
            off += difference * difference;
            norm += f64::from(base) * f64::from(base);
            let unit = f64::from(ulp(base, grid).max(ulp(value, grid)));
            let ulps = (f64::from(value) - f64::from(round_to(base, grid))).abs() / unit;
            figures.worst_ulps = figures.worst_ulps.max(ulps);
            let is_equal = round_to(base, grid) == value;
            figures.equal_elements += f64::from(u8::from(is_equal)) / values.len() as f64;
        }
        figures.error = (off / f64::max(norm, f64::MIN_POSITIVE)).sqrt();
        // Where nothing has to be rounded, nothing may differ.
        let is_rounded = base.iter().any(|base| round_to(*base, grid) != *base);
        let verdict = if is_rounded && figures.worst_ulps <= 1.0 {
            Verdict::Rounding
        } else if let Some(bits) = new_levels(values, values, base, columns, grid) {
            Verdict::QuantizedBase { bits }
        } else {
            Verdict::Changed
        };
        Found {
            finding: Finding {
                figures: Some(figures),
                ..plain(verdict).finding
            },
            lost: false,
        }
    }
}
