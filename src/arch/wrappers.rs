//! Multimodal checkpoints: a decoder, their text tower, beside towers for images and sounds, which text alone never reaches.
//!
//! The tower's `text_config` is read as the family's own `config.json`. Its modules stand below `model.language_model`, where
//! those of the family's own checkpoints stand below `model`; the head is `lm_head` as ever. Checkpoints hold the tensors under
//! other names, which differ with the version of Transformers that wrote them ([`locate`]).
//!
//! For text, the positions of all three axes of `mrope` are the same, so that it's the plain rotation.
//!
//! Source: `configuration_*.py`, `conversion_mapping.py`, Hugging Face Transformers.

use super::families::{FAMILIES, Family};
use super::names::bare;
use super::{DecoderSpec, Tower};
use crate::json::{ConfigError, JsonObject};
use crate::weights::{TensorStore, WeightsError};

/// Multimodal models with the same `model_type`.
#[derive(Debug)]
pub struct Wrapper {
    /// `model_type` of `config.json`.
    pub model_type: &'static str,
    /// What people call them.
    pub name: &'static str,
    /// The text tower's `model_type`.
    pub text: Text,
    /// Where the tower stands.
    below: &'static str,
    /// Whether head and embedding share a tensor.
    tied: Tied,
    /// Old files have the tower's keys among the others.
    may_be_flat: bool,
    /// Whether the text model's scale and cap of the logits count here, too. Most classes apply the head alone.
    adjusts_logits: bool,
    /// Why it isn't supported, if so.
    pub refused: Option<&'static str>,
}

