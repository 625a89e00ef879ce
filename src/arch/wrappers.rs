//! Multimodal models. Only their decoder is used, the text tower; their towers for images and
//! sounds don't affect prompts of text alone.
//!
//! A tower's `text_config` is read like the `config.json` of its family. Its modules are below
//! `model.language_model`, whereas those of the family are below `model`; the head is `lm_head` in
//! both. Tensors have other names in checkpoints, depending on the version of Transformers that
//! wrote them ([`locate`]).
//!
//! For text, the three axes of `mrope` have the same positions, so it's the plain rotation.
//!
//! Source: `configuration_*.py`, `conversion_mapping.py`, Hugging Face Transformers.

mod locate;
mod table;

pub use locate::locate;
use table::TEXT_MODELS;
pub use table::WRAPPERS;

use super::families::{self, DefaultTargets, FAMILIES, Family};
use super::read::{object, with_defaults};
use super::{DecoderSpec, PromptAttention, Tower};
use crate::json::check::nearest_three;
use crate::json::{ConfigError, JsonObject};

/// A wrapper: multimodal models with the same `model_type`.
#[derive(Debug)]
pub struct Wrapper {
    /// `model_type` of `config.json`.
    pub model_type: &'static str,
    /// Their common name.
    pub name: &'static str,
    /// The text tower's `model_type`.
    pub text: Text,
    /// The path of the tower, with a dot at its end.
    below: &'static str,
    /// The modules that methods adapt by default.
    pub targets: DefaultTargets,
    /// Where `tie_word_embeddings` is read.
    tied: Tied,
    /// Whether old files have the tower's keys at the top level.
    may_be_flat: bool,
    /// Whether the text model's logit scale and soft cap apply. Most wrapper classes apply only the
    /// head.
    adjusts_logits: bool,
    /// What a prompt of text alone attends to.
    prompt: PromptAttention,
}

/// How the text tower's `model_type` is determined.
#[derive(Debug, Clone, Copy)]
pub enum Text {
    /// Always this one.
    Always(&'static str),
    /// That of `text_config`, or this one by default.
    Usually(&'static str),
}

/// Where `tie_word_embeddings` is read.
#[derive(Debug, Clone, Copy)]
enum Tied {
    /// Next to `text_config`, with this default.
    Outside(bool),
    /// Next to `text_config` and in it; one `true` is enough.
    Anywhere,
    /// Next to `text_config` if it's there, otherwise in it.
    OutsideFirst,
}

/// A text model that is no family of its own.
#[derive(Debug)]
struct TextModel {
    model_type: &'static str,
    /// The family with the same computation.
    family: &'static str,
    /// Defaults of keys, as in [`Family::nested_defaults`].
    defaults: &'static str,
    /// Values that override the keys, as JSON.
    fixed: &'static str,
}

/// The wrapper with this `model_type`.
pub fn wrapper(model_type: &str) -> Option<&'static Wrapper> {
    let mut wrappers = WRAPPERS.iter();
    wrappers.find(|wrapper| wrapper.model_type == model_type)
}

impl Text {
    /// The `model_type` of its towers, or the default one.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Always(model_type) | Self::Usually(model_type) => model_type,
        }
    }

    /// The family that computes the same; `None` if it isn't supported.
    pub fn family(self) -> Option<&'static Family> {
        family(self.model_type())
    }
}

/// The family that computes the same as the text model `model_type`.
fn family(model_type: &str) -> Option<&'static Family> {
    families::family(text_model(model_type).map_or(model_type, |known| known.family))
}

fn text_model(model_type: &str) -> Option<&'static TextModel> {
    let mut known = TEXT_MODELS.iter();
    known.find(|known| known.model_type == model_type)
}

/// Reads a model that a wrapper would hold as its text model, but which stands alone; `None` if
/// `model_type` is none.
///
/// # Errors
/// For the reasons of its family.
pub(super) fn text_model_alone(
    model_type: &str,
    config: &JsonObject,
) -> Option<Result<DecoderSpec, ConfigError>> {
    let known = text_model(model_type)?;
    let family = families::family(known.family)?;
    let read = (family.read)(&known.complete(config.clone()));
    Some(read.map(|spec| DecoderSpec {
        model_type: known.family.to_owned(),
        ..spec
    }))
}

