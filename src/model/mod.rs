//! Base models: where they come from, and what they consist of.

pub mod hub;
mod id;
pub mod synthetic;
mod tokenizer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ndarray::Array2;
use thiserror::Error;

pub use id::ModelId;
pub use tokenizer::{TextTokenizer, TokenizerError};

use crate::arch::{self, DecoderSpec};
use crate::cache_dir::cache_dir;
use crate::graph::find_base_tensor;
use crate::json_object::{ConfigError, JsonObject};
use crate::weights::{Dtype, TensorStore, TensorView, WeightsError};

/// A base model that can't be opened.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
pub enum ModelError {
    #[error(
        "`{0}` is neither a folder, nor a hub id (`org/name[@revision]`), nor `synthetic/<shape>`"
    )]
    Id(String),
    #[error(transparent)]
    Hub(#[from] hub::HubError),
    #[error(transparent)]
    Synthetic(#[from] synthetic::SyntheticError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

/// What a fetch or the making of synthetic weights reports: what's being done, bytes done, bytes in all.
pub type Progress<'a> = &'a dyn Fn(&str, u64, u64);

/// A base model: its architecture and its tensors.
#[derive(Debug)]
pub struct BaseModel {
    /// As the user named it.
    pub id: ModelId,
    /// Its folder in Hugging Face layout.
    pub folder: PathBuf,
    /// `config.json`
    pub config: JsonObject,
    /// Its architecture.
    pub spec: DecoderSpec,
    /// Its tensors.
    pub store: TensorStore,
}

impl BaseModel {
    /// Opens the model `id`, fetching or making it where it isn't here yet. Synthetic weights are made
    /// in `dtype`.
    ///
    /// # Errors
    /// If it can't be fetched or made, its architecture isn't supported, or its files are malformed.
    pub fn open(
        id: &ModelId,
        dtype: Dtype,
        offline: bool,
        progress: Progress,
    ) -> Result<Self, ModelError> {
        let folder = match id {
            ModelId::Local(path) => path.clone(),
            ModelId::Synthetic(shape) => {
                let label = format!("making random weights for synthetic/{shape}");
                let report = |done, total| progress(&label, done, total);
                synthetic::materialize(shape, dtype.to_safetensors(), &cache_dir(), &report)?
            }
            ModelId::Hub(hub_id) => {
                let mut settings = hub::HubSettings::from_env();
                settings.offline |= offline;
                hub::fetch(hub_id, &settings, &|report: hub::DownloadProgress| {
                    progress(
                        &format!("downloading {}", report.file),
                        report.done_bytes,
                        report.total_bytes,
                    );
                })?
            }
        };
        let mut model = Self::open_folder(&folder)?;
        model.id = id.clone();
        Ok(model)
    }

    /// Opens the model in `folder`.
    ///
    /// # Errors
    /// If its architecture isn't supported, or its files are malformed.
    pub fn open_folder(folder: &Path) -> Result<Self, ModelError> {
        let config = JsonObject::read(&folder.join("config.json"))?;
        let spec = arch::spec(&config)?;
        let store = TensorStore::open_folder(folder)?;
        Ok(Self {
            id: ModelId::Local(folder.to_owned()),
            folder: folder.to_owned(),
            config,
            spec,
            store,
        })
    }

    /// The checkpoint's tensor `source`, with or without the architecture's first part of the name.
    ///
    /// # Errors
    /// If the checkpoint has none.
    pub fn tensor<'a>(&'a self, source: &str) -> Result<TensorView<'a>, WeightsError> {
        find_base_tensor(&self.spec, &self.store, source)
    }

    /// The checkpoint's tensor `source`, a matrix, widened; of a linear layer `[out_features, in_features]`, however
    /// it's stored.
    ///
    /// # Errors
    /// If the checkpoint has none, it isn't a matrix, or its dtype isn't a float type.
    pub fn matrix(&self, source: &str) -> Result<Array2<f32>, WeightsError> {
        let tensor = self.tensor(source)?;
        let &[rows, columns] = tensor.shape else {
            return Err(WeightsError::Layout {
                path: tensor.path.to_owned(),
                message: format!(
                    "tensor `{source}` has shape {:?}, expected a matrix",
                    tensor.shape
                ),
            });
        };
        let values = tensor.to_f32()?;
        let mut matrix = Array2::from_shape_vec((rows, columns), values)
            .expect("the header's shape was checked against the tensor's length");
        let in_out = |linear: &arch::Linear| {
            linear.stored == arch::Stored::InOut
                && source.strip_suffix(".weight") == Some(linear.source.as_str())
        };
        if self.spec.linears().any(in_out) {
            matrix = matrix.t().as_standard_layout().into_owned();
        }
        Ok(matrix)
    }

    /// Sizes of the distinct tensors that the model uses: parameters and bytes as stored.
    ///
    /// # Errors
    /// If one is missing.
    pub fn size(&self) -> Result<ModelSize, WeightsError> {
        let mut distinct = BTreeMap::new();
        for module in self.spec.modules() {
            for (name, shape) in module.parameters() {
                let source = format!("{}.{name}", module.source);
                let bytes = self.tensor(&source)?.bytes.len() as u64;
                distinct.insert(source, (shape.iter().product::<usize>(), bytes));
            }
        }
        Ok(ModelSize {
            parameters: distinct.values().map(|(count, _)| count).sum(),
            stored_bytes: distinct.values().map(|(_, bytes)| bytes).sum(),
        })
    }

    /// The model's tokenizer.
    ///
    /// # Errors
    /// If its folder has none, or it can't be read.
    pub fn tokenizer(&self) -> Result<TextTokenizer, TokenizerError> {
        TextTokenizer::open(&self.folder)
    }
}

/// How large a model is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelSize {
    /// Distinct parameters; a tied head is counted once.
    pub parameters: usize,
    /// Bytes of their tensors in the checkpoint.
    pub stored_bytes: u64,
}
