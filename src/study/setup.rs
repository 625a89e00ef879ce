//! From settings and parameters to what can be prepared and run: base model, provider, preparation,
//! sessions.

use std::cell::RefCell;

use thiserror::Error;

use super::observer::{Event, Note, Observer};
use super::settings::{GpuLayers, ProviderChoice, Settings};
use crate::adapter::Task;
use crate::arch::LATENT_FAMILIES;
use crate::config::{BenchmarkConfig, ParametersError};
use crate::experiment::Experiment;
use crate::model::{BaseModel, ModelError, ModelId};
use crate::onnxruntime::Provider;
use crate::onnxruntime::locate::{LocateError, locate};
use crate::prepare::{Preparation, PrepareError};
use crate::prepared::{Precision, PreparedVariant};
use crate::quantize::stored::BaseCodes;
use crate::system::Hardware;
use crate::weights::Dtype;

/// A base model that can't be opened, or settings that don't fit the machine.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
#[non_exhaustive]
pub enum SetupError {
    #[error(transparent)]
    Id(Box<ModelError>),
    #[error("cannot open base model `{id}`{}", id.hint_of_16_bits())]
    Base {
        id: ModelId,
        source: Box<ModelError>,
    },
    #[error(
        "cannot open base model `{id}`, which the adapter or the parameters name (`--model` takes another: a folder, or a \
         hub id){}",
        id.hint_of_16_bits()
    )]
    NamedBase {
        id: ModelId,
        source: Box<ModelError>,
    },
    #[error("`--cuda-graph` is for a GPU, and this runs on the CPU")]
    CudaGraphOnCpu,
    #[error("`--gpu-layers` is for a GPU, and this runs on the CPU")]
    GpuLayersOnCpu,
    #[error(
        "`--ep cuda` was asked for, but this machine has no NVIDIA GPU (NVML finds none); use `--ep cpu`"
    )]
    NoGpu,
    #[error(
        "`--mla` (`mla`) chooses what latent attention caches, and `{base}` (`{model_type}`) has no latent attention; leave \
         it out. These have it: {}",
        LATENT_FAMILIES.map(|family| format!("`{family}`")).join(", ")
    )]
    NoLatentAttention { base: ModelId, model_type: String },
    #[error(transparent)]
    Locate(#[from] LocateError),
    #[error(
        "`--quantize-accuracy` (`quantization_accuracy_level`) chooses the CPU's arithmetic; on a GPU, products with \
         quantized weights are computed in {0}"
    )]
    AccuracyOnGpu(Dtype),
    #[error(
        "`{option}` is about bases that are quantized checkpoints, and `{base}` isn't one; `--quantize` quantizes any other"
    )]
    NotQuantized { option: &'static str, base: String },
    #[error(
        "`--quantized-base-accuracy` chooses the CPU's arithmetic; a GPU computes products with codes in the type of their \
         inputs"
    )]
    BaseAccuracyOnGpu,
    #[error(transparent)]
    Parameters(#[from] ParametersError),
    #[error(transparent)]
    Prepare(Box<PrepareError>),
}

impl From<PrepareError> for SetupError {
    fn from(error: PrepareError) -> Self {
        Self::Prepare(Box::new(error))
    }
}

/// Settings, and whoever watches what's made of them.
pub struct Setup<'a> {
    /// The settings.
    pub settings: &'a Settings,
    observer: RefCell<&'a mut dyn Observer>,
}

impl<'a> Setup<'a> {
    /// Makes things of `settings`, watched by `observer`.
    pub fn new(settings: &'a Settings, observer: &'a mut dyn Observer) -> Self {
        Self {
            settings,
            observer: RefCell::new(observer),
        }
    }

    /// Tells the observer of an event.
    pub fn tell(&self, event: Event) {
        self.observer.borrow_mut().observe(event);
    }

    /// Tells the observer something that one should know.
    pub fn note(&self, note: Note) {
        self.tell(Event::Note(note));
    }

    /// Tells the observer how far something with a size in bytes has come.
    pub fn bytes(&self, label: &str, done: u64, total: u64) {
        self.tell(Event::Bytes { label, done, total });
    }

