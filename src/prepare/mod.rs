//! Makes runnable folders of a base model and an adapter: merge, export, manifest.
//!
//! ```text
//! exported_models/<model>--<dtype>/
//!     base/                          model.onnx, manifest.json
//!     <method>--<name>/merged/       model.onnx, overlay.safetensors, manifest.json
//!     <method>--<name>/unmerged/     model.onnx, adapter.safetensors, manifest.json;
//!                                    residuals.safetensors if the adapter subtracts something
//!                                    from quantized weights
//!     <method>--<name>/merged-requantized/  with a quantized base's scheme, on demand
//!     <method>--<name>/unmerged-native/  with the adapter's native form of computation, on demand
//!     <method>--<name>/unmerged-empty/   as `unmerged`, with an adapter without effect, on demand
//!     <method>--<name>/checkpoint/   a merged Hugging Face checkpoint
//!     quantized.safetensors          the base's weights, if the model is quantized
//!     repacked.safetensors           those of a base that's a quantized checkpoint
//!     finite-weights                 a stamp: the base's weights were checked to be finite
//! ```
//!
//! The name of a model or an adapter in a local folder ends with a hash of its path, except for the
//! shipped `experiments/`.
//!
//! The manifest is written last, so a folder without one is incomplete. It contains a fingerprint
//! of everything that the folder was made from.

mod absorbed;
mod altered_copy;
mod base_codes;
mod checkpoint;
mod decode_reads;
mod describe;
mod different_adapters;
mod empty;
mod export;
mod fingerprint;
mod finite;
mod merge;
mod quantized;
mod repacked;
mod residuals;
mod shared_graph;
mod states;
mod swap_adapters;

use std::path::{Path, PathBuf};

use thiserror::Error;

pub use checkpoint::{
    CheckpointForm, CheckpointSummary, PackedLayout, copy_tokenizer, model_config, write_checkpoint,
};
pub use different_adapters::{different_adapters, not_mixable};
pub use empty::empty_variant;
pub use fingerprint::REVISION as GRAPH_REVISION;
pub use merge::{Change, changes, head_follows};
pub use swap_adapters::{not_swappable, other_adapters};

use crate::adapter::{Adapter, AdapterError, AdapterForm};
use crate::arch::LatentCache;
use crate::experiment::Experiment;
use crate::file_names;
use crate::model::{BaseModel, ModelError};
use crate::prepared::{ManifestError, Precision, PreparedVariant, Variant};
use crate::quantize::QuantizeError;
use crate::quantize::stored::BaseCodes;
use crate::weights::WeightsError;

/// Why a variant can't be prepared.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
#[non_exhaustive]
pub enum PrepareError {
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    #[error(transparent)]
    Weights(#[from] WeightsError),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Quantize(#[from] QuantizeError),
    #[error(
        "the base `{base}` is quantized already ({label}), and its codes are kept: `--quantize none` takes it as it \
         is; to quantize it another way, use the 16-bit model that it was made from"
    )]
    AlreadyQuantized { base: String, label: String },
    #[error(
        "{peft_type} isn't supported unmerged on `{path}`, which is quantized to {format}: {reason}"
    )]
    OnQuantized {
        peft_type: String,
        path: String,
        format: &'static str,
        reason: &'static str,
    },
    #[error(
        "{peft_type} isn't supported unmerged on `{path}` with `--mla compressed`, which applies that layer to queries and \
         outputs: {reason}. `--mla expanded` takes it, and the merged variant runs with both"
    )]
    OnAbsorbed {
        peft_type: String,
        path: String,
        reason: &'static str,
    },
    #[error("cannot write `{}`", path.display())]
    Write {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("cannot copy `{}`", path.display())]
    Copy {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("no quantized checkpoint can be written: {reason}")]
    NotPackable { reason: String },
    #[error("no checkpoint can be written: {reason}")]
    NoCheckpoint { reason: String },
    #[error("there is no `merged` variant: {reason}")]
    NotMergeable { reason: String },
    #[error("`{}` exists and was not written by this program; choose another folder", path.display())]
    Occupied { path: PathBuf },
}

/// Where and how to prepare variants.
#[derive(Debug)]
pub struct Preparation<'a> {
    /// The base model.
    pub base: &'a BaseModel,
    /// The precision of its weights and of the arithmetic.
    pub precision: Precision,
    /// The folder `exported_models`, below which everything is prepared.
    pub export_dir: &'a Path,
    /// The seed for fresh adapters.
    pub seed: u64,
    /// The form in which unmerged adapters are computed.
    pub adapter_form: AdapterForm,
    /// The task to use, for adapters with several tasks.
    pub task_id: Option<usize>,
}