/// What a wrapper says of the text tower's `model_type`.
#[derive(Debug, Clone, Copy)]
pub enum Text {
    /// It's always this one.
    Always(&'static str),
    /// It's in `text_config`; this one where it's absent.
    Usually(&'static str),
}

/// Where `tie_word_embeddings` is read.
#[derive(Debug, Clone, Copy)]
enum Tied {
    /// Beside `text_config`, with this default.
    Outside(bool),
    /// It's enough if it's `true` there or in `text_config`.
    Anywhere,
    /// Beside `text_config`, or else in it.
    OutsideFirst,
}

const LANGUAGE_MODEL: &str = "model.language_model.";

const LLAVA: Wrapper = Wrapper {
    model_type: "llava",
    name: "LLaVA 1.5",
    text: Text::Usually("llama"),
    below: LANGUAGE_MODEL,
    tied: Tied::Outside(false),
    may_be_flat: false,
    adjusts_logits: false,
    refused: None,
};

/// All of them.
pub const WRAPPERS: &[Wrapper] = &[
    Wrapper {
        model_type: "gemma3",
        name: "Gemma 3",
        text: Text::Always("gemma3_text"),
        tied: Tied::Outside(true),
        adjusts_logits: true,
        ..LLAVA
    },
    Wrapper {
        model_type: "qwen2_vl",
        name: "Qwen2-VL",
        text: Text::Always("qwen2_vl_text"),
        tied: Tied::Anywhere,
        may_be_flat: true,
        ..LLAVA
    },
    Wrapper {
        model_type: "qwen2_5_vl",
        name: "Qwen2.5-VL",
        text: Text::Always("qwen2_5_vl_text"),
        tied: Tied::Anywhere,
        may_be_flat: true,
        ..LLAVA
    },
    Wrapper {
        model_type: "qwen3_vl",
        name: "Qwen3-VL",
        text: Text::Always("qwen3_vl_text"),
        ..LLAVA
    },
    Wrapper {
        model_type: "qwen3_vl_moe",
        name: "Qwen3-VL with experts",
        text: Text::Always("qwen3_vl_moe_text"),
        ..LLAVA
    },
    Wrapper {
        model_type: "mistral3",
        name: "Mistral Small 3.1 and 3.2",
        text: Text::Usually("mistral"),
        tied: Tied::Outside(true),
        ..LLAVA
    },
    Wrapper {
        model_type: "idefics3",
        name: "Idefics3, SmolVLM",
        text: Text::Usually("llama"),
        below: "model.text_model.",
        ..LLAVA
    },
    Wrapper {
        model_type: "smolvlm",
        name: "SmolVLM2",
        text: Text::Usually("llama"),
        below: "model.text_model.",
        ..LLAVA
    },
    Wrapper {
        model_type: "idefics2",
        name: "Idefics2",
        text: Text::Usually("mistral"),
        below: "model.text_model.",
        ..LLAVA
    },
    Wrapper {
        tied: Tied::Anywhere,
        ..LLAVA
    },
    Wrapper {
        model_type: "llava_next",
        name: "LLaVA-NeXT, Granite Vision",
        ..LLAVA
    },
    Wrapper {
        model_type: "llava_next_video",
        name: "LLaVA-NeXT-Video",
        tied: Tied::Anywhere,
        ..LLAVA
    },
    Wrapper {
        model_type: "llava_onevision",
        name: "LLaVA-OneVision",
        text: Text::Usually("qwen2"),
        tied: Tied::Anywhere,
        ..LLAVA
    },
    Wrapper {
        model_type: "video_llava",
        name: "Video-LLaVA",
        ..LLAVA
    },
    Wrapper {
        model_type: "vipllava",
        name: "ViP-LLaVA",
        ..LLAVA
    },
    Wrapper {
        model_type: "internvl",
        name: "InternVL 3",
        text: Text::Usually("qwen2"),
        tied: Tied::Outside(true),
        ..LLAVA
    },
    Wrapper {
        model_type: "aya_vision",
        name: "Aya Vision",
        text: Text::Usually("cohere2"),
        tied: Tied::Outside(true),
        ..LLAVA
    },
    Wrapper {
        model_type: "got_ocr2",
        name: "GOT-OCR 2",
        text: Text::Usually("qwen2"),
        tied: Tied::Outside(true),
        ..LLAVA
    },
    Wrapper {
        model_type: "fast_vlm",
        name: "FastVLM",
        text: Text::Usually("qwen2"),
        tied: Tied::Anywhere,
        ..LLAVA
    },
    Wrapper {
        model_type: "perception_lm",
        name: "Perception LM",
        tied: Tied::OutsideFirst,
        ..LLAVA
    },
    Wrapper {
        model_type: "lighton_ocr",
        name: "LightOnOCR",
        text: Text::Usually("qwen3"),
        tied: Tied::Outside(true),
        ..LLAVA
    },
    Wrapper {
        model_type: "paligemma",
        name: "PaliGemma",
        text: Text::Usually("gemma"),
        tied: Tied::Outside(true),
        adjusts_logits: true,
        refused: Some("prompt tokens attend in both directions"),
        ..LLAVA
    },
];

/// A `model_type` that `text_config` may have.
#[derive(Debug)]
struct TextModel {
    model_type: &'static str,
    /// The family that computes the same.
    family: &'static str,
    /// What an absent key means. A nested configuration lacks the keys that have their default, those without which the family
    /// can't be read among them. As JSON.
    defaults: &'static str,
    /// What no key changes. As JSON.
    fixed: &'static str,
}

const TEXT_MODELS: &[TextModel] = &[
    TextModel {
        model_type: "llama",
        family: "llama",
        defaults: r#"{"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
            "num_attention_heads": 32}"#,
        fixed: "{}",
    },
    TextModel {
        model_type: "mistral",
        family: "mistral",
        defaults: r#"{"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32}"#,
        fixed: "{}",
    },
    TextModel {
        model_type: "qwen2",
        family: "qwen2",
        defaults: r#"{"vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 32}"#,
        fixed: "{}",
    },
    TextModel {
        model_type: "qwen3",
        family: "qwen3",
        defaults: r#"{"vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 32}"#,
        fixed: "{}",
    },
    TextModel {
        model_type: "gemma",
        family: "gemma",
        defaults: r#"{"vocab_size": 256000, "hidden_size": 3072, "intermediate_size": 24576, "num_hidden_layers": 28,
            "num_attention_heads": 16, "tie_word_embeddings": true}"#,
        fixed: "{}",
    },
    TextModel {
        model_type: "gemma2",
        family: "gemma2",
        defaults: r#"{"vocab_size": 256000, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
            "num_attention_heads": 8, "tie_word_embeddings": true}"#,
        fixed: "{}",
    },
    TextModel {
        model_type: "gemma3_text",
        family: "gemma3_text",
        defaults: r#"{"vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
            "num_attention_heads": 8, "tie_word_embeddings": true}"#,
        fixed: "{}",
    },
    TextModel {
        model_type: "granite",
        family: "granite",
        defaults: r#"{"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
            "num_attention_heads": 32}"#,
        fixed: "{}",
    },
    TextModel {
        model_type: "cohere",
        family: "cohere",
        defaults: r#"{"vocab_size": 256000, "hidden_size": 8192, "intermediate_size": 22528, "num_hidden_layers": 40,
            "num_attention_heads": 64, "tie_word_embeddings": true}"#,
        fixed: "{}",
    },
    TextModel {
        model_type: "phi",
        family: "phi",
        defaults: r#"{"vocab_size": 51200, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24,
            "num_attention_heads": 32}"#,
        fixed: "{}",
    },
    TextModel {
        model_type: "phi3",
        family: "phi3",
        defaults: r#"{"vocab_size": 32064, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32,
            "num_attention_heads": 32}"#,
        fixed: "{}",
    },
    TextModel {
        model_type: "qwen2_vl_text",
        family: "qwen2",
        defaults: r#"{"vocab_size": 152064, "hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 80,
            "num_attention_heads": 64, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 1e6,
            "max_window_layers": 80}"#,
        fixed: "{}",
    },
    TextModel {
        model_type: "qwen2_5_vl_text",
        family: "qwen2",
        defaults: r#"{"vocab_size": 152064, "hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 80,
            "num_attention_heads": 64, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 1e6,
            "max_window_layers": 80}"#,
        fixed: "{}",
    },
    TextModel {
        model_type: "qwen3_vl_text",
        family: "qwen3",
        defaults: r#"{"vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 128000, "rope_theta": 5e5}"#,
        fixed: r#"{"use_sliding_window": false, "layer_types": null}"#,
    },
    TextModel {
        model_type: "qwen3_vl_moe_text",
        family: "qwen3_moe",
        defaults: r#"{"vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24,
            "num_attention_heads": 16, "num_key_value_heads": 16, "max_position_embeddings": 128000, "rope_theta": 5e5,
            "moe_intermediate_size": 1408, "num_experts_per_tok": 4}"#,
        fixed: r#"{"use_sliding_window": false, "norm_topk_prob": true}"#,
    },
];

