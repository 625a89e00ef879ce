//! Base models: finding, opening and reading them.

mod at_hand;
mod find_tensor;
pub mod hub;
mod id;
mod stacked_experts;
mod stored_widths;
pub mod synthetic;
mod tokenizer;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ndarray::Array2;
use thiserror::Error;

pub use find_tensor::{find_base_tensor, find_whole_tensor};
pub use id::ModelId;
pub use tokenizer::{TOKENIZER_FILES, TextTokenizer, TokenizerError, has_tokenizer};

use crate::advice::round_doubles;
use crate::arch::{self, DecoderSpec, Module};
use crate::files::cache_dir::cache_dir;
use crate::json::{ConfigError, JsonObject};
use crate::quantize::stored::{self, StoredError, StoredWeights};
use crate::quantize::{Format, Quantization, QuantizeError, QuantizedFile};
use crate::weights::{Dtype, TensorStore, TensorView, WeightsError, round_to};

/// A base model that can't be opened.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
#[non_exhaustive]
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
    #[error(transparent)]
    Stored(#[from] StoredError),
}

/// Progress of a download or of writing synthetic weights: `(activity, bytes done, total bytes)`.
pub type Progress<'a> = &'a dyn Fn(&str, u64, u64);

/// A base model: its architecture and its tensors. Clones share the files.
#[derive(Debug, Clone)]
pub struct BaseModel {
    /// The name that the user gave.
    pub id: ModelId,
    /// Its folder in Hugging Face layout.
    pub folder: PathBuf,
    /// `config.json`
    pub config: JsonObject,
    /// Its architecture.
    pub spec: DecoderSpec,
    /// Its tensors.
    pub store: TensorStore,
    /// Its quantized weights, if the checkpoint is quantized.
    pub stored: Option<Arc<StoredWeights>>,
    /// The dtype that weights are used in, unless it's the stored one.
    dtype: Option<Dtype>,
    /// The dtype that values are rounded to before an unmerged adapter computes with them.
    rounded: Option<Dtype>,
    /// Quantized weights that unmerged adapters see instead of the stored ones.
    quantized: Option<QuantizedView>,
}

/// Quantized weights, as unmerged adapters see them.
#[derive(Debug, Clone)]
struct QuantizedView {
    quantization: Quantization,
    file: Arc<QuantizedFile>,
    /// An adapter's residual weights, which replace some of the quantized ones.
    residuals: Option<QuantizedFile>,
}

