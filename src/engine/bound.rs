//! A session with the tensors that are bound to it.

use ort::session::{IoBinding, Session};
use ort::value::{DynTensor, Tensor};

use super::EngineError;
use super::bindings::new_tensor;
use super::layout::host::{LOGITS, MASK, NEXT_TOKEN};
use super::onnx_runtime::run_bound;
use crate::graph::positions::{LAST_INDEX, TOTAL, TOTAL_I32};

/// A session with its binding.
///
/// Fields are dropped in order: the binding before the session that it belongs to.
#[derive(Debug)]
pub struct BoundSession {
    pub binding: IoBinding,
    /// One new token of every sequence, `[batch, 1]`.
    token: Tensor<i64>,
    last_index: Tensor<i32>,
    total_i32: Tensor<i32>,
    total: Tensor<i64>,
    takes_mask: bool,
    /// Whether it picks the next token, and not only gives logits.
    pub picks: bool,
    pub session: Session,
}

impl BoundSession {
    /// Binds the lengths, of runs with `batch` sequences, where the session takes them.
    pub fn new(session: Session, batch: usize) -> ort::Result<Self> {
        let mut binding = session.create_binding()?;
        let host = session.allocator();
        let takes = |name: &str| session.inputs().iter().any(|input| input.name() == name);
        let last_index = Tensor::<i32>::new(host, [batch])?;
        let total_i32 = Tensor::<i32>::new(host, [0_usize; 0])?;
        let total = Tensor::<i64>::new(host, [1_usize])?;
        if takes(LAST_INDEX) {
            binding.bind_input(LAST_INDEX, &last_index)?;
        }
        if takes(TOTAL_I32) {
            binding.bind_input(TOTAL_I32, &total_i32)?;
        }
        if takes(TOTAL) {
            binding.bind_input(TOTAL, &total)?;
        }
        let mut outputs = session.outputs().iter();
        Ok(Self {
            token: Tensor::<i64>::new(host, [batch, 1])?,
            takes_mask: takes(MASK),
            picks: outputs.any(|output| output.name() == NEXT_TOKEN),
            last_index,
            total_i32,
            total,
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

    /// Runs `ids`, the same for each of `batch` sequences, behind a cache that they make `total` rows long.
    ///
    /// # Errors
    /// If ONNX Runtime can't bind or run it; `name` is the variant's.
    pub fn run(
        &mut self,
        name: &str,
        ids: &[u32],
        batch: usize,
        total: usize,
    ) -> Result<(), EngineError> {
        self.bind_inputs(ids, batch, total)
            .map_err(EngineError::runtime(name))?;
        run_bound(&self.session, &self.binding).map_err(|message| EngineError::Run {
            name: name.to_owned(),
            message,
        })
    }

    fn bind_inputs(&mut self, ids: &[u32], batch: usize, total: usize) -> ort::Result<()> {
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
            let ones = vec![1_i64; batch * total];
            let mask = new_tensor(host, &[batch, total], &ones)?;
            self.binding.bind_input(MASK, &mask)?;
        }
        // These are bound already: a run reads what's in them when it begins.
        let all = total as i32;
        self.last_index.extract_tensor_mut().1.fill(all - 1);
        self.total_i32.extract_tensor_mut().1.fill(all);
        self.total.extract_tensor_mut().1.fill(total as i64);
        Ok(())
    }
}