/// The wrapper of this `model_type`, if it is one.
pub fn wrapper(model_type: &str) -> Option<&'static Wrapper> {
    let mut wrappers = WRAPPERS.iter();
    wrappers.find(|wrapper| wrapper.model_type == model_type)
}

impl Text {
    /// The `model_type` that its towers have, or have where they say nothing.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Always(model_type) | Self::Usually(model_type) => model_type,
        }
    }

    /// The family that computes the same, if it's supported.
    pub fn family(self) -> Option<&'static Family> {
        family(self.model_type())
    }
}

/// The family that computes what the text model `model_type` does.
fn family(model_type: &str) -> Option<&'static Family> {
    let known = text_model(model_type).map_or(model_type, |known| known.family);
    FAMILIES.iter().find(|family| family.model_type == known)
}

fn text_model(model_type: &str) -> Option<&'static TextModel> {
    let mut known = TEXT_MODELS.iter();
    known.find(|known| known.model_type == model_type)
}

impl Wrapper {
    /// Reads the architecture of the text tower.
    ///
    /// # Errors
    /// If the wrapper or its text model isn't supported, or as the family says.
    pub(super) fn spec(&self, config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
        if let Some(reason) = self.refused {
            let reason = format!("`{}` is not: {reason}", self.model_type);
            return Err(config.refused("model_type", &reason));
        }
        let text = self.text_config(config)?;
        let found = match self.text {
            Text::Always(model_type) => model_type,
            Text::Usually(model_type) => text.optional_text("model_type")?.unwrap_or(model_type),
        };
        let Some(family) = family(found) else {
            let names = FAMILIES.iter().map(|family| family.model_type);
            return Err(ConfigError::Unsupported {
                path: config.path().to_owned(),
                key: "text_config.model_type",
                found: found.to_owned(),
                supported: names.collect::<Vec<&str>>().join(", "),
            });
        };
        let known = text_model(found);
        let mut text = completed(text, known);
        // A prompt without images is causal.
        if text.json().get("use_bidirectional_attention") == Some(&"vision".into()) {
            text = text.with("use_bidirectional_attention", false.into());
        }
        let tied = self.is_tied(config, &text)?;
        let mut spec = (family.read)(&text.with("tie_word_embeddings", tied.into()))?;
        spec.model_type = self.model_type.to_owned();
        if !self.adjusts_logits {
            (spec.logit_scale, spec.logit_softcap) = (None, None);
        }
        self.enclose(&mut spec);
        Ok(spec)
    }

