//! A session with its binding: inputs, outputs and one run.

use std::ops::Range;
use std::sync::Arc;

use ort::session::{IoBinding, Session};
use ort::value::{DynTensor, Tensor};

use super::cuda::GraphRun;
use super::length_inputs::LengthInputs;
use super::session::run_bound;
use super::tensors::new_tensor;
use super::{EngineError, EngineOptions, Provider};
use crate::lowering::host_side::{LOGITS, MASK, NEXT_TOKEN};

/// A session with its binding.
///
/// Fields are dropped in order: the binding before the session that it belongs to.
#[derive(Debug)]
pub struct BoundSession {
    pub binding: IoBinding,
    /// The input of a decode step, `[batch, 1]`.
    token: Tensor<i64>,
    lengths: LengthInputs,
    /// Whether binding copies an input (on a GPU), so that it must be bound again after a change.
    copies: bool,
    /// Run options that prevent the session from recording its runs as CUDA graphs, if it can.
    graph_run: Option<GraphRun>,
    takes_mask: bool,
    /// Whether the graph has the output `next_token`, not only logits.
    pub picks: bool,
    pub session: Arc<Session>,
}

/// The tokens of a run.
#[derive(Debug, Clone, Copy)]
pub enum NewTokens<'a> {
    /// The same for each of this number of sequences.
    Same(&'a [u32], usize),
    /// One token for each sequence.
    Each(&'a [u32]),
}

impl NewTokens<'_> {
    /// Number of sequences.
    fn batch(self) -> usize {
        match self {
            Self::Same(_, batch) => batch,
            Self::Each(tokens) => tokens.len(),
        }
    }
}

impl BoundSession {
    /// Makes a binding and binds the lengths that are inputs of the graph. `captures`: the session
    /// can record CUDA graphs, but must not record these runs.
    pub fn new(
        session: Arc<Session>,
        options: &EngineOptions,
        captures: bool,
    ) -> ort::Result<Self> {
        let mut binding = session.create_binding()?;
        let host = session.allocator();
        let takes = |name: &str| session.inputs().iter().any(|input| input.name() == name);
        let lengths = LengthInputs::new(&session, host, options.batch_size)?;
        lengths.bind(&mut binding)?;
        let mut outputs = session.outputs().iter();
        Ok(Self {
            token: Tensor::<i64>::new(host, [options.batch_size, 1])?,
            takes_mask: takes(MASK),
            picks: outputs.any(|output| output.name() == NEXT_TOKEN),
            lengths,
            copies: options.provider != Provider::Cpu,
            graph_run: captures.then(GraphRun::plain).transpose()?,
            binding,
            session,
        })
    }

    /// Another binding for the same session.
    pub fn again(&self, options: &EngineOptions) -> ort::Result<Self> {
        let session = Arc::clone(&self.session);
        Self::new(session, options, self.graph_run.is_some())
    }

    /// Binds the outputs.
    pub fn bind_outputs(
        &mut self,
        logits: &mut DynTensor,
        next_token: &mut Tensor<i64>,
    ) -> ort::Result<()> {
        self.binding.bind_output(LOGITS, logits)?;
        if self.picks {
            self.binding.bind_output(NEXT_TOKEN, next_token)?;
        }
        Ok(())
    }

    /// Runs `tokens`. Their keys and values go into `rows` of the cache.
    ///
    /// # Errors
    /// If ONNX Runtime can't bind the inputs or run the graph; `name`, the variant's, is in the
    /// message.
    pub fn run(
        &mut self,
        name: &str,
        tokens: NewTokens,
        rows: Range<usize>,
    ) -> Result<(), EngineError> {
        self.bind_inputs(tokens, &rows)
            .map_err(EngineError::runtime(name))?;
        run_bound(
            &self.session,
            &self.binding,
            self.graph_run.as_ref().map(|run| &run.0),
        )
        .map_err(|message| EngineError::Run {
            name: name.to_owned(),
            message,
        })
    }

    fn bind_inputs(&mut self, tokens: NewTokens, rows: &Range<usize>) -> ort::Result<()> {
        let host = self.session.allocator();
        let batch = tokens.batch();
        match tokens {
            NewTokens::Same(&[id], _) => {
                self.token.extract_tensor_mut().1.fill(i64::from(id));
                self.binding.bind_input("input_ids", &self.token)?;
            }
            NewTokens::Same(ids, _) => {
                let all: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
                let input = new_tensor(host, &[batch, ids.len()], &all.repeat(batch))?;
                self.binding.bind_input("input_ids", &input)?;
            }
            NewTokens::Each(ids) => {
                let (_, own) = self.token.extract_tensor_mut();
                for (own, &id) in own.iter_mut().zip(ids) {
                    *own = i64::from(id);
                }
                self.binding.bind_input("input_ids", &self.token)?;
            }
        }
        if self.takes_mask {
            let ones = vec![1_i64; batch * rows.end];
            let mask = new_tensor(host, &[batch, rows.end], &ones)?;
            self.binding.bind_input(MASK, &mask)?;
        }
        self.lengths.set(rows);
        if self.copies {
            self.lengths.bind(&mut self.binding)?;
        }
        Ok(())
    }
}
