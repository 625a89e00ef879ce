//! What a variant has of the codes of a base that's a quantized checkpoint.

use std::collections::{BTreeMap, BTreeSet};

use super::merge::{Change, changes};
use super::repacked::Repacked;
use super::{Preparation, PrepareError};
use crate::adapter::Adapter;
use crate::arch::{DecoderSpec, Module};
use crate::graph::Device;
use crate::prepared::{BaseQuantization, Variant};
use crate::quantize::Encoding;
use crate::quantize::stored::Form;

/// The codes that a variant has.
pub(super) struct BaseCodes<'a> {
    preparation: &'a Preparation<'a>,
    repacked: Option<&'a Repacked>,
    /// Parameters that the variant has as floats because of its adapter.
    changed: BTreeSet<String>,
    requantized: bool,
}

impl<'a> BaseCodes<'a> {
    /// Those of `variant`.
    ///
    /// # Errors
    /// If the adapter can't be merged.
    pub fn new(
        preparation: &'a Preparation,
        adapter: Option<&Adapter>,
        variant: Variant,
        repacked: Option<&'a Repacked>,
    ) -> Result<Self, PrepareError> {
        let requantized = variant == Variant::Merged && preparation.precision.base.requantize;
        let changed = match (variant, adapter, repacked) {
            (Variant::Merged, Some(adapter), Some(_)) if !requantized => {
                let modules = adapter.spec.modules();
                let all = changes(adapter, &modules)?;
                let names = all.iter().flat_map(Change::parameters);
                names.map(|(name, _)| name).collect()
            }
            (Variant::Unmerged, Some(adapter), Some(_)) => adapter.replaced_weights(),
            _ => BTreeSet::new(),
        };
        Ok(Self {
            preparation,
            repacked,
            changed,
            requantized,
        })
    }

    /// The bytes of the codes of `module`, with what belongs to them; `None` if its weight is
    /// floats.
    pub fn bytes(&self, module: &Module) -> Option<u64> {
        let path = format!("{}.weight", module.path);
        if self.changed.contains(&path) {
            return None;
        }
        let name = module.tensor("weight");
        let tensor = self.preparation.base.tensor(&name).ok()?;
        let used = self.repacked?.get(tensor.name)?;
        match &used.form {
            Form::Codes(form) => Some(used.weight.bytes(form, self.preparation.precision.compute)),
            Form::Float { .. } => None,
        }
    }

    /// Describes the base for a manifest; `None` if it isn't quantized.
    pub fn summary(&self, spec: &DecoderSpec) -> Option<BaseQuantization> {
        let stored = self.preparation.base.stored.as_ref()?;
        let repacked = self.repacked?;
        let precision = self.preparation.precision;
        let size = precision.compute.size() as u64;
        let mut found = BaseQuantization {
            method: stored.method.to_owned(),
            scheme: stored.label.clone(),
            kept_weights: 0,
            kept_bytes: 0,
            dequantized_weights: 0,
            dequantized_bytes: 0,
            dequantized_because: Vec::new(),
            changed_weights: 0,
            changed_bytes: 0,
            requantized: self.requantized,
            accuracy_level: None,
        };
        // A weight that several layers share is kept if one of them has it unchanged.
        let mut changed: BTreeMap<&str, bool> = BTreeMap::new();
        for module in &spec.modules() {
            let name = module.tensor("weight");
            let Ok(tensor) = self.preparation.base.tensor(&name) else {
                continue;
            };
            if let Some(used) = repacked.get(tensor.name) {
                let is_changed = self.changed.contains(&format!("{}.weight", module.path));
                *changed.entry(used.weight.name()).or_insert(true) &= is_changed;
            }
        }
        for used in repacked.used() {
            let floats = (used.weight.row_count() * used.weight.columns()) as u64 * size;
            match &used.form {
                Form::Codes(_) if changed.get(used.weight.name()) == Some(&true) => {
                    found.changed_weights += 1;
                    found.changed_bytes += floats;
                }
                Form::Codes(form) => {
                    found.kept_weights += 1;
                    found.kept_bytes += used.weight.bytes(form, precision.compute);
                    if matches!(form.encoding, Encoding::Even { .. })
                        && precision.device == Device::Cpu
                    {
                        found.accuracy_level = Some(precision.base.accuracy.level());
                    }
                }
                Form::Float { reason, .. } => {
                    found.dequantized_weights += 1;
                    found.dequantized_bytes += floats;
                    if !found
                        .dequantized_because
                        .iter()
                        .any(|known| known == reason)
                    {
                        found.dequantized_because.push((*reason).to_owned());
                    }
                }
            }
        }
        Some(found)
    }
}