    /// Opens the base model, which is fetched or made where it isn't here yet.
    ///
    /// # Errors
    /// If it can't be had.
    pub fn base_model(&self, config: &BenchmarkConfig) -> Result<BaseModel, SetupError> {
        let id =
            ModelId::parse(&config.model_id).map_err(|error| SetupError::Id(Box::new(error)))?;
        let offline = self.settings.offline;
        let model = BaseModel::open(&id, config.dtype, offline, &|label, done, total| {
            self.bytes(label, done, total);
        });
        self.tell(Event::BytesEnded);
        let mut model = model.map_err(|error| {
            let (id, source) = (id.clone(), Box::new(error));
            match &self.settings.model {
                Some(_) => SetupError::Base { id, source },
                None => SetupError::NamedBase { id, source },
            }
        })?;
        if let Some(cache) = config.mla
            && !model.spec.set_latent_cache(cache)
        {
            return Err(SetupError::NoLatentAttention {
                base: id.clone(),
                model_type: model.spec.model_type.clone(),
            });
        }
        if let Some((name, rows)) = model.surplus_rows() {
            self.note(Note::SurplusRows {
                name: &name,
                rows,
                used: model.spec.vocab_size,
            });
        }
        self.tell(Event::BaseOpened {
            id: &id,
            folder: &model.folder,
        });
        Ok(model)
    }

    /// Where to run weights of `dtype`.
    ///
    /// # Errors
    /// If the settings ask for what this machine hasn't.
    pub fn provider(&self, dtype: Dtype) -> Result<Provider, SetupError> {
        let provider = self.any_provider(dtype)?;
        if self.settings.cuda_graph && provider == Provider::Cpu {
            return Err(SetupError::CudaGraphOnCpu);
        }
        if matches!(self.settings.gpu_layers, GpuLayers::First(_)) && provider == Provider::Cpu {
            return Err(SetupError::GpuLayersOnCpu);
        }
        Ok(provider)
    }

    fn any_provider(&self, dtype: Dtype) -> Result<Provider, SetupError> {
        let device = self.settings.device;
        let gpus = || Hardware::collect(device).num_accelerators;
        match self.settings.provider {
            ProviderChoice::Cpu => Ok(Provider::Cpu),
            ProviderChoice::Cuda if gpus() == 0 => Err(SetupError::NoGpu),
            ProviderChoice::Cuda => Ok(Provider::Cuda(device)),
            ProviderChoice::Auto if gpus() == 0 => Ok(Provider::Cpu),
            ProviderChoice::Auto if dtype == Dtype::Float32 => {
                // What a GPU would compute with has been checked on a CPU only.
                self.note(Note::Float32OnCpu);
                Ok(Provider::Cpu)
            }
            ProviderChoice::Auto => {
                if locate(true)?.is_some() {
                    return Ok(Provider::Cuda(device));
                }
                self.note(Note::NoCudaLibrary);
                Ok(Provider::Cpu)
            }
        }
    }