impl Wrapper {
    /// Reads the architecture of the text tower.
    ///
    /// # Errors
    /// If its text model isn't supported, or for the reasons of the family.
    pub(super) fn spec(&self, config: &JsonObject) -> Result<DecoderSpec, ConfigError> {
        let text = self.text_config(config)?;
        let found = match self.text {
            Text::Always(model_type) => model_type,
            Text::Usually(model_type) => text.optional_text("model_type")?.unwrap_or(model_type),
        };
        let Some(family) = family(found) else {
            let names = FAMILIES.iter().map(|family| family.model_type);
            return Err(ConfigError::Unknown {
                path: config.path().to_owned(),
                key: "text_config.model_type",
                found: found.to_owned(),
                nearest: nearest_three(found, &names.collect::<Vec<&str>>()),
                listing: "models",
            });
        };
        let mut text = match text_model(found) {
            Some(known) => known.complete(text),
            None => with_defaults(text, family.nested_defaults.unwrap_or("{}")),
        };
        // With `vision`, attention is causal in prompts without images. Where prompts are seen as a
        // whole, Transformers follows the processor's token types, not this key.
        const BOTH_WAYS: &str = "use_bidirectional_attention";
        let of_images = text.json().get(BOTH_WAYS) == Some(&"vision".into());
        if of_images || self.prompt == PromptAttention::Whole {
            text = text.with(BOTH_WAYS, false.into());
        }
        let tied = self.is_tied(config, &text)?;
        let mut spec = (family.read)(&text.with("tie_word_embeddings", tied.into()))?;
        spec.model_type = self.model_type.to_owned();
        if !self.adjusts_logits {
            (spec.logit_scale, spec.logit_softcap) = (None, None);
        }
        for attention in spec.attentions_mut() {
            attention.prompt = self.prompt;
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

    /// Moves the tower's modules to their paths in the wrapper.
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

impl TextModel {
    /// Completes `text`.
    fn complete(&self, text: JsonObject) -> JsonObject {
        let mut completed = with_defaults(text, self.defaults);
        for (key, value) in object(self.fixed) {
            completed = completed.with(&key, value);
        }
        completed
    }
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
        let nothing = || JsonObject::of(Path::new("x"), json!({}));
        for known in TEXT_MODELS {
            assert!(family(known.model_type).is_some(), "{}", known.model_type);
            known.complete(nothing());
        }
        for family in FAMILIES {
            with_defaults(nothing(), family.nested_defaults.unwrap_or("{}"));
        }
        for (index, wrapper) in WRAPPERS.iter().enumerate() {
            let same = |other: &&Wrapper| other.model_type == wrapper.model_type;
            assert_eq!(WRAPPERS.iter().position(|other| same(&other)), Some(index));
        }
    }

    #[test]
    fn a_nested_configuration_gets_its_familys_defaults() {
        // As in LLaVA 1.5.
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
    fn a_text_model_without_its_wrapper_is_read_as_its_family() {
        let sizes = json!({"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": 8,
            "num_hidden_layers": 2, "n_routed_experts": 8, "n_group": 1, "topk_group": 1, "scoring_func": "sigmoid"});
        let named = |model_type: &str| {
            let mut config = sizes.clone();
            config["model_type"] = json!(model_type);
            config
        };
        let own = read(named("kimi_k2")).unwrap();
        // The family has no defaults where it stands alone.
        let mut all = named("deepseek_v3");
        all["vocab_size"] = json!(163_840);
        all["intermediate_size"] = json!(18_432);
        let same = read(all).unwrap();
        assert_eq!(own.model_type, "deepseek_v3");
        assert_eq!(own.vocab_size, 163_840);
        assert_eq!(format!("{:?}", own.layers), format!("{:?}", same.layers));
        assert_eq!(own.layers[0].path, "model.layers.0");
    }

    #[test]
    fn the_wrapper_decides_whether_head_and_embedding_are_tied() {
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
    fn the_prompts_of_paligemma_are_seen_as_a_whole() {
        let whole = |model_type: &str, text: Value| {
            let config = json!({"model_type": model_type, "text_config": text});
            read(config).unwrap().takes_whole_prompts()
        };
        assert!(whole("paligemma", json!({})));
        let second = json!({"model_type": "gemma2", "use_bidirectional_attention": true});
        assert!(whole("paligemma", second));
        assert!(!whole("llava", json!({})));
    }

    #[test]
    fn towers_that_are_not_causal_for_text_are_refused() {
        let gemma = |value: Value| {
            let text = json!({"use_bidirectional_attention": value});
            read(json!({"model_type": "gemma3", "text_config": text}))
        };
        assert!(gemma(json!(null)).is_ok() && gemma(json!("vision")).is_ok());
        assert!(gemma(json!(true)).is_err() && gemma(json!("all")).is_err());
    }
}
