//! A text and its continuation, for comparing the predictions of two models at every position.

use super::trace::argmax;
use super::{LogitEngine, at_each_position};

/// A greedy continuation.
#[derive(Debug, Clone)]
pub struct Continuation {
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// The logits after each token of the prompt and of the continuation but its last,
    /// `[positions, vocab_size]`.
    pub rows: Vec<Vec<f32>>,
}

impl Continuation {
    /// Continues `prompt_ids` by `count` tokens, greedily.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn of<E: LogitEngine>(
        engine: &mut E,
        prompt_ids: &[u32],
        count: usize,
    ) -> Result<Self, E::Error> {
        let mut rows = at_each_position(engine, prompt_ids)?;
        let mut tokens = Vec::with_capacity(count);
        while let Some(last) = rows.last().filter(|_| tokens.len() < count) {
            let token = argmax(last) as u32;
            tokens.push(token);
            if tokens.len() < count {
                engine.decode(token)?;
                rows.push(engine.logits());
            }
        }
        Ok(Self { tokens, rows })
    }

    /// The logits of another model for the same tokens, after `prompt_ids`.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn by<E: LogitEngine>(
        &self,
        engine: &mut E,
        prompt_ids: &[u32],
    ) -> Result<Vec<Vec<f32>>, E::Error> {
        let fed = self.tokens.len().saturating_sub(1);
        let ids = [prompt_ids, &self.tokens[..fed]].concat();
        at_each_position(engine, &ids)
    }
}