    /// Where variants of `base` are prepared, and how. Its weights are quantized first, if they
    /// shall be.
    ///
    /// # Errors
    /// If parameters don't fit the provider, or weights can't be quantized.
    pub fn preparation<'b>(
        &'b self,
        config: &BenchmarkConfig,
        provider: Provider,
        base: &'b BaseModel,
    ) -> Result<Preparation<'b>, SetupError> {
        let quantization = config.quantization()?;
        check_accuracy(config, provider)?;
        let preparation = Preparation {
            base,
            precision: precision(config.dtype, provider)
                .with_latent_cache(base.spec.latent_cache())
                .with_quantization(quantization)
                .with_base(self.base_codes(base, provider)?),
            export_dir: &self.settings.export_dir,
            seed: config.seed,
            adapter_form: self.settings.adapter_form,
            task_id: config.task_id,
        };
        preparation.quantize(&|bytes| self.tell(Event::Quantizing { bytes }), &|bytes| {
            self.tell(Event::Repacking { bytes })
        })?;
        Ok(preparation)
    }

    /// How graphs use the weights of `base`, if it's a quantized checkpoint.
    ///
    /// # Errors
    /// If an option is about such a base, and it's none.
    fn base_codes(&self, base: &BaseModel, provider: Provider) -> Result<BaseCodes, SetupError> {
        let Settings {
            quantized_base,
            quantized_base_accuracy,
            requantize,
            ..
        } = self.settings;
        let usual = BaseCodes::default();
        let asked = [
            (quantized_base.is_some(), "--quantized-base"),
            (
                quantized_base_accuracy.is_some(),
                "--quantized-base-accuracy",
            ),
            (*requantize, "--requantize"),
        ];
        if base.stored.is_none()
            && let Some((_, option)) = asked.into_iter().find(|(is_given, _)| *is_given)
        {
            return Err(SetupError::NotQuantized {
                option,
                base: base.id.to_string(),
            });
        }
        if quantized_base_accuracy.is_some() && matches!(provider, Provider::Cuda(_)) {
            return Err(SetupError::BaseAccuracyOnGpu);
        }
        Ok(BaseCodes {
            kept: quantized_base.unwrap_or(usual.kept),
            accuracy: quantized_base_accuracy.unwrap_or(usual.accuracy),
            requantize: *requantize,
        })
    }

    /// Notes where an adapter's values are drawn.
    pub fn note_fresh(&self, experiment: &Experiment) {
        if experiment.fresh {
            let folder = &experiment.folder;
            self.note(Note::FreshValues { folder });
        }
    }

    /// Notes where an adapter has several tasks and none was chosen.
    pub fn note_task(&self, config: &BenchmarkConfig, task: Option<Task>) {
        if let (None, Some(Task { id, count })) = (config.task_id, task)
            && count > 1
        {
            self.note(Note::TaskTaken { id, count });
        }
    }

    /// Notes how an adapter is taken.
    pub fn note_adapter(&self, notes: &[String]) {
        for note in notes {
            self.note(Note::Adapter(note));
        }
    }

    /// Notes how the adapter of prepared variants is taken.
    pub fn note_adapter_of(&self, prepared: &[PreparedVariant]) {
        let mut adapters = prepared
            .iter()
            .filter_map(|one| one.manifest.adapter.as_ref());
        if let Some(adapter) = adapters.next() {
            self.note_adapter(&adapter.notes);
        }
    }

    /// Notes what of a quantized base's codes isn't kept.
    fn note_base_codes(&self, prepared: &[PreparedVariant]) {
        let mut is_first = true;
        for variant in prepared {
            let Some(base) = &variant.manifest.base_quantization else {
                continue;
            };
            let dtype = variant.manifest.compute;
            if std::mem::take(&mut is_first) && base.dequantized_weights > 0 {
                self.note(Note::DequantizedBase { base, dtype });
            }
            let variant = variant.manifest.variant;
            if base.changed_weights > 0 || base.requantized {
                self.note(Note::ChangedCodes {
                    variant,
                    base,
                    dtype,
                });
            }
        }
    }

    /// Notes where an unmerged adapter replaces quantized weights by float ones, which its costs
    /// come from.
    pub fn note_replaced(&self, prepared: &[PreparedVariant]) {
        self.note_base_codes(prepared);
        for variant in prepared {
            let adapter = variant.manifest.adapter.as_ref();
            if let (Some(found), Some(adapter)) = (&variant.manifest.quantization, adapter)
                && found.replaced_weights > 0
            {
                self.note(Note::FloatWeights {
                    peft_type: &adapter.peft_type,
                    dtype: variant.manifest.compute,
                    replaced: found.replaced_weights,
                    of: found.replaced_weights + found.quantized_weights,
                });
            }
        }
    }
}

/// The precision that follows from dtype and provider.
pub fn precision(dtype: Dtype, provider: Provider) -> Precision {
    Precision::new(dtype, matches!(provider, Provider::Cuda(_)))
}

/// Refuses to choose an arithmetic where there's only one.
fn check_accuracy(config: &BenchmarkConfig, provider: Provider) -> Result<(), SetupError> {
    match (config.quantization_keys.accuracy, provider) {
        (Some(_), Provider::Cuda(_)) => Err(SetupError::AccuracyOnGpu(config.dtype)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::{Accuracy, Format};

    #[test]
    fn an_arithmetic_of_the_cpu_is_not_chosen_for_a_gpu() {
        let mut config = BenchmarkConfig::built_in();
        config.quantization_keys.set(Some(Format::Int4Blocks32));
        assert!(check_accuracy(&config, Provider::Cuda(0)).is_ok());
        config.quantization_keys.accuracy = Some(Accuracy::Int8);
        assert!(check_accuracy(&config, Provider::Cpu).is_ok());
        let error = check_accuracy(&config, Provider::Cuda(0)).unwrap_err();
        assert!(error.to_string().contains("`--quantize-accuracy`"));
    }
}
