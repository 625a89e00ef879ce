//! The prompt that variants are compared on.

use std::error::Error;

use anyhow::{Context, Result};
use clap::Args;

use crate::cli::options::TokenizerOptions;
use crate::model::TokenizerError;
use crate::prepared::{Manifest, PreparedVariant};
use crate::prompts::Category;
use crate::study::{PromptError, PromptSource, Setup};

/// Where the text comes from: a paragraph, on which a model's predictions are those of text.
const CATEGORY: Category = Category::Medium;

/// Number of ids in place of a text.
const SPREAD: usize = 24;

/// `--prompt`, `--prompt-ids` and `--tokenizer`
#[derive(Debug, Args)]
pub struct PromptOptions {
    /// Text to compare on [default: the first medium prompt of `prompts/prompts.json`].
    #[arg(long, value_name = "TEXT", conflicts_with = "prompt_ids")]
    prompt: Option<String>,

    /// Token ids to compare on, such as `1,2,3`.
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    prompt_ids: Option<Vec<u32>>,

    #[command(flatten)]
    tokenizer: TokenizerOptions,
}

/// Token ids, and what they are.
pub struct Prompt {
    pub ids: Vec<u32>,
    /// For a person, such as `123 tokens: the first medium prompt`.
    pub about: String,
}

impl PromptOptions {
    /// Whether a prompt was asked for.
    pub fn is_given(&self) -> bool {
        self.prompt.is_some() || self.prompt_ids.is_some()
    }

    /// The prompt for `variants`: what was asked for, else text of the prompts' file. It ends with
    /// the tokens that make the adapter act, if there are any, and leaves room for `new_tokens`.
    pub fn prompt(
        &self,
        setup: &Setup,
        variants: &[PreparedVariant],
        new_tokens: usize,
    ) -> Result<Prompt> {
        if let Some(ids) = &self.prompt_ids {
            return Ok(Prompt {
                about: format!("{} token ids, as given", ids.len()),
                ids: ids.clone(),
            });
        }
        let manifests = || variants.iter().map(|one| &one.manifest);
        let invoking = |ids: &[u32]| manifests().fold(ids.to_vec(), |ids, one| one.invoking(&ids));
        let (mut ids, what) = self.text(setup, variants)?;
        let needed = new_tokens + invoking(&[]).len();
        let room = |one: &Manifest| {
            let most = one.max_position_embeddings;
            most.saturating_sub(one.num_virtual_tokens() + needed)
        };
        let room = manifests().map(room).min();
        let room = room.context("there is no variant to compare")?;
        let cut = match ids.len() > room {
            true => format!(", as many as fit of {}", ids.len()),
            false => String::new(),
        };
        ids.truncate(room);
        Ok(Prompt {
            about: format!("{} tokens{cut}: {what}", ids.len()),
            ids: invoking(&ids),
        })
    }

    /// A text's ids, and where it's from. Without a tokenizer, ids that stand for it.
    fn text(&self, setup: &Setup, variants: &[PreparedVariant]) -> Result<(Vec<u32>, String)> {
        let all: Vec<&PreparedVariant> = variants.iter().collect();
        let sizes = || variants.iter().map(|one| one.manifest.vocab_size);
        let place = self.tokenizer.choice().place_of(&all)?;
        let found = match &self.prompt {
            Some(text) => {
                let tokenizer = place.open()?;
                place.note(setup, &tokenizer);
                (
                    tokenizer.encode(text)?,
                    "the text that was given".to_owned(),
                )
            }
            None => match PromptSource::open(setup, None, &place) {
                Ok(source) => {
                    let what = format!("the first {CATEGORY} prompt, by {place}");
                    (source.first(CATEGORY)?, what)
                }
                Err(PromptError::Tokenizer(error)) if !place.chosen => {
                    let known = sizes().min().context("there is no variant to compare")?;
                    return Ok(without_tokenizer(&error, known));
                }
                Err(error) => return Err(error.into()),
            },
        };
        // The first has the most tokens, if an adapter brings some along.
        let largest = all.iter().max_by_key(|one| one.manifest.vocab_size);
        let largest = largest.context("there is no variant to compare")?;
        place.check_vocabulary(&found.0, &largest.manifest)?;
        Ok(found)
    }
}

/// Ids far from each other, of a vocabulary of `known` tokens, and why there's no text.
fn without_tokenizer(error: &TokenizerError, known: usize) -> (Vec<u32>, String) {
    let ids = (0..SPREAD).map(|i| ((i * 7919 + 13) % known) as u32);
    let cause = error.source().map(|cause| format!(": {cause}"));
    let why = format!(
        "spread over the vocabulary, in place of text: {error}{}",
        cause.unwrap_or_default()
    );
    (ids.collect(), why)
}
