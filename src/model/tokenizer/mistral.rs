//! Transformers' `fix_mistral_regex`: corrects the regular expression with which some public
//! Mistral checkpoints split text.
//!
//! Source: `TokenizersBackend._patch_mistral_regex`, `tokenization_utils_tokenizers.py`.

use serde_json::{Map, Value, json};
use tokenizers::{PreTokenizerWrapper, Tokenizer};

const SPLIT: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Model types whose checkpoints were wrong.
const MODELS: [&str; 5] = ["mistral", "mistral3", "voxtral", "ministral", "pixtral"];
/// Checkpoints written by this major version of Transformers or later are correct.
const FIXED_IN: u32 = 5;
/// The affected vocabularies have at least this many tokens.
const LEAST_TOKENS: usize = 100_001;

/// Replaces the split if `config` belongs to an affected checkpoint.
pub fn fix(tokenizer: &mut Tokenizer, config: &Map<String, Value>) -> tokenizers::Result<()> {
    let text = |key: &str| config.get(key).and_then(Value::as_str);
    let major = text("transformers_version").and_then(|version| version.split('.').next());
    let major: Option<u32> = major.and_then(|major| major.parse().ok());
    let concerned = !config.is_empty()
        && major.is_none_or(|major| major < FIXED_IN)
        && text("model_type").is_none_or(|model| MODELS.contains(&model))
        && tokenizer.get_vocab_size(true) >= LEAST_TOKENS;
    let Some(current) = tokenizer.get_pre_tokenizer().filter(|_| concerned) else {
        return Ok(());
    };
    let fixed = fixed(serde_json::to_value(current)?);
    let fixed: PreTokenizerWrapper = serde_json::from_value(fixed)?;
    tokenizer.with_pre_tokenizer(Some(fixed));
    Ok(())
}

fn fixed(mut current: Value) -> Value {
    let split = json!({
        "type": "Split", "pattern": { "Regex": SPLIT }, "behavior": "Isolated", "invert": false
    });
    let all = current.get_mut("pretokenizers");
    if let Some(first) = all.and_then(|all| all.get_mut(0)) {
        *first = split;
        return current;
    }
    if current["type"] == "Metaspace" {
        current = json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false
        });
    }
    json!({ "type": "Sequence", "pretokenizers": [split, current] })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_first_split_is_replaced_and_the_rest_is_kept() {
        let bytes = json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false
        });
        let wrong = json!({
            "type": "Split", "pattern": { "Regex": "x" }, "behavior": "Isolated", "invert": false
        });
        let whole = |parts: Value| json!({ "type": "Sequence", "pretokenizers": parts });
        let right = fixed(whole(json!([wrong, bytes])));
        assert_eq!(right["pretokenizers"][0]["pattern"]["Regex"], SPLIT);
        assert_eq!(right["pretokenizers"][1], bytes);
        assert_eq!(fixed(bytes.clone()), right);
        let metaspace = json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false });
        assert_eq!(fixed(metaspace), right);
        serde_json::from_value::<PreTokenizerWrapper>(right).unwrap();
    }

    #[test]
    fn small_vocabularies_and_newer_checkpoints_are_left_alone() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures/tokenizers/padding-and-truncation/tokenizer.json");
        let mut tokenizer = Tokenizer::from_file(file).unwrap();
        let before = tokenizer.to_string(false).unwrap();
        let config = json!({ "model_type": "mistral", "transformers_version": "4.50.0" });
        fix(&mut tokenizer, config.as_object().unwrap()).unwrap();
        assert_eq!(tokenizer.to_string(false).unwrap(), before);
    }
}