    fn text_config(&self, config: &JsonObject) -> Result<JsonObject, ConfigError> {
        match config.optional_object("text_config")? {
            Some(text) => Ok(text),
            None if self.may_be_flat => Ok(config.clone()),
            None => Err(config.missing("text_config", "the text tower's configuration")),
        }
    }

    fn is_tied(&self, config: &JsonObject, text: &JsonObject) -> Result<bool, ConfigError> {
        const KEY: &str = "tie_word_embeddings";
        match self.tied {
            Tied::Outside(default) => config.flag(KEY, default),
            Tied::Anywhere => Ok(config.flag(KEY, false)? || text.flag(KEY, false)?),
            Tied::OutsideFirst => match config.get(KEY) {
                Some(_) => config.flag(KEY, false),
                None => text.flag(KEY, false),
            },
        }
    }

    /// Gives the tower's modules their places in the wrapper.
    fn enclose(&self, spec: &mut DecoderSpec) {
        let own = spec.base_prefix;
        let moved = |name: &mut String| {
            if let Some(rest) = name.strip_prefix(own) {
                *name = format!("{}{rest}", self.below);
            }
        };
        for (path, source) in spec.names_mut() {
            moved(path);
            moved(source);
        }
        for layer in &mut spec.layers {
            moved(&mut layer.path);
        }
        spec.base_prefix = self.below;
        spec.tower = Some(Tower {
            prefix: self.below.to_owned(),
            head: spec.lm_head.path.clone(),
        });
    }
}

/// `text` with what `known` says of it.
fn completed(text: JsonObject, known: Option<&TextModel>) -> JsonObject {
    let object = |json: &str| {
        let read = serde_json::from_str::<serde_json::Map<_, serde_json::Value>>(json);
        read.expect("the table holds JSON objects")
    };
    let Some(known) = known else { return text };
    let mut completed = text;
    for (key, value) in object(known.defaults) {
        if completed.json().get(&key).is_none() {
            completed = completed.with(&key, value);
        }
    }
    for (key, value) in object(known.fixed) {
        completed = completed.with(&key, value);
    }
    completed
}

