//! A session with the tensors that are bound to it.

use ort::session::{IoBinding, Session};
use ort::value::{DynTensor, Tensor};

use super::EngineError;
use super::bindings::new_tensor;
use super::onnx_runtime::run_bound;

/// A session with its binding.
///
/// Fields are dropped in order: the binding before the session that it belongs to.
#[derive(Debug)]
pub struct BoundSession {
    pub binding: IoBinding,
    pub session: Session,
}

impl BoundSession {
    /// Binds nothing yet.
    pub fn new(session: Session) -> ort::Result<Self> {
        Ok(Self {
            binding: session.create_binding()?,
            session,
        })
    }

    /// Binds what every run writes.
    pub fn bind_outputs(
        &mut self,
        logits: &mut DynTensor,
        next_token: &mut Tensor<i64>,
    ) -> ort::Result<()> {
        self.binding.bind_output("logits", logits)?;
        self.binding.bind_output("next_token", next_token)
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
        let failed = EngineError::runtime(name);
        let host = self.session.allocator();
        let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
        // Every sequence of the batch is given the same tokens, and so makes the same ones.
        let shape = [batch, ids.len()];
        let input = new_tensor(host, &shape, &ids.repeat(batch)).map_err(&failed)?;
        let ones = vec![1_i64; batch * total];
        let mask = new_tensor(host, &[batch, total], &ones).map_err(&failed)?;
        self.binding
            .bind_input("input_ids", &input)
            .map_err(&failed)?;
        self.binding
            .bind_input("attention_mask", &mask)
            .map_err(&failed)?;
        run_bound(&self.session, &self.binding).map_err(|message| EngineError::Run {
            name: name.to_owned(),
            message,
        })
    }
}
