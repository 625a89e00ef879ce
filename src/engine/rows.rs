//! The rows of a batch as sequences of their own: each with its own tokens, and its own adapter.
//!
//! ```text
//! grouped    rows with the same adapter follow each other, and each group is a run of its own
//! gathered   one run for all rows; each row picks its adapter's tensors
//! ```

use std::cell::RefCell;
use std::rc::Rc;

use super::bound_session::NewTokens;
use super::{DecoderEngine, Engine, EngineError};

/// An engine whose rows have tokens of their own.
pub trait RowEngine {
    /// The engine's error.
    type Error;

    /// Starts a new sequence in every row, all with this prompt, and returns each row's first new
    /// token.
    ///
    /// # Errors
    /// If the model can't be run on this prompt.
    fn prefill_rows(&mut self, prompt_ids: &[u32]) -> Result<Vec<u32>, Self::Error>;

    /// Runs a token of each row, the last ones returned, and returns the next ones.
    ///
    /// # Errors
    /// If the model can't be run.
    fn decode_rows(&mut self, tokens: &[u32]) -> Result<Vec<u32>, Self::Error>;
}

impl DecoderEngine {
    fn row_tokens(&self) -> Result<Vec<u32>, EngineError> {
        let tokens = self.next_tokens().iter().map(|&next| {
            u32::try_from(next).map_err(|_| EngineError::Run {
                name: self.name.clone(),
                message: format!("`next_token` is {next}"),
            })
        });
        tokens.collect()
    }
}

impl RowEngine for DecoderEngine {
    type Error = EngineError;

    fn prefill_rows(&mut self, prompt_ids: &[u32]) -> Result<Vec<u32>, EngineError> {
        self.prefill(prompt_ids)?;
        self.row_tokens()
    }

    fn decode_rows(&mut self, tokens: &[u32]) -> Result<Vec<u32>, EngineError> {
        match tokens.split_first() {
            Some((first, others)) if others.iter().any(|other| other != first) => {
                self.check(tokens, 1)?;
                self.run_tokens(NewTokens::Each(tokens), 1)?;
            }
            Some((first, _)) => {
                self.decode(*first)?;
            }
            None => {}
        }
        self.row_tokens()
    }
}

/// A batch whose rows may have several adapters.
#[derive(Debug)]
pub enum Rows {
    /// Groups of rows, one after the other.
    Grouped(Vec<DecoderEngine>),
    /// One engine, and the number of each row's adapter.
    Gathered(Rc<RefCell<DecoderEngine>>, Vec<usize>),
}

impl RowEngine for Rows {
    type Error = EngineError;

    fn prefill_rows(&mut self, prompt_ids: &[u32]) -> Result<Vec<u32>, EngineError> {
        match self {
            Self::Grouped(groups) => {
                let tokens = groups
                    .iter_mut()
                    .map(|group| group.prefill_rows(prompt_ids));
                Ok(tokens.collect::<Result<Vec<_>, _>>()?.concat())
            }
            Self::Gathered(engine, adapters) => {
                let mut engine = engine.borrow_mut();
                engine.assign(adapters)?;
                engine.prefill_rows(prompt_ids)
            }
        }
    }

    fn decode_rows(&mut self, tokens: &[u32]) -> Result<Vec<u32>, EngineError> {
        match self {
            Self::Grouped(groups) => {
                let mut rest = tokens;
                let mut next = Vec::with_capacity(tokens.len());
                for group in groups {
                    let (own, others) = rest.split_at(group.batch_size);
                    next.extend(group.decode_rows(own)?);
                    rest = others;
                }
                Ok(next)
            }
            Self::Gathered(engine, _) => engine.borrow_mut().decode_rows(tokens),
        }
    }
}

impl Rows {
    /// The last step's logits of the row with this number, `[vocab_size]`; empty if there's none.
    ///
    /// # Panics
    /// If the engines were opened without `logits_on_host`.
    pub fn logits_of(&self, row: usize) -> Vec<f32> {
        match self {
            Self::Grouped(groups) => {
                let mut first = 0;
                for group in groups {
                    if row < first + group.batch_size {
                        return group.logits_of_row(row - first);
                    }
                    first += group.batch_size;
                }
                Vec::new()
            }
            Self::Gathered(engine, _) => engine.borrow().logits_of_row(row),
        }
    }
}
