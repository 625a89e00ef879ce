//! What prepared variants give, before one of them becomes portable.

use anyhow::{Context, Result, bail};

use super::PROVIDER;
use crate::engine::{EngineOptions, OnnxRuntime, WeightsMode};
use crate::parity::{Parity, check, trace};
use crate::portable::{Expected, TOKENS};
use crate::prepared::PreparedVariant;
use crate::study::Setup;

/// Positions of a checked prompt with what's generated after it.
const LENGTH: usize = 64;

/// How variants are checked: all with the same prompt.
pub struct Checking<'a, 's> {
    setup: &'a Setup<'s>,
    runtime: &'a OnnxRuntime,
    options: EngineOptions,
    prompt_ids: Vec<u32>,
    count: usize,
}

impl<'a, 's> Checking<'a, 's> {
    /// Chooses a prompt that all `variants` know.
    pub fn new(
        setup: &'a Setup<'s>,
        runtime: &'a OnnxRuntime,
        variants: &[PreparedVariant],
    ) -> Result<Self> {
        let all = variants.iter().map(|one| &one.manifest);
        let vocab_size = all.clone().map(|one| one.vocab_size).min();
        let vocab_size = vocab_size.context("there is no variant to check")?;
        let positions = all.map(|one| one.max_position_embeddings).min();
        let length = positions.map_or(LENGTH, |positions| positions.min(LENGTH));
        let mut options = setup.engine_options(PROVIDER, length, WeightsMode::InPlace);
        options.logits_on_host = true;
        let most = length.saturating_sub(TOKENS).max(1);
        let prompt_ids: Vec<u32> = spread(vocab_size).take(most).collect();
        Ok(Self {
            setup,
            runtime,
            options,
            count: TOKENS.min(length + 1 - prompt_ids.len()),
            prompt_ids,
        })
    }

    /// The prompt for `variant`, with its invocation tokens if it has some.
    fn prompt(&self, variant: &PreparedVariant) -> Vec<u32> {
        variant.manifest.invoking(&self.prompt_ids)
    }

    /// Compares the variants of one adapter; `None` if there's only one.
    pub fn parity(&self, variants: &[PreparedVariant]) -> Result<Option<Parity>> {
        let Some(last) = variants.get(1..).and_then(<[_]>::first) else {
            return Ok(None);
        };
        let open = |variant: &PreparedVariant| {
            self.setup.open_engine(self.runtime, variant, &self.options)
        };
        let parity = check(variants, &self.prompt(last), self.count, open)?;
        match parity {
            Some(parity) if !parity.passed => bail!(
                "{}; the folder isn't written (`--no-check` writes it without this check)",
                parity.failures.join("; ")
            ),
            parity => Ok(parity),
        }
    }

    /// What `variant` generates.
    pub fn expected(&self, variant: &PreparedVariant) -> Result<Expected> {
        let prompt_ids = self.prompt(variant);
        let mut engine = self
            .setup
            .open_engine(self.runtime, variant, &self.options)?;
        let trace = trace(&mut engine, &prompt_ids, self.count)?;
        Ok((prompt_ids, trace))
    }
}

/// Token ids far from each other.
fn spread(vocab_size: usize) -> impl Iterator<Item = u32> {
    const COUNT: usize = 24;
    (0..COUNT).map(move |i| ((i * 7919 + 13) % vocab_size) as u32)
}