/// Finds the names that the tower's tensors have in `store`, and makes them the sources of its modules. Nothing is done for a
/// model without a wrapper.
///
/// # Errors
/// If the checkpoint holds a tensor of the tower under two names.
pub fn locate(spec: &mut DecoderSpec, store: &TensorStore) -> Result<(), WeightsError> {
    let Some(tower) = &spec.tower else {
        return Ok(());
    };
    let found = |name: &str| -> Result<Option<String>, WeightsError> {
        let mut names = store.names().filter(|stored| bare(stored) == bare(name));
        let first = names.next();
        match (first, names.next()) {
            (Some(first), Some(second)) => Err(WeightsError::Layout {
                path: store.path().to_owned(),
                message: format!("`{first}` and `{second}` are two names of the same tensor"),
            }),
            (first, _) => Ok(first.map(str::to_owned)),
        }
    };
    // The embedding isn't there where it's the head's, and no other module is without a layer.
    let linear = &spec.layers[0].attention.o_proj.source;
    let probe = format!("{linear}.weight");
    let prefix = match found(&probe)? {
        Some(name) => name[..name.len() - bare(&probe).len()].to_owned(),
        None => tower.prefix.clone(),
    };
    let head = match found(&format!("{}.weight", tower.head))? {
        Some(name) => name.trim_end_matches(".weight").to_owned(),
        // Before Transformers 4.52 the tower was a whole model, head and all.
        None => match prefix.strip_suffix("model.") {
            Some(around) if !around.is_empty() && around != "model." => {
                format!("{around}{}", tower.head)
            }
            _ => tower.head.clone(),
        },
    };
    let located = Tower { prefix, head };
    let below = spec.base_prefix;
    let own_head = spec.lm_head.path.clone();
    for (_, source) in spec.names_mut() {
        *source = located.name_of(source, below, &own_head);
    }
    spec.tower = Some(located);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;
    use crate::arch::spec;

    fn read(config: Value) -> Result<DecoderSpec, ConfigError> {
        spec(&JsonObject::of(Path::new("config.json"), config))
    }

    #[test]
    fn every_line_of_the_tables_is_json_and_names_a_family() {
        for known in TEXT_MODELS {
            assert!(family(known.model_type).is_some(), "{}", known.model_type);
            completed(
                JsonObject::of(Path::new("x"), json!({})),
                text_model(known.model_type),
            );
        }
        for (index, wrapper) in WRAPPERS.iter().enumerate() {
            let same = |other: &&Wrapper| other.model_type == wrapper.model_type;
            assert_eq!(WRAPPERS.iter().position(|other| same(&other)), Some(index));
        }
    }

    #[test]
    fn a_nested_configuration_has_its_family_s_defaults() {
        // As LLaVA 1.5 has it.
        let text = json!({"model_type": "llama", "vocab_size": 32064, "rms_norm_eps": 1e-5});
        let spec = read(json!({"model_type": "llava", "text_config": text})).unwrap();
        assert_eq!((spec.hidden_size, spec.layers.len()), (4096, 32));
        assert_eq!(spec.vocab_size, 32064);
        assert_eq!(
            spec.layers[31].path, "model.language_model.layers.31",
            "the tower is inside"
        );
        assert_eq!(spec.lm_head.path, "lm_head");
    }

    #[test]
    fn the_wrapper_says_whether_head_and_embedding_are_one() {
        for (wrapper, outside, inside, tied) in [
            ("gemma3", None, json!(false), true),
            ("gemma3", Some(false), json!(true), false),
            ("mistral3", None, json!(false), true),
            ("llava", Some(false), json!(true), true),
            ("llava_next", None, json!(true), false),
            ("qwen2_vl", None, json!(true), true),
            ("qwen3_vl", None, json!(true), false),
            ("perception_lm", None, json!(true), true),
            ("perception_lm", Some(false), json!(true), false),
        ] {
            let text = json!({"num_hidden_layers": 1, "tie_word_embeddings": inside});
            let mut config = json!({"model_type": wrapper, "text_config": text});
            if let Some(outside) = outside {
                config["tie_word_embeddings"] = json!(outside);
            }
            assert_eq!(
                read(config).unwrap().says_tied(),
                tied,
                "{wrapper} {outside:?}"
            );
        }
    }

    #[test]
    fn the_text_model_s_logits_are_adjusted_only_where_the_wrapper_does_so() {
        let adjusted = |wrapper: &str, text: Value| {
            let spec = read(json!({"model_type": wrapper, "text_config": text})).unwrap();
            spec.logit_scale.is_some() || spec.logit_softcap.is_some()
        };
        let granite = json!({"model_type": "granite", "logits_scaling": 8.0});
        assert!(!adjusted("llava_next", granite));
        assert!(!adjusted("aya_vision", json!({"model_type": "cohere"})));
        assert!(!adjusted("llava", json!({"model_type": "gemma2"})));
        assert!(adjusted("gemma3", json!({"final_logit_softcapping": 30.0})));
    }

    #[test]
    fn a_flat_configuration_is_its_own_text_configuration() {
        let flat = json!({"model_type": "qwen2_5_vl", "hidden_size": 64, "num_attention_heads": 4,
            "num_key_value_heads": 2, "num_hidden_layers": 2, "intermediate_size": 32, "vocab_size": 8,
            "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}});
        let spec = read(flat.clone()).unwrap();
        assert_eq!(spec.hidden_size, 64);
        let mut other = flat;
        other["model_type"] = json!("qwen3_vl");
        assert!(read(other).is_err());
    }

    #[test]
    fn what_a_text_prompt_does_not_make_causal_is_refused() {
        let paligemma = read(json!({"model_type": "paligemma", "text_config": {}}));
        assert!(paligemma.unwrap_err().to_string().contains("directions"));
        let gemma = |value: Value| {
            let text = json!({"use_bidirectional_attention": value});
            read(json!({"model_type": "gemma3", "text_config": text}))
        };
        assert!(gemma(json!(null)).is_ok() && gemma(json!("vision")).is_ok());
        assert!(gemma(json!(true)).is_err() && gemma(json!("all")).is_err());
    }
}