impl Preparation<'_> {
    /// This preparation, in which merged weights of a quantized base are rounded to its scheme again
    /// or not.
    pub fn requantized(&self, requantize: bool) -> Self {
        let base = BaseCodes {
            requantize,
            ..self.precision.base
        };
        Self {
            precision: self.precision.with_base(base),
            ..*self
        }
    }

    /// This preparation without quantization.
    pub fn unquantized(&self) -> Self {
        Self {
            precision: self.precision.with_quantization(None),
            ..*self
        }
    }

    fn model_folder(&self) -> PathBuf {
        let slug = file_names::of_model(&self.base.id);
        let mut name = format!("{slug}--{}", self.precision.label());
        if self.base.spec.latent_cache() == Some(LatentCache::Compressed) {
            name += "-mla-compressed";
        }
        self.export_dir.join(name)
    }

    /// The folder of `variant` of `experiment`, or of the base.
    pub fn folder(&self, experiment: Option<&Experiment>, variant: Variant) -> PathBuf {
        match experiment {
            Some(experiment) if variant != Variant::Base => self
                .model_folder()
                .join(experiment.file_name())
                .join(self.variant_folder(variant)),
            _ => self.model_folder().join(Variant::Base.name()),
        }
    }

    fn variant_folder(&self, variant: Variant) -> String {
        match (variant, self.adapter_form) {
            (Variant::Unmerged, AdapterForm::Native) => format!("{variant}-native"),
            (Variant::Merged, _) if self.precision.base.requantize => {
                format!("{variant}-requantized")
            }
            _ => variant.name().to_owned(),
        }
    }

    /// The folder of a merged Hugging Face checkpoint in this form.
    pub fn checkpoint_folder(&self, experiment: &Experiment, form: CheckpointForm) -> PathBuf {
        let dtype = form.dtype.map(|dtype| dtype.to_string());
        let quantization = form
            .quantization
            .map(|found| found.weights.name().to_owned());
        let other = form.quantization.is_some() && form.packing != PackedLayout::default();
        let packing = other.then(|| form.packing.name().to_owned());
        let parts = ["checkpoint".to_owned()].into_iter().chain(dtype);
        let name: Vec<String> = parts.chain(quantization).chain(packing).collect();
        let folder = self.unquantized().model_folder();
        folder.join(experiment.file_name()).join(name.join("-"))
    }

    /// Prepares `variants` of `experiment`, or of the base alone. The adapter is loaded once, and
    /// only if something has to be made.
    ///
    /// # Errors
    /// If the adapter can't be loaded or merged, or a file can't be written. Existing folders then
    /// stay as they are.
    pub fn prepare(
        &self,
        experiment: Option<&Experiment>,
        variants: &[Variant],
    ) -> Result<Vec<PreparedVariant>, PrepareError> {
        self.prepare_with(&mut None, experiment, variants)
    }

    /// Prepares every variant that the experiment's method has; the adapter is loaded once. For a
    /// method that can't be merged, the reason is returned in place of the merged variant.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare).
    pub fn prepare_all(
        &self,
        experiment: &Experiment,
    ) -> Result<(Vec<PreparedVariant>, Option<String>), PrepareError> {
        let mut adapter = None;
        let always = [Variant::Base, Variant::Unmerged];
        let mut prepared = self.prepare_with(&mut adapter, Some(experiment), &always)?;
        match self.prepare_with(&mut adapter, Some(experiment), &[Variant::Merged]) {
            Ok(merged) => prepared.extend(merged),
            Err(PrepareError::NotMergeable { reason }) => return Ok((prepared, Some(reason))),
            Err(error) => return Err(error),
        }
        Ok((prepared, None))
    }

    fn prepare_with(
        &self,
        adapter: &mut Option<Adapter>,
        experiment: Option<&Experiment>,
        variants: &[Variant],
    ) -> Result<Vec<PreparedVariant>, PrepareError> {
        let mut prepared = Vec::new();
        let quantized = self.quantized_file(&|_| {})?;
        let repacked = self.repacked(&|_| {})?;
        // The base with rounded or quantized weights as an unmerged adapter sees it, and that
        // adapter.
        let mut seen_by_unmerged: Option<(BaseModel, Adapter)> = None;
        for &variant in variants {
            let experiment = experiment.filter(|_| variant != Variant::Base);
            let folder = self.folder(experiment, variant);
            let fingerprint = fingerprint::fingerprint(self, experiment, variant);
            if let Some(manifest) = export::find(&folder, &fingerprint) {
                prepared.push(PreparedVariant {
                    folder,
                    manifest,
                    up_to_date: true,
                });
                continue;
            }
            finite::check(self.base, &self.model_folder())?;
            let load = |experiment: &Experiment, base: &BaseModel| {
                let (folder, values) = (&experiment.folder, experiment.values);
                let loaded = Adapter::load_for_task(folder, base, self.seed, values, self.task_id)?;
                loaded.with_form(self.adapter_form)
            };
            let seen = self.base_seen_by(variant, quantized.as_ref());
            let (base, used) = match (experiment, seen) {
                (Some(experiment), Some(base)) => {
                    let adapter = load(experiment, &base)?;
                    let (base, adapter) = &*seen_by_unmerged.insert((base, adapter));
                    (base, Some(adapter))
                }
                (Some(experiment), None) => {
                    if adapter.is_none() {
                        *adapter = Some(load(experiment, self.base)?);
                    }
                    (self.base, adapter.as_ref())
                }
                (None, _) => (self.base, None),
            };
            let ingredients = export::Ingredients {
                experiment,
                adapter: used,
                base: used.map_or(base, |adapter| adapter.base(base)),
                quantized: quantized.as_deref(),
                repacked: repacked.as_deref(),
            };
            let manifest = export::export(self, ingredients, variant, &folder, fingerprint)?;
            prepared.push(PreparedVariant {
                folder,
                manifest,
                up_to_date: false,
            });
        }
        Ok(prepared)
    }
}
