//! The base's quantized weights, shared by all variants of a model.
//!
//! A merge happens before quantizing: a merged weight is computed in full precision and quantized
//! like the base's. An unmerged adapter runs on the quantized base, as an adapter trained with
//! QLoRA is served; whatever it computes from a weight is computed from the dequantized weight. A
//! weight that the adapter's form replaces is also computed from the dequantized weight, and is no
//! longer quantized. What PEFT subtracts from the weights once, when it loads the adapter, is
//! subtracted before they are quantized ([`residuals`](super::residuals)).

use std::sync::Arc;

use super::{Preparation, PrepareError, fingerprint};
use crate::adapter::Adapter;
use crate::adapter::form::Form;
use crate::arch::DecoderSpec;
use crate::graph::{Parameter, Parameters};
use crate::model::BaseModel;
use crate::prepared::{QUANTIZED, Variant};
use crate::quantize::{self, Quantization, QuantizeError, QuantizedFile};

impl Preparation<'_> {
    /// Writes the base's quantized weights if the precision asks for them and they don't exist yet,
    /// or re-packs those of a quantized checkpoint. `begin` or `begin_repacking` receives their size
    /// in bytes.
    ///
    /// # Errors
    /// If a weight is missing or isn't finite, or the file can't be written.
    pub fn quantize(
        &self,
        begin: &dyn Fn(u64),
        begin_repacking: &dyn Fn(u64),
    ) -> Result<(), PrepareError> {
        self.quantized_file(begin)?;
        self.repacked(begin_repacking)?;
        Ok(())
    }

    /// Opens the base's quantized weights, and writes them first if they don't exist. `None` if the
    /// precision doesn't quantize.
    pub(super) fn quantized_file(
        &self,
        begin: &dyn Fn(u64),
    ) -> Result<Option<Arc<QuantizedFile>>, PrepareError> {
        let Some(quantization) = self.precision.quantization else {
            return Ok(None);
        };
        if let Some(stored) = &self.base.stored {
            return Err(PrepareError::AlreadyQuantized {
                base: self.base.id.to_string(),
                label: stored.label.clone(),
            });
        }
        let file = QuantizedFile::make_ready(
            &self.model_folder().join(QUANTIZED),
            &fingerprint::fingerprint(self, None, Variant::Base),
            quantize::Base {
                spec: &self.base.spec,
                tensor: &|name| self.base.tensor(name),
            },
            quantization,
            self.precision.quantized_types(),
            begin,
        )?;
        Ok(Some(Arc::new(file)))
    }

    /// The base as the adapter of `variant` sees it: with rounded and perhaps `quantized` weights.
    /// `None` if that's the base itself.
    pub(super) fn base_seen_by(
        &self,
        variant: Variant,
        quantized: Option<&Arc<QuantizedFile>>,
    ) -> Option<BaseModel> {
        if variant != Variant::Unmerged {
            return None;
        }
        let dtype = self.precision.dtype;
        let rounded = match self.base.fits(dtype) {
            true => None,
            false => Some(self.base.seen_rounded(dtype)),
        };
        let (Some(quantization), Some(file)) = (self.precision.quantization, quantized) else {
            return rounded;
        };
        let base = rounded.as_ref().unwrap_or(self.base);
        Some(base.seen_quantized(quantization, Arc::clone(file)))
    }
}

/// Replaces the weights that `quantization` covers by the quantized ones in `file`.
///
/// # Errors
/// If the file lacks one.
pub fn take_quantized(
    parameters: &mut Parameters,
    spec: &DecoderSpec,
    quantization: Quantization,
    file: &QuantizedFile,
) -> Result<(), QuantizeError> {
    for module in spec.modules() {
        let name = format!("{}.weight", module.path);
        if let Some(format) = quantization.of(spec, &module)
            && let Some([rows, columns]) = module.matrix_size()
            && parameters.get(&name).is_some()
        {
            let key = quantization.key(spec, &module);
            let weight = file.find(&key, format, rows, columns)?;
            parameters.set(&name, Parameter::Quantized(weight));
        }
    }
    Ok(())
}

/// Refuses adapters that can't run on quantized weights: a native form that dequantizes a weight
/// whose last block isn't full.
pub fn check_runs_on_quantized(
    adapter: &Adapter,
    quantization: Quantization,
) -> Result<(), PrepareError> {
    for module in adapter.spec.modules() {
        let (Some(form), Some(format)) = (
            adapter.unmerged_form(&module.path),
            quantization.of(&adapter.spec, &module),
        ) else {
            continue;
        };
        let refused = |reason: &'static str| PrepareError::OnQuantized {
            peft_type: adapter.peft_type.clone(),
            path: module.path.clone(),
            format: format.name(),
            reason,
        };
        let [rows, columns] = module.matrix_size().expect("it's a quantized matrix");
        let ends_within_block = format.encoding().ends_within_block(rows * columns);
        if ends_within_block && matches!(&form, Form::Native(native) if native.takes_weight) {
            return Err(refused(
                "its native form dequantizes the weight, whose last block isn't full; leave out `--adapter-form native`",
            ));
        }
    }
    Ok(())
}
