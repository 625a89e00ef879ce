//! The predictions of a model on text, compared with those of a reference.

use anyhow::Result;
use serde::Serialize;

use super::verify::{POSITIONS, PromptOptions, nats};
use crate::engine::logits::difference;
use crate::engine::{Provider, WeightsMode};
use crate::parity::{Continuation, Divergence};
use crate::prepared::PreparedVariant;
use crate::study::Setup;

/// How predictions compare.
#[derive(Debug, Clone, Serialize)]
pub struct TextComparison {
    /// What the text is.
    pub prompt: String,
    /// From the reference to the model.
    pub divergence: Divergence,
    /// The largest difference of logits, relative to the largest logit.
    pub logits_difference: f32,
    /// From the reference to the base: what leaving the adapter out would give.
    pub without_adapter: Divergence,
}

/// Variants that are compared, and on what.
pub struct Compared<'a> {
    /// The reference, the base, and the model.
    pub variants: &'a [PreparedVariant],
    /// What was asked for as a prompt.
    pub prompt: &'a PromptOptions,
    /// Number of tokens that the reference continues the prompt by.
    pub new_tokens: usize,
}

impl TextComparison {
    /// Runs all three on the same text and the reference's continuation of it.
    pub fn of(setup: &Setup, provider: Provider, compared: &Compared) -> Result<Self> {
        let [reference, base, model] = compared.variants else {
            unreachable!("three variants are compared");
        };
        let count = compared.new_tokens;
        let mut prompt = compared.prompt.prompt(setup, compared.variants, count)?;
        prompt.ids.truncate(POSITIONS);
        let virtual_tokens = reference.manifest.num_virtual_tokens();
        let length = virtual_tokens + prompt.ids.len() + count;
        let mut options = setup.engine_options(provider, length, WeightsMode::InPlace);
        options.logits_on_host = true;
        let runtime = setup.onnx_runtime(provider)?;
        let open = |variant: &PreparedVariant| setup.open_engine(&runtime, variant, &options);
        let own = Continuation::of(&mut open(reference)?, &prompt.ids, count)?;
        let by = |variant: &PreparedVariant| {
            // Tokens that an adapter brings along end the comparison with a model without them.
            let known = |id: &&u32| (**id as usize) < variant.manifest.vocab_size;
            let known = Continuation {
                tokens: own.tokens.iter().take_while(known).copied().collect(),
                rows: Vec::new(),
            };
            known.by(&mut open(variant)?, &prompt.ids)
        };
        let (without, found) = (by(base)?, by(model)?);
        let same = own.rows.len().min(found.len());
        Ok(Self {
            prompt: format!(
                "the first {} of {}; {count} tokens that follow",
                prompt.ids.len(),
                prompt.about
            ),
            divergence: Divergence::between(&own.rows, &found),
            logits_difference: difference(&own.rows[..same], &found[..same]),
            without_adapter: Divergence::between(&own.rows, &without),
        })
    }

    /// The comparison in words.
    pub fn in_words(&self) -> String {
        let found = self.divergence;
        format!(
            "KL divergence {} nats on average, {} at most; the same most likely token at {} of {} positions; logits \
             differ by {:.1e} of the largest",
            nats(found.mean_kl),
            nats(found.max_kl),
            found.same_top,
            found.positions,
            self.logits_difference
        )
    }
}
