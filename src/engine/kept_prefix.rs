//! The cache of a prefix, kept aside, so that several prompts that begin with it needn't compute it
//! again.

use super::cache::CachedRows;
use super::{DecoderEngine, Engine, EngineError};

/// What a session computed of a prefix: its rows of the cache, and states behind it.
#[derive(Debug, Clone)]
pub struct KeptPrefix {
    tokens: Vec<u32>,
    /// Rows of the cache, those of virtual tokens included.
    rows: usize,
    cache: Vec<CachedRows>,
    states: Vec<Vec<u8>>,
}

impl KeptPrefix {
    /// Its size in bytes.
    pub fn bytes(&self) -> u64 {
        let cache = self.cache.iter().map(|rows| rows.bytes.len());
        cache.chain(self.states.iter().map(Vec::len)).sum::<usize>() as u64
    }
}

impl DecoderEngine {
    /// Runs `prefix` and copies what came of it. A CPU's sessions of one sequence only.
    ///
    /// # Errors
    /// If the model can't be run on it.
    pub fn keep_prefix(&mut self, prefix: &[u32]) -> Result<KeptPrefix, EngineError> {
        self.prefill(prefix)?;
        Ok(KeptPrefix {
            tokens: prefix.to_vec(),
            rows: self.length,
            cache: self.cache.iter().map(|own| own.rows(self.length)).collect(),
            states: self.states.copy(),
        })
    }

    /// Starts a new sequence with a prompt that begins with `kept`: copies that, and runs the rest.
    /// It may come from another session, if that computes the same of the prefix and was opened for
    /// as long a cache.
    ///
    /// # Errors
    /// If the prompt doesn't begin with it or ends with it, it's of another form, or the model can't
    /// be run.
    pub fn prefill_after(&mut self, kept: &KeptPrefix, prompt: &[u32]) -> Result<u32, EngineError> {
        let rest = prompt.strip_prefix(kept.tokens.as_slice());
        let rest = rest.filter(|rest| !rest.is_empty());
        let rest = rest.ok_or_else(|| self.prefix_differs("the prompt doesn't go on from it"))?;
        self.length = kept.rows;
        self.check(rest, rest.len())?;
        let same_layers = self.cache.len() == kept.cache.len();
        let mut pairs = self.cache.iter_mut().zip(&kept.cache);
        let set = same_layers && pairs.all(|(own, rows)| own.set_rows(rows));
        if !set || !self.states.set(&kept.states) {
            return Err(self.prefix_differs("its layers have another form"));
        }
        if self.keys_change_beyond.is_some() {
            self.history.clear();
            self.history.extend_from_slice(prompt);
        }
        self.bind_prompt(false)?;
        self.bind_active_from(prompt)?;
        self.run_prompt(rest, 0)
    }

    fn prefix_differs(&self, reason: &str) -> EngineError {
        EngineError::Run {
            name: self.name.clone(),
            message: format!("a kept prefix can't be used: {reason}"),
        }
    }
}