impl BaseModel {
    /// Opens the model `id`, to be used with weights in `dtype`. It's downloaded if it isn't here
    /// yet; a synthetic model is made, in that dtype.
    ///
    /// # Errors
    /// If it can't be downloaded or made, its architecture isn't supported, or its files are
    /// malformed.
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
        Ok(Self {
            id: id.clone(),
            dtype: Some(dtype),
            ..Self::open_folder(&folder)?
        })
    }

    /// Opens the model in `folder`.
    ///
    /// # Errors
    /// If its architecture isn't supported, or its files are malformed.
    pub fn open_folder(folder: &Path) -> Result<Self, ModelError> {
        let config = JsonObject::read(&folder.join("config.json"))?;
        let mut spec = arch::spec(&config)?;
        let mut store = TensorStore::open_folder(folder)?;
        store.refuse_empty("model")?;
        let stored = stored::find(&config, folder, &mut store)?.map(Arc::new);
        arch::locate(&mut spec, &store)?;
        stacked_experts::find_each_expert(&spec, &mut store)?;
        stored_widths::take_stored(&mut spec, &store);
        refuse_doubles(&spec, &store)?;
        tie_as_stored(&mut spec, &store);
        if stored.is_some() {
            take_outputs_first(&mut spec, &store);
        }
        Ok(Self {
            id: ModelId::Local(folder.to_owned()),
            folder: folder.to_owned(),
            config,
            spec,
            store,
            stored,
            dtype: None,
            rounded: None,
            quantized: None,
        })
    }

    /// The model as an unmerged adapter sees it when the weights are rounded to `dtype`: what the
    /// adapter computes from a weight is computed from the rounded weight, as in PEFT, which loads
    /// the base in that dtype.
    pub fn seen_rounded(&self, dtype: Dtype) -> Self {
        Self {
            rounded: Some(dtype),
            ..self.clone()
        }
    }

    /// The model with a vocabulary of `size` tokens: the first rows of embedding and head, if there
    /// are more.
    pub fn resized(&self, size: usize) -> Self {
        let mut resized = self.clone();
        resized.spec.resize_vocabulary(size);
        resized
    }

    /// A tensor with more rows than the vocabulary has tokens: its name and its rows. Only the
    /// first ones are used.
    pub fn surplus_rows(&self) -> Option<(String, usize)> {
        let ends = [&self.spec.embed_tokens.source, &self.spec.lm_head.source];
        ends.into_iter().find_map(|source| {
            let name = format!("{source}.weight");
            let whole = find_whole_tensor(&self.spec, &self.store, &name).ok()?;
            let rows = *whole.shape.first()?;
            (rows > self.spec.vocab_size).then_some((name, rows))
        })
    }

    /// Whether rounding to `dtype` leaves all tensors unchanged.
    pub fn fits(&self, dtype: Dtype) -> bool {
        let fits = |name| {
            let tensor = self.store.get(name);
            tensor.is_ok_and(|tensor| tensor.stored == dtype.to_safetensors())
        };
        dtype == Dtype::Float32 || self.store.names().all(fits)
    }

    /// The model as an unmerged adapter sees it when the weights are quantized: what the adapter
    /// computes from a weight is computed from the dequantized weight, as in PEFT.
    pub fn seen_quantized(&self, quantization: Quantization, file: Arc<QuantizedFile>) -> Self {
        self.seen_as(QuantizedView {
            quantization,
            file,
            residuals: None,
        })
    }

    /// This view with some quantized weights replaced by `residuals`, which are named by module
    /// paths.
    ///
    /// # Panics
    /// If it's not a view made by [`seen_quantized`](Self::seen_quantized).
    pub fn with_residuals(&self, residuals: QuantizedFile) -> Self {
        let view = self.quantized.as_ref().expect("its weights are quantized");
        self.seen_as(QuantizedView {
            quantization: view.quantization,
            file: Arc::clone(&view.file),
            residuals: Some(residuals),
        })
    }

    fn seen_as(&self, quantized: QuantizedView) -> Self {
        Self {
            quantized: Some(quantized),
            ..self.clone()
        }
    }

    /// The format of the quantized weight that an unmerged adapter sees for `module`, if it's
    /// quantized.
    pub fn quantized_to(&self, module: &Module) -> Option<Format> {
        let view = self.quantized.as_ref()?;
        view.quantization.of(&self.spec, module)
    }

    /// The dequantized weight of `module`, `[out_features, in_features]` or `[tokens, width]`;
    /// `None` if it isn't quantized.
    ///
    /// # Errors
    /// If the file of quantized weights lacks it.
    pub fn dequantized(&self, module: &Module) -> Result<Option<Array2<f32>>, WeightsError> {
        let (Some(view), Some(format), Some([rows, columns])) = (
            &self.quantized,
            self.quantized_to(module),
            module.matrix_size(),
        ) else {
            return Ok(None);
        };
        let own = format!("{}.weight", module.path);
        let found = match &view.residuals {
            Some(residuals) if residuals.has(&own) => (residuals, own),
            _ => (&*view.file, view.quantization.key(&self.spec, module)),
        };
        let (file, key) = found;
        let values = file
            .dequantize(&key, format, rows, columns)
            .map_err(QuantizeError::into_weights)?;
        let matrix = Array2::from_shape_vec((rows, columns), values);
        Ok(Some(matrix.expect(
            "dequantizing gives as many values as the weight has",
        )))
    }

    /// The checkpoint's tensor `source`; checkpoints may lack the architecture's prefix (`model.`).
    ///
    /// # Errors
    /// If the checkpoint has none.
    pub fn tensor<'a>(&'a self, source: &str) -> Result<TensorView<'a>, WeightsError> {
        find_base_tensor(&self.spec, &self.store, source)
    }

    /// These elements of `tensor`: widened, and rounded if this is a rounded view.
    ///
    /// # Errors
    /// If the tensor's dtype isn't a float type.
    pub fn values(
        &self,
        tensor: &TensorView,
        elements: Range<usize>,
    ) -> Result<Vec<f32>, WeightsError> {
        let mut values = tensor.range_to_f32(elements)?;
        if let Some(dtype) = self.rounded {
            for value in &mut values {
                *value = round_to(*value, dtype);
            }
        }
        Ok(values)
    }

    /// All values of the checkpoint's tensor `source`, decoded by [`values`](Self::values).
    ///
    /// # Errors
    /// If the checkpoint has none, or its dtype isn't a float type.
    pub fn values_of(&self, source: &str) -> Result<Vec<f32>, WeightsError> {
        let tensor = self.tensor(source)?;
        self.values(&tensor, 0..tensor.elements())
    }

    /// The dtype that the tensor `source` has in memory: the one that the model is used with, else
    /// the stored one.
    ///
    /// # Errors
    /// If the checkpoint has no such tensor, or its dtype isn't a float type.
    pub fn dtype_in_use(&self, source: &str) -> Result<Dtype, WeightsError> {
        match self.dtype {
            Some(dtype) => Ok(dtype),
            None => self.tensor(source)?.dtype(),
        }
    }

    /// The checkpoint's matrix `source` in float32. A linear layer's is `[out_features,
    /// in_features]`, however it's stored. In a quantized view, quantized weights are dequantized.
    ///
    /// # Errors
    /// If the checkpoint has none, it isn't a matrix, or its dtype isn't a float type.
    pub fn matrix(&self, source: &str) -> Result<Array2<f32>, WeightsError> {
        if self.quantized.is_some()
            && let Some(path) = source.strip_suffix(".weight")
            && let Some(module) = self
                .spec
                .modules()
                .iter()
                .find(|module| module.source == path)
            && let Some(matrix) = self.dequantized(module)?
        {
            return Ok(matrix);
        }
        self.full_matrix(source)
    }

    /// The full-precision matrix `source`, even in a quantized view: for what PEFT computes from
    /// the weights once, before training.
    ///
    /// # Errors
    /// As [`matrix`](Self::matrix).
    pub fn full_matrix(&self, source: &str) -> Result<Array2<f32>, WeightsError> {
        let tensor = self.tensor(source)?;
        let [rows, columns] = tensor.shape[..] else {
            return Err(WeightsError::Layout {
                path: tensor.path.to_owned(),
                message: format!(
                    "tensor `{source}` has shape {:?}, expected a matrix",
                    tensor.shape
                ),
            });
        };
        if self.spec.has_row_a_token(source) && rows < self.spec.vocab_size {
            return Err(WeightsError::Layout {
                path: tensor.path.to_owned(),
                message: format!(
                    "tensor `{source}` has {rows} rows, but the adapter works with those of {} tokens",
                    self.spec.vocab_size
                ),
            });
        }
        let values = self.values(&tensor, 0..tensor.elements())?;
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

    /// Parameters and stored bytes of the distinct tensors that the model uses.
    ///
    /// # Errors
    /// If one is missing.
    pub fn size(&self) -> Result<ModelSize, WeightsError> {
        self.size_as(&self.spec)
    }

    /// Parameters and stored bytes of the distinct tensors that `spec` uses, such as this model
    /// with replicated layers.
    ///
    /// # Errors
    /// If one is missing.
    pub fn size_as(&self, spec: &DecoderSpec) -> Result<ModelSize, WeightsError> {
        let mut distinct = BTreeMap::new();
        for module in spec.modules() {
            for (name, shape) in module.parameters() {
                let source = module.tensor(name);
                let bytes = self.tensor(&source)?.stored_bytes();
                let is_buffer = module.is_buffer(name);
                let count = if is_buffer { 0 } else { shape.iter().product() };
                distinct.insert(source, (count, bytes));
            }
        }
        Ok(ModelSize {
            parameters: distinct
                .values()
                .map(|(count, _): &(usize, u64)| count)
                .sum(),
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

/// Decides ties as Transformers does, which looks at the tensors: if a checkpoint has both tensors
/// and they differ, they stay separate; if it has a head and no embedding, the head serves as both.
fn tie_as_stored(spec: &mut DecoderSpec, store: &TensorStore) {
    if !spec.tied() {
        return;
    }
    let path = spec.stored_name(&spec.lm_head.path);
    let stored = |source: &str| find_base_tensor(spec, store, &format!("{source}.weight"));
    match (stored(&spec.embed_tokens.source), stored(&path)) {
        (Ok(embedding), Ok(head)) => {
            let is_packed = embedding.is_packed() || head.is_packed();
            if is_packed || (&embedding.shape, embedding.bytes) != (&head.shape, head.bytes) {
                spec.lm_head.source = path;
            }
        }
        (Err(_), Ok(_)) => {
            spec.embed_tokens.source.clone_from(&path);
            spec.lm_head.source = path;
        }
        (_, Err(_)) => {}
    }
}

/// Refuses weights in float64: graphs map a base's files directly, in the types that they compute
/// with.
fn refuse_doubles(spec: &DecoderSpec, store: &TensorStore) -> Result<(), WeightsError> {
    for module in spec.modules() {
        for (name, _) in module.parameters() {
            let found = find_base_tensor(spec, store, &module.tensor(name));
            if let Ok(tensor) = found
                && tensor.stored == safetensors::Dtype::F64
            {
                return Err(WeightsError::Layout {
                    path: tensor.path.to_owned(),
                    message: format!(
                        "tensor `{}` is in float64; supported are float32, float16 and bfloat16. This command rounds \
                         the file to float32: {}",
                        tensor.name,
                        round_doubles(tensor.path)
                    ),
                });
            }
        }
    }
    Ok(())
}

/// Quantized weights are always `[out_features, in_features]`, also those of layers that store
/// floats the other way round.
fn take_outputs_first(spec: &mut DecoderSpec, store: &TensorStore) {
    let packed = |linear: &arch::Linear| {
        let name = format!("{}.weight", linear.source);
        store.find(&name).is_some_and(|tensor| tensor.is_packed())
    };
    for layer in &mut spec.layers {
        let attention = layer.attention.iter_mut();
        let linears = attention.flat_map(arch::Attention::linears_mut);
        for linear in linears.chain(layer.mlp.linears_mut()) {
            if packed(linear) {
                linear.stored = arch::Stored::OutIn;
            }
        }
    }
}

/// The size of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelSize {
    /// Number of distinct parameters; a tied head counts once.
    pub parameters: usize,
    /// Bytes of the tensors in the checkpoint.
    pub stored_bytes: u64,
}
