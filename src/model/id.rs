//! Names of base models.

use std::fmt;
use std::path::PathBuf;

use super::ModelError;
use super::hub::HubId;

/// A base model's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelId {
    /// A folder in Hugging Face layout.
    Local(PathBuf),
    /// `org/name[@revision]`
    Hub(HubId),
    /// `synthetic/<shape>`
    Synthetic(String),
}

/// Old hub names without an owner, and the current names: configurations still use the old ones.
const WITHOUT_OWNER: [(&str, &str); 5] = [
    ("gpt2", "openai-community/gpt2"),
    ("gpt2-medium", "openai-community/gpt2-medium"),
    ("gpt2-large", "openai-community/gpt2-large"),
    ("gpt2-xl", "openai-community/gpt2-xl"),
    ("distilgpt2", "distilbert/distilgpt2"),
];

/// How names of quantized copies end, the longest first.
const QUANTIZED_ENDS: [&str; 9] = [
    "-unsloth-bnb-4bit",
    "-bnb-4bit",
    "-bnb-8bit",
    "-gptq-int4",
    "-gptq-int8",
    "-gptq",
    "-awq",
    "-fp8-dynamic",
    "-fp8",
];

impl ModelId {
    /// Parses a name. An existing folder is a folder; what can only be a path is never looked up on
    /// the hub.
    ///
    /// # Errors
    /// If it's neither a folder, nor a hub id, nor `synthetic/<shape>`.
    pub fn parse(text: &str) -> Result<Self, ModelError> {
        if let Some(shape) = text.strip_prefix("synthetic/") {
            return Ok(Self::Synthetic(shape.to_owned()));
        }
        let path = PathBuf::from(text);
        if path.is_dir() {
            return Ok(Self::Local(path));
        }
        if let Some((_, id)) = WITHOUT_OWNER.iter().find(|(name, _)| *name == text) {
            return Ok(Self::Hub(HubId::parse(id)?));
        }
        let only_a_path = text.starts_with(['/', '.', '~']) || text.matches('/').count() != 1;
        if only_a_path {
            return Err(ModelError::Id(text.to_owned()));
        }
        Ok(Self::Hub(HubId::parse(text)?))
    }

    /// For a hub id that names a quantized copy of a model, where the 16-bit model may be found: an
    /// addition to the message of what went wrong. Empty for any other.
    pub fn hint_of_16_bits(&self) -> String {
        let Self::Hub(id) = self else {
            return String::new();
        };
        let name = id.to_string();
        let name = name.split('@').next().unwrap_or_default();
        let lower = name.to_lowercase();
        let end = QUANTIZED_ENDS.iter().find(|end| lower.ends_with(*end));
        end.map_or(String::new(), |end| {
            let of = &name[..name.len() - end.len()];
            format!(
                "; by its name it's a quantized copy of `{of}`, whose 16-bit weights `--model {of}` takes, and \
                 `--quantize 4bit` or `nf4` makes as small"
            )
        })
    }

    /// Whether the weights are random numbers that this program makes.
    pub fn is_synthetic(&self) -> bool {
        matches!(self, Self::Synthetic(_))
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => write!(f, "{}", path.display()),
            Self::Synthetic(shape) => write!(f, "synthetic/{shape}"),
            Self::Hub(id) => write!(f, "{id}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_16_bit_model_of_a_quantized_copy_is_named() {
        let hint = |id: &str| ModelId::parse(id).unwrap().hint_of_16_bits();
        let found = hint("unsloth/llama-3-8b-Instruct-bnb-4bit");
        assert!(
            found.contains("`--model unsloth/llama-3-8b-Instruct`"),
            "{found}"
        );
        let found = hint("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4@main");
        assert!(
            found.contains("`--model Qwen/Qwen2.5-7B-Instruct`"),
            "{found}"
        );
        assert_eq!(hint("Qwen/Qwen2.5-7B-Instruct"), "");
        assert_eq!(hint("synthetic/llama-bnb-4bit"), "");
    }
}
