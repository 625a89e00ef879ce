//! `genai_config.json`, with which onnxruntime-genai runs the folder.

use std::path::Path;

use serde_json::{Value, json};

use crate::files;
use crate::model::BaseModel;
use crate::prepared::{GRAPH, Manifest};

/// The file's name.
pub const CONFIG: &str = "genai_config.json";

/// onnxruntime-genai knows a closed list of types, and most families aren't in it. Whatever is
/// particular to a family is in the graph, whose inputs and outputs are those of this type.
const TYPE: &str = "llama";

/// The most positions for which a cache is made unless a caller asks for more:
/// onnxruntime-genai allocates all of it at once.
const MAX_LENGTH: usize = 2048;

/// Ids with a meaning for generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecialTokens {
    /// The token that a text begins with, if there's one.
    pub bos: Option<u32>,
    /// Tokens that end a text.
    pub eos: Vec<u32>,
    /// Padding, which onnxruntime-genai takes away from prompts: an id that no prompt contains.
    pub pad: u32,
}

impl SpecialTokens {
    /// Reads them from the base's `generation_config.json`, or else its `config.json`.
    pub fn of(base: &BaseModel, manifest: &Manifest) -> Self {
        let config = base.config.json();
        let generation = generation_config(&base.folder);
        let places = [&generation, config, &config["text_config"]];
        let find = |key: &str| {
            let found = places.iter().map(|place| &place[key]);
            found.into_iter().find(|value| !value.is_null())
        };
        let known = |value: &Value| {
            let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
            id.filter(|&id| (id as usize) < manifest.vocab_size)
        };
        let eos = match find("eos_token_id") {
            Some(Value::Array(ids)) => ids.iter().filter_map(known).collect(),
            Some(id) => known(id).into_iter().collect(),
            None => Vec::new(),
        };
        Self {
            bos: find("bos_token_id").and_then(known),
            eos,
            // The graph reads the last embedding for it, whose row is masked.
            pad: u32::try_from(manifest.vocab_size).unwrap_or(u32::MAX),
        }
    }
}

/// The content of the base's `generation_config.json`; null without one.
fn generation_config(folder: &Path) -> Value {
    let text = files::read(&folder.join(super::GENERATION));
    let value = text
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok());
    value.unwrap_or(Value::Null)
}

/// How many positions a cache has unless a caller asks for more.
pub fn usual_length(manifest: &Manifest) -> usize {
    manifest.max_position_embeddings.min(MAX_LENGTH)
}

/// The file's content.
pub fn config(base: &BaseModel, manifest: &Manifest, tokens: &SpecialTokens) -> Value {
    let first = manifest.cache.iter().flatten().next();
    let (heads, width) = first.copied().unwrap_or((0, 0));
    let attention = base.spec.first_attention();
    let query_heads = attention.map_or(0, |first| first.num_attention_heads);
    let eos = match tokens.eos[..] {
        [only] => json!(only),
        _ => json!(tokens.eos),
    };
    let mut model = json!({
        "type": TYPE,
        "pad_token_id": tokens.pad,
        "eos_token_id": eos,
        "context_length": manifest.max_position_embeddings,
        "vocab_size": manifest.vocab_size,
        "decoder": {
            "filename": GRAPH,
            "session_options": { "log_id": "onnxruntime-genai", "provider_options": [] },
            "head_size": width,
            "hidden_size": base.spec.embed_tokens.embedding_dim,
            "num_attention_heads": query_heads,
            "num_hidden_layers": manifest.cache.len(),
            "num_key_value_heads": heads,
            "inputs": {
                "input_ids": "input_ids",
                "attention_mask": "attention_mask",
                "past_key_names": "past_key_values.%d.key",
                "past_value_names": "past_key_values.%d.value"
            },
            "outputs": {
                "logits": "logits",
                "present_key_names": "present.%d.key",
                "present_value_names": "present.%d.value"
            }
        }
    });
    if let Some(bos) = tokens.bos {
        model["bos_token_id"] = json!(bos);
    }
    json!({
        "model": model,
        "search": {
            "do_sample": false,
            "max_length": usual_length(manifest),
            "past_present_share_buffer": true
        }
    })
}
