//! A byte-level BPE tokenizer, trained on the project's own prompts.
//!
//! Any text can be encoded, since each of the 256 bytes is a token. With the merges, English has
//! about as many characters per token as with a real model's tokenizer.

use std::collections::HashSet;

use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::models::{ModelWrapper, TrainerWrapper};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer};

use crate::prompts::Prompts;

/// The id of [`END_OF_TEXT`], which also serves as the beginning-of-text token.
pub(super) const END_OF_TEXT_ID: u32 = 0;
/// The id of [`PADDING`].
pub(super) const PADDING_ID: u32 = 1;

const END_OF_TEXT: &str = "<|endoftext|>";
const PADDING: &str = "<|padding|>";

const VOCAB_SIZE: usize = 1_900;

/// Trains the tokenizer; the result is always the same.
pub(super) fn train() -> tokenizers::Result<Tokenizer> {
    let byte_level = ByteLevel::new(false, true, true);
    let mut tokenizer = Tokenizer::new(ModelWrapper::BPE(BPE::default()));
    tokenizer.with_pre_tokenizer(Some(byte_level));
    tokenizer.with_decoder(Some(byte_level));

    let alphabet: HashSet<char> = ByteLevel::alphabet().into_iter().collect();
    let trainer = BpeTrainer::builder()
        .vocab_size(VOCAB_SIZE)
        .show_progress(false)
        .initial_alphabet(alphabet)
        .special_tokens(vec![
            AddedToken::from(END_OF_TEXT, true),
            AddedToken::from(PADDING, true),
        ])
        .build();
    let texts = Prompts::load(None)?;
    let mut trainer = TrainerWrapper::from(trainer);
    tokenizer.train(&mut trainer, texts.texts())?;
    Ok(tokenizer)
}

/// The content of `tokenizer_config.json`.
pub(super) fn config(model_max_length: u64) -> Value {
    json!({
        "add_bos_token": false,
        "add_prefix_space": false,
        "bos_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": false,
        "eos_token": END_OF_TEXT,
        "model_max_length": model_max_length,
        "pad_token": PADDING,
        "tokenizer_class": "PreTrainedTokenizerFast",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::synthetic::VERSION;
    use crate::model::synthetic::weights::fnv1a;
    use crate::prompts::Category;

    #[test]
    fn any_text_survives_encoding_and_decoding() {
        let tokenizer = train().unwrap();
        for text in [
            "Hello, world!",
            " two  spaces\n\n\ttab",
            "naïve 漢字 🦀 \u{0} \u{feff}",
            "",
        ] {
            let encoding = tokenizer.encode(text, true).unwrap();
            assert_eq!(tokenizer.decode(encoding.get_ids(), false).unwrap(), text);
        }
    }

    #[test]
    fn a_saved_tokenizer_encodes_as_the_trained_one() {
        let tokenizer = train().unwrap();
        let saved: Tokenizer = tokenizer.to_string(false).unwrap().parse().unwrap();
        let text = "The ferry was late, and nobody knew why.";
        let ids = |tokenizer: &Tokenizer| tokenizer.encode(text, true).unwrap().get_ids().to_vec();
        assert_eq!(ids(&saved), ids(&tokenizer));
    }

    #[test]
    fn special_tokens_have_the_ids_that_the_model_configurations_give() {
        let tokenizer = train().unwrap();
        assert_eq!(tokenizer.token_to_id(END_OF_TEXT), Some(END_OF_TEXT_ID));
        assert_eq!(tokenizer.token_to_id(PADDING), Some(PADDING_ID));
        assert_eq!(
            tokenizer
                .encode("a b", true)
                .unwrap()
                .get_ids()
                .iter()
                .min()
                .map(|id| *id > 1),
            Some(true)
        );
    }

    #[test]
    fn english_takes_about_as_many_tokens_as_with_a_real_tokenizer() {
        let tokenizer = train().unwrap();
        let tokens = |text: &str| tokenizer.encode(text, true).unwrap().len();
        for text in Prompts::load(None).unwrap().texts() {
            let characters_a_token = text.chars().count() as f64 / tokens(text) as f64;
            assert!(
                (3.5..=5.5).contains(&characters_a_token),
                "{characters_a_token}: {text}"
            );
        }
        for text in Prompts::load(None)
            .unwrap()
            .select(Category::Long, 5)
            .unwrap()
        {
            assert!((400..=600).contains(&tokens(text)), "{}", tokens(text));
        }
    }

    #[test]
    fn a_changed_vocabulary_needs_a_new_version_of_the_folders() {
        let mut vocabulary: Vec<_> = train().unwrap().get_vocab(true).into_iter().collect();
        vocabulary.sort();
        let hash = fnv1a(&format!("{vocabulary:?}"));
        assert_eq!(
            (VERSION, hash),
            ("v2", 8_092_917_176_341_567_911),
            "raise VERSION and give the new hash here"
        );
    }
}
