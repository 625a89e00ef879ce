//! What the configurations beside a graph say: `genai_config.json` of onnxruntime-genai, `config.json`
//! of Transformers and `export.json` of its exporter.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::ForeignError;
use super::names::Names;
use crate::files;

/// onnxruntime-genai's file. It names the graph and everything that's bound to it.
pub const GENAI_CONFIG: &str = "genai_config.json";
/// The checkpoint's configuration, which most exporters copy.
const CONFIG: &str = "config.json";
/// The file of Transformers' exporter.
const EXPORT: &str = "export.json";

/// What's known of a graph apart from itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct FolderConfig {
    /// What the model is called.
    pub name: Option<String>,
    /// The graph's file.
    pub graph: Option<PathBuf>,
    /// What inputs and outputs are called.
    pub names: Names,
    /// Positions that the model supports.
    pub context_length: Option<usize>,
    /// Rows of the head.
    pub vocab_size: Option<usize>,
    /// Width of a head of keys and values.
    pub head_size: Option<usize>,
    /// Heads of keys and values.
    pub kv_heads: Option<usize>,
    /// Width of the token embedding.
    pub hidden_size: Option<usize>,
    /// Whether buffers of the cache may be shared by inputs and outputs.
    pub shares_buffers: Option<bool>,
    /// The program that exported it.
    pub exporter: Option<String>,
}

#[derive(Deserialize)]
struct GenaiConfig {
    model: GenaiModel,
    #[serde(default)]
    search: GenaiSearch,
}

#[derive(Deserialize)]
struct GenaiModel {
    #[serde(default)]
    context_length: Option<usize>,
    #[serde(default)]
    vocab_size: Option<usize>,
    decoder: GenaiDecoder,
}

#[derive(Deserialize)]
struct GenaiDecoder {
    #[serde(default)]
    filename: Option<PathBuf>,
    #[serde(default)]
    head_size: Option<usize>,
    #[serde(default)]
    hidden_size: Option<usize>,
    #[serde(default)]
    num_key_value_heads: Option<usize>,
    #[serde(default)]
    inputs: BTreeMap<String, Value>,
    #[serde(default)]
    outputs: BTreeMap<String, Value>,
    #[serde(default)]
    pipeline: Option<Value>,
}

#[derive(Default, Deserialize)]
struct GenaiSearch {
    #[serde(default)]
    past_present_share_buffer: Option<bool>,
}

/// `config.json`, with the names that families have for the same.
#[derive(Default, Deserialize)]
struct ModelConfig {
    #[serde(default, rename = "_name_or_path")]
    name: Option<String>,
    #[serde(default, alias = "n_positions", alias = "max_seq_len")]
    max_position_embeddings: Option<usize>,
    #[serde(default)]
    vocab_size: Option<usize>,
    #[serde(default)]
    head_dim: Option<usize>,
    #[serde(default, alias = "n_embd", alias = "d_model")]
    hidden_size: Option<usize>,
    #[serde(default, alias = "n_head", alias = "n_heads")]
    num_attention_heads: Option<usize>,
    #[serde(default)]
    num_key_value_heads: Option<usize>,
}

#[derive(Default, Deserialize)]
struct ExportConfig {
    #[serde(default)]
    components: BTreeMap<String, Component>,
}

#[derive(Deserialize)]
struct Component {
    #[serde(default)]
    metadata: ComponentMetadata,
}

#[derive(Default, Deserialize)]
struct ComponentMetadata {
    #[serde(default)]
    packages: BTreeMap<String, String>,
}

impl FolderConfig {
    /// Reads what's in `folder`.
    ///
    /// # Errors
    /// If a configuration that's there can't be read.
    pub fn read(folder: &Path) -> Result<Self, ForeignError> {
        let model: ModelConfig = read(&folder.join(CONFIG))?.unwrap_or_default();
        let export: ExportConfig = read(&folder.join(EXPORT))?.unwrap_or_default();
        let mut config = Self {
            name: model.name.filter(|name| !name.is_empty()),
            context_length: model.max_position_embeddings,
            vocab_size: model.vocab_size,
            head_size: model.head_dim.or_else(|| {
                let heads = model.num_attention_heads.filter(|heads| *heads > 0)?;
                Some(model.hidden_size? / heads)
            }),
            kv_heads: model.num_key_value_heads.or(model.num_attention_heads),
            hidden_size: model.hidden_size,
            exporter: export.components.values().find_map(|component| {
                let version = component.metadata.packages.get("transformers")?;
                Some(format!("transformers {version}"))
            }),
            ..Self::default()
        };
        let path = folder.join(GENAI_CONFIG);
        if let Some(genai) = read::<GenaiConfig>(&path)? {
            config.take(genai, &path)?;
        }
        Ok(config)
    }

    /// Takes what `genai` has, which the file at `path` says.
    fn take(&mut self, genai: GenaiConfig, path: &Path) -> Result<(), ForeignError> {
        let decoder = genai.model.decoder;
        if decoder.pipeline.is_some() {
            return Err(ForeignError::Pipeline(path.to_owned()));
        }
        let name = |names: &BTreeMap<String, Value>, key: &str| {
            names.get(key).and_then(Value::as_str).map(str::to_owned)
        };
        let pattern = |names: &BTreeMap<String, Value>, keys: [&str; 2]| {
            let [key, value] = keys.map(|key| name(names, key));
            key.zip(value).map(|(key, value)| vec![[key, value]])
        };
        let (inputs, outputs) = (&decoder.inputs, &decoder.outputs);
        let usual = Names::default();
        self.names = Names {
            ids: name(inputs, "input_ids").unwrap_or(usual.ids),
            mask: name(inputs, "attention_mask").unwrap_or(usual.mask),
            positions: name(inputs, "position_ids").unwrap_or(usual.positions),
            logits: name(outputs, "logits").unwrap_or(usual.logits),
            past: pattern(inputs, ["past_key_names", "past_value_names"]).unwrap_or(usual.past),
            present: pattern(outputs, ["present_key_names", "present_value_names"])
                .unwrap_or(usual.present),
        };
        self.graph = decoder.filename;
        self.context_length = genai.model.context_length.or(self.context_length);
        self.vocab_size = genai.model.vocab_size.or(self.vocab_size);
        self.head_size = decoder.head_size.or(self.head_size);
        self.kv_heads = decoder.num_key_value_heads.or(self.kv_heads);
        self.hidden_size = decoder.hidden_size.or(self.hidden_size);
        self.shares_buffers = genai.search.past_present_share_buffer;
        Ok(())
    }
}

/// The file at `path`; `None` if there's none.
fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ForeignError> {
    let text = match files::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            let path = path.to_owned();
            return Err(ForeignError::Read { path, source });
        }
    };
    let parsed = serde_json::from_slice(&text);
    parsed.map(Some).map_err(|source| ForeignError::Parse {
        path: path.to_owned(),
        source,
    })
}
