//! A session with the tensors that are bound to it.

use std::ops::Range;

use ort::session::{IoBinding, Session};
use ort::value::{DynTensor, Tensor};

use super::bindings::new_tensor;
use super::cuda::GraphRun;
use super::lengths::Lengths;
use super::session::run_bound;
use super::{EngineError, EngineOptions, Provider};
use crate::lowering::host_side::{LOGITS, MASK, NEXT_TOKEN};

/// A session with its binding.
///
/// Fields are dropped in order: the binding before the session that it belongs to.
#[derive(Debug)]
pub struct BoundSession {
    pub binding: IoBinding,
    /// One new token of every sequence, `[batch, 1]`.
    token: Tensor<i64>,
    lengths: Lengths,
    /// Whether inputs are copied where they are bound, and not read when a run begins.
    copies: bool,
    /// Keeps its runs from being recorded, where the session could do so.
    graph_run: Option<GraphRun>,
    takes_mask: bool,
    /// Whether it picks the next token, and not only gives logits.
    pub picks: bool,
    pub session: Session,
}

impl BoundSession {
    /// Binds the lengths, of runs with `options.batch_size` sequences, where the session takes them.
    /// `captures`: it may record CUDA graphs, which its own runs shan't be.
    pub fn new(session: Session, options: &EngineOptions, captures: bool) -> ort::Result<Self> {
        let mut binding = session.create_binding()?;
        let host = session.allocator();
        let takes = |name: &str| session.inputs().iter().any(|input| input.name() == name);
        let lengths = Lengths::new(&session, host, options.batch_size)?;
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

    /// Binds what every run writes.
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

    /// Runs `ids`, the same for each of `batch` sequences, which fill `rows` of the cache.
    ///
    /// # Errors
    /// If ONNX Runtime can't bind or run it; `name` is the variant's.
    pub fn run(
        &mut self,
        name: &str,
        ids: &[u32],
        batch: usize,
        rows: Range<usize>,
    ) -> Result<(), EngineError> {
        self.bind_inputs(ids, batch, &rows)
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

    fn bind_inputs(&mut self, ids: &[u32], batch: usize, rows: &Range<usize>) -> ort::Result<()> {
        let host = self.session.allocator();
        // Every sequence of the batch is given the same tokens, and so makes the same ones.
        if let &[id] = ids {
            self.token.extract_tensor_mut().1.fill(i64::from(id));
            self.binding.bind_input("input_ids", &self.token)?;
        } else {
            let all: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
            let input = new_tensor(host, &[batch, ids.len()], &all.repeat(batch))?;
            self.binding.bind_input("input_ids", &input)?;
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
