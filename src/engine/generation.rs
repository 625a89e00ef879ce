//! Generation: the prompt in as few runs as possible, then one token per run.

use ort::value::DynTensor;

use super::bound_session::NewTokens;
use super::tensors::new_tensor;
use super::{DecoderEngine, Engine, EngineError};
use crate::graph::{ACTIVE_FROM_INPUT, PROMPT_INPUT};
use crate::lowering::host_side::largest;

impl DecoderEngine {
    /// Runs `ids` after `before` virtual tokens, and returns the next token.
    pub(super) fn run(&mut self, ids: &[u32], before: usize) -> Result<u32, EngineError> {
        let added = before + ids.len();
        self.run_tokens(NewTokens::Same(ids, self.batch_size), added)
    }

    /// Runs `tokens`, which add this number of positions to each sequence.
    pub(super) fn run_tokens(
        &mut self,
        tokens: NewTokens,
        added: usize,
    ) -> Result<u32, EngineError> {
        let total = self.length + added;
        let bound = self.sessions.for_tokens(added);
        bound.run(&self.name, tokens, self.length..total)?;
        if !bound.picks {
            self.pick();
        }
        self.length = total;
        self.first_next_token()
    }

    pub(super) fn first_next_token(&self) -> Result<u32, EngineError> {
        let next = self.next_tokens()[0];
        u32::try_from(next).map_err(|_| EngineError::Run {
            name: self.name.clone(),
            message: format!("`next_token` is {next}"),
        })
    }

    /// Picks the next token of every sequence from float32 logits on the host.
    fn pick(&mut self) {
        let (_, logits) = self
            .logits
            .try_extract_tensor::<f32>()
            .expect("sessions that give logits alone give float32");
        let rows = logits.chunks_exact(self.vocab_size);
        let (_, next) = self.next_token.extract_tensor_mut();
        for (row, next) in rows.zip(next) {
            *next = largest(row) as i64;
        }
    }

    /// Checks that `ids` are in the vocabulary, and that the cache has room for `added` positions.
    pub(super) fn check(&self, ids: &[u32], added: usize) -> Result<(), EngineError> {
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= self.vocab_size) {
            return Err(EngineError::TokenId {
                id,
                vocab_size: self.vocab_size,
            });
        }
        let needed = self.length + added;
        if needed > self.max_length {
            return Err(EngineError::TooLong {
                needed,
                reserved: self.max_length,
            });
        }
        Ok(())
    }

    /// The number of tokens that a prompt's first run has at least, of `added` in all: where the
    /// length of a sequence decides how keys are computed, its first run must already be as long.
    fn least_first_chunk(&self, added: usize) -> usize {
        match self.keys_change_beyond {
            Some(last) if self.length + added > last => (last + 1).saturating_sub(self.length),
            _ => 0,
        }
    }

    /// Binds the virtual tokens (if `rows`), or an empty tensor, to every session.
    pub(super) fn bind_prompt(&mut self, rows: bool) -> Result<(), EngineError> {
        let Some(prompt) = &self.adapter.prompt else {
            return Ok(());
        };
        let failed = EngineError::runtime(&self.name);
        let width = prompt.shape()[1];
        let host = self.sessions.step.session.allocator();
        let none = DynTensor::new(host, *prompt.data_type(), [0, width]).map_err(&failed)?;
        let value = if rows { prompt.as_ref() } else { &none };
        for bound in self.sessions.iter_mut() {
            let binding = &mut bound.binding;
            binding.bind_input(PROMPT_INPUT, value).map_err(&failed)?;
        }
        Ok(())
    }

    /// Runs `prompt` after `before` virtual tokens, chunk by chunk, and returns the next token.
    pub(super) fn run_prompt(&mut self, prompt: &[u32], before: usize) -> Result<u32, EngineError> {
        let (mut rest, mut before) = (prompt, before);
        let mut least = self.least_first_chunk(before + rest.len());
        loop {
            // Virtual tokens are in the first chunk, together with at least one token.
            let mut size = self.sessions.next_chunk(before + rest.len()).max(least);
            if size + 1 == before + rest.len() && !self.states.is_empty() {
                // A run of a single token would count as a decode step, for which mixers with
                // states may compute something else.
                size -= 1;
            }
            least = 0;
            let (chunk, others) = rest.split_at(size.saturating_sub(before).clamp(1, rest.len()));
            let token = self.run(chunk, before)?;
            if before > 0 {
                before = 0;
                self.bind_prompt(false)?;
            }
            if others.is_empty() {
                return Ok(token);
            }
            rest = others;
        }
    }

    /// Binds the position from which an adapter with invocation tokens acts, for all chunks and
    /// decode steps.
    pub(super) fn bind_active_from(&mut self, prompt_ids: &[u32]) -> Result<(), EngineError> {
        let Some(start) = self.adapter.active_from(prompt_ids) else {
            return Ok(());
        };
        let failed = EngineError::runtime(&self.name);
        let host = self.sessions.step.session.allocator();
        let starts = vec![start; self.batch_size];
        let starts = new_tensor(host, &[self.batch_size, 1], &starts).map_err(&failed)?;
        for bound in self.sessions.iter_mut() {
            let binding = &mut bound.binding;
            binding
                .bind_input(ACTIVE_FROM_INPUT, &starts)
                .map_err(&failed)?;
        }
        Ok(())
    }
}

impl Engine for DecoderEngine {
    type Error = EngineError;

    fn prefill(&mut self, prompt_ids: &[u32]) -> Result<u32, EngineError> {
        if prompt_ids.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        self.length = self.prefix;
        self.check(prompt_ids, self.virtual_tokens + prompt_ids.len())?;
        if self.keys_change_beyond.is_some() {
            self.history.clear();
            self.history.extend_from_slice(prompt_ids);
        }
        self.states.clear()?;
        self.bind_prompt(true)?;
        self.bind_active_from(prompt_ids)?;
        self.run_prompt(prompt_ids, self.virtual_tokens)
    }

    fn decode(&mut self, token: u32) -> Result<u32, EngineError> {
        self.check(&[token], 1)?;
        if let Some(last) = self.keys_change_beyond {
            self.history.push(token);
            if self.length == last {
                let all = std::mem::take(&mut self.history);
                return self.prefill(&all);
            }
        }
        match self.captured {
            Some(_) => self.run_captured(token),
            None => self.run(&[token], 0),
        }
    }
}
