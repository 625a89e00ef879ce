//! Tokens that are added to a vocabulary, and tokens that are put before and after every text.
//!
//! Source: `TokenizersBackend.__init__` and `update_post_processor`,
//! `tokenization_utils_tokenizers.py`.

use std::collections::HashSet;

use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Tokenizer};

use super::TokenizerError;
use super::class::Class;
use super::pipeline::{CODE_LLAMA, default_token};
use super::sentencepiece::Model;
use super::settings::{NAMED, Settings, Special};

const EXTRA: &str = "extra_special_tokens";

/// The special tokens of a tokenizer.
#[derive(Debug)]
pub struct Specials {
    /// Named tokens.
    named: Vec<(String, Special)>,
    /// Unnamed tokens.
    extra: Vec<Special>,
    /// Whether tokens of the configuration are matched before text is normalized, regardless of
    /// their own setting.
    before_normalizing: bool,
}

impl Specials {
    /// The special tokens in the settings; missing ones are taken from the class or from the
    /// SentencePiece `model`.
    ///
    /// # Errors
    /// If one isn't a token.
    pub fn new(
        class: Class,
        settings: &Settings,
        model: Option<&Model>,
    ) -> Result<Self, TokenizerError> {
        let of_model = model.filter(|_| class == Class::AsStored);
        let mut named = Vec::new();
        for key in NAMED {
            let own = of_model.and_then(|model| model.special(key));
            let of_padding = settings.padding.as_deref();
            let of_padding = of_padding.filter(|_| key == "pad_token" && pads_as_stored(class));
            let default = own.as_deref().or(default_token(class, key)).or(of_padding);
            if let Some(token) = settings.special(key, default)? {
                named.push((key.to_owned(), token));
            }
        }
        let of_class: &[(&str, &str)] = match class {
            Class::CodeLlama => &CODE_LLAMA,
            _ => &[],
        };
        let plain = |(_, text): &(&str, &str)| Special::Plain((*text).to_owned());
        let own = of_class.iter().map(|pair| (pair.0.to_owned(), plain(pair)));
        for (key, token) in own.chain(settings.own_names()?) {
            match named.iter_mut().find(|(known, _)| *known == key) {
                Some(known) => known.1 = token,
                None => named.push((key, token)),
            }
        }
        let mut extra = match model {
            Some(_) if settings.has(EXTRA) => settings.extra()?,
            Some(model) if class == Class::AsStored => Some(tokens(model.control())),
            Some(model) => Some(tokens(model.added())),
            None => settings.extra()?,
        }
        .unwrap_or_default();
        if !settings.has(EXTRA) {
            extra.extend(of_class.iter().map(plain));
        }
        Ok(Self {
            named,
            extra,
            before_normalizing: of_model.is_some_and(Model::adds_prefix),
        })
    }

    /// The token for text that isn't in the vocabulary.
    pub fn unknown(&self) -> Option<&str> {
        self.get("unk_token")
    }

    fn get(&self, key: &str) -> Option<&str> {
        let mut named = self.named.iter();
        let found = named.find(|(name, _)| name == key);
        found.map(|(_, token)| token.content())
    }

    fn all(&self) -> impl Iterator<Item = &Special> {
        let named = self.named.iter().map(|(_, token)| token);
        named.chain(&self.extra)
    }

    /// Adds the special tokens and the settings' other tokens to `tokenizer`.
    ///
    /// # Errors
    /// If the `tokenizers` crate rejects one of them.
    pub fn add(
        &self,
        class: Class,
        settings: &Settings,
        tokenizer: &mut Tokenizer,
    ) -> tokenizers::Result<()> {
        self.add_missing(settings, tokenizer)?;
        match class {
            Class::Qwen2 => {
                let plain = |token: &Special| AddedToken::from(token.content(), true);
                tokenizer.add_tokens(self.all().map(plain))?;
            }
            Class::Cohere => {
                let special = |token: &Special| as_token(token).special(true);
                tokenizer.add_special_tokens(self.all().map(special))?;
            }
            _ => {}
        }
        let (bos, eos) = ("add_bos_token", "add_eos_token");
        let said = settings.has(bos) || settings.has(eos) || class == Class::CodeLlama;
        if said || class == Class::GptNeoX || tokenizer.get_post_processor().is_none() {
            let adds_bos = match class {
                Class::CodeLlama if !settings.has(bos) => true,
                _ => settings.flag(bos),
            };
            let bos = self.get("bos_token").filter(|_| adds_bos);
            let eos = self.get("eos_token").filter(|_| settings.flag(eos));
            surround(tokenizer, bos, eos)?;
        }
        Ok(())
    }

    fn add_missing(
        &self,
        settings: &Settings,
        tokenizer: &mut Tokenizer,
    ) -> tokenizers::Result<()> {
        // Tokens that the vocabulary already has are redefined, in the order of their listed ids.
        let listed = settings.added.values().cloned();
        let listed = listed.map(|token| match self.before_normalizing {
            true => token.normalized(false),
            false => token,
        });
        let listed: Vec<AddedToken> = listed.collect();
        let present = tokenizer.get_added_tokens_decoder().into_values();
        let present = present.map(|token| token.content);
        let texts = listed.iter().map(|token| token.content.clone());
        let texts: HashSet<String> = texts.chain(present).collect();
        let mut missing: Vec<Special> = Vec::new();
        for token in self.all() {
            if !texts.contains(token.content()) && !missing.contains(token) {
                missing.push(token.clone());
            }
        }
        let named: HashSet<&str> = self
            .named
            .iter()
            .map(|(_, token)| token.content())
            .collect();
        let missing = missing.iter().map(as_token);
        let added = listed.into_iter().chain(missing).map(|token| {
            let special = token.special || named.contains(token.content.as_str());
            token.special(special)
        });
        tokenizer.add_tokens(added.collect::<Vec<_>>())?;
        Ok(())
    }
}

/// Whether the class adds the padding token of `tokenizer.json`.
fn pads_as_stored(class: Class) -> bool {
    matches!(class, Class::AsStored | Class::Llama | Class::CodeLlama)
}

fn tokens(tokens: Vec<AddedToken>) -> Vec<Special> {
    tokens.into_iter().map(Special::Token).collect()
}

fn as_token(token: &Special) -> AddedToken {
    match token {
        Special::Plain(text) => AddedToken::from(text.as_str(), true),
        Special::Token(token) => token.clone(),
    }
}

/// Has the tokenizer put `bos` before every text and `eos` after it.
fn surround(
    tokenizer: &mut Tokenizer,
    bos: Option<&str>,
    eos: Option<&str>,
) -> tokenizers::Result<()> {
    let mut pieces = vec!["$A:0".to_owned()];
    let mut specials = Vec::new();
    for (token, front) in [(bos, true), (eos, false)] {
        let Some(token) = token else {
            continue;
        };
        let Some(id) = tokenizer.token_to_id(token) else {
            return Err(format!("special token `{token}` has no id").into());
        };
        specials.push((token.to_owned(), id));
        let piece = format!("{token}:0");
        match front {
            true => pieces.insert(0, piece),
            false => pieces.push(piece),
        }
    }
    let template = TemplateProcessing::builder()
        .try_single(pieces)?
        .special_tokens(specials)
        .build()
        .map_err(|error| error.to_string())?;
    tokenizer.with_post_processor(Some(template));
    Ok(())
}
