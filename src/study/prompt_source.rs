//! What is measured: the prompts' token ids, by category, checked against the room that each
//! variant has.

use std::path::Path;

use thiserror::Error;

use super::setup::Setup;
use super::tokenizer::TokenizerPlace;
use crate::config::BenchmarkConfig;
use crate::engine::EngineError;
use crate::file_names::short_hash;
use crate::measure::prompt_group::PromptGroup;
use crate::measure::record::PromptPlan;
use crate::measure::sweep::synthesised;
use crate::model::{TextTokenizer, TokenizerError};
use crate::prepared::PreparedVariant;
use crate::prompts::{Category, Prompts, PromptsError};

/// The prompts' file, in the working folder.
const PROMPTS: &str = "prompts/prompts.json";

/// Prompts that can't be measured.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
#[non_exhaustive]
pub enum PromptError {
    #[error(transparent)]
    Prompts(#[from] PromptsError),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    #[error("the prompts have no tokens to make longer ones of")]
    NoTokens,
    #[error("{prompt} too long for this model")]
    TooLong {
        prompt: String,
        source: Box<EngineError>,
    },
}

/// Prompts and their tokenizer.
pub struct PromptSource {
    prompts: Prompts,
    tokenizer: TextTokenizer,
}

impl PromptSource {
    /// Reads the prompts of `file`, or of the working folder, or those that are built in; and the
    /// tokenizer at `place`.
    ///
    /// # Errors
    /// If they can't be read.
    pub fn open(
        setup: &Setup,
        file: Option<&Path>,
        place: &TokenizerPlace,
    ) -> Result<Self, PromptError> {
        let tokenizer = place.open()?;
        place.note(setup, &tokenizer);
        Ok(Self {
            prompts: load(file)?,
            tokenizer,
        })
    }

    /// A hash of the prompts' texts, or of the name of a file that can't be read; `None` of those
    /// that are built in.
    pub fn digest(file: Option<&Path>) -> Option<String> {
        let hash = |prompts: &Prompts| {
            let texts = serde_json::json!(prompts.by_category());
            short_hash(texts.to_string().as_bytes())
        };
        let built_in = Prompts::load(None).map(|prompts| hash(&prompts)).ok();
        let found = match load(file) {
            Ok(prompts) => hash(&prompts),
            Err(_) => short_hash(
                file.unwrap_or(Path::new(PROMPTS))
                    .as_os_str()
                    .as_encoded_bytes(),
            ),
        };
        (Some(&found) != built_in.as_ref()).then_some(found)
    }

    /// The prompts of every category.
    ///
    /// # Errors
    /// If a category has too few, or one can't be tokenized.
    pub fn categories(&self, config: &BenchmarkConfig) -> Result<Vec<PromptPlan>, PromptError> {
        let mut plans = Vec::new();
        for category in Category::ALL {
            let texts = self.prompts.select(category, config.num_prompt_samples)?;
            for (index, text) in texts.iter().enumerate() {
                plans.push(PromptPlan {
                    group: PromptGroup::Category(category),
                    index,
                    prompt_ids: self.tokenizer.encode(text)?,
                    new_tokens: config.max_new_tokens_for(category),
                });
            }
        }
        Ok(plans)
    }

    /// The first prompt of `category`.
    ///
    /// # Errors
    /// If it can't be tokenized.
    pub fn first(&self, category: Category) -> Result<Vec<u32>, PromptError> {
        let texts = self.prompts.select(category, 1)?;
        let ids = self.tokenizer.encode(&texts.concat())?;
        Ok(ids)
    }

    /// Prompts of exactly as many tokens as each of `contexts` says, made of the prompts of all
    /// categories.
    ///
    /// # Errors
    /// If one can't be tokenized, or there are no tokens.
    pub fn contexts(
        &self,
        config: &BenchmarkConfig,
        contexts: &[usize],
    ) -> Result<Vec<PromptPlan>, PromptError> {
        let texts = self.prompts.texts();
        let texts = texts
            .map(|text| self.tokenizer.encode(text))
            .collect::<Result<Vec<Vec<u32>>, _>>()?;
        if texts.iter().all(Vec::is_empty) {
            return Err(PromptError::NoTokens);
        }
        let samples = config.num_prompt_samples;
        let of = |&count| synthesised(&texts, count, samples, config.max_new_tokens);
        Ok(contexts.iter().flat_map(of).collect())
    }
}

fn load(file: Option<&Path>) -> Result<Prompts, PromptsError> {
    let here = Path::new(PROMPTS);
    Prompts::load(file.or_else(|| here.is_file().then_some(here)))
}

/// Checks that every variant has room for every prompt.
///
/// # Errors
/// If one hasn't.
pub fn check_room<'a>(
    plans: &[PromptPlan],
    variants: impl Iterator<Item = &'a PreparedVariant>,
) -> Result<(), PromptError> {
    for variant in variants {
        let manifest = &variant.manifest;
        for plan in plans {
            let needed = manifest.num_virtual_tokens() + plan.prompt_ids.len() + plan.new_tokens;
            if needed <= manifest.max_position_embeddings {
                continue;
            }
            return Err(PromptError::TooLong {
                prompt: match plan.group {
                    PromptGroup::Category(category) => {
                        format!("prompt {} of category `{category}` is", plan.index + 1)
                    }
                    PromptGroup::Context(count) => format!("prompts of {count} tokens are"),
                },
                source: Box::new(EngineError::Positions {
                    needed,
                    max_position_embeddings: manifest.max_position_embeddings,
                    end: manifest.positions_end.clone(),
                }),
            });
        }
    }
    Ok(())
}
