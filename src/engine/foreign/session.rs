//! A session on one graph, and one run of it.

use std::borrow::Cow;
use std::ops::Range;

use ort::memory::Allocator;
use ort::session::{IoBinding, Session, SessionInputValue};
use ort::value::DynTensor;

use super::cache::Cache;
use super::inputs;
use super::logits::Logits;
use crate::engine::session::{open_file, run_bound};
use crate::engine::tensors::element_type;
use crate::engine::{EngineError, EngineOptions, OnnxRuntime};
use crate::prepared::{ForeignGraph, LogitsOf};
use crate::weights::Dtype;

/// A session and what's known of its graph.
///
/// Fields are dropped in order: binding and allocator before the session that they belong to.
#[derive(Debug)]
pub struct ForeignSession {
    binding: IoBinding,
    /// The allocator of the session's own outputs; it keeps memory for the next run.
    pub arena: Option<Allocator>,
    graph: ForeignGraph,
    name: String,
    vocab_size: usize,
    batch_size: usize,
    pub session: Session,
}

impl ForeignSession {
    /// Opens a session on `graph`, whose logits have `vocab_size` values a position.
    pub fn open(
        runtime: &OnnxRuntime,
        graph: &ForeignGraph,
        options: &EngineOptions,
        vocab_size: usize,
    ) -> Result<Self, EngineError> {
        let name = graph.file.display().to_string();
        let session = open_file(runtime, &graph.file, options)?;
        Ok(Self {
            binding: session
                .create_binding()
                .map_err(EngineError::runtime(&name))?,
            arena: options.arena(&session),
            graph: graph.clone(),
            name,
            vocab_size,
            batch_size: options.batch_size,
            session,
        })
    }

    /// Binds buffers as cached keys and values, and as those that are given.
    pub fn bind_cache(&mut self, buffers: &mut [DynTensor]) -> ort::Result<()> {
        let names = self.graph.past.iter().zip(&self.graph.present);
        for (buffer, (past, present)) in buffers.iter_mut().zip(names) {
            self.binding.bind_input(past, &*buffer)?;
            self.binding.bind_output(present, buffer)?;
        }
        Ok(())
    }

    /// Runs the tokens `ids`, the same for each sequence. Their keys and values go into `rows` of the
    /// cache. `spare` are logits that aren't needed any more.
    pub fn run(
        &mut self,
        cache: &mut Cache,
        ids: &[u32],
        rows: Range<usize>,
        spare: Option<Logits>,
    ) -> Result<Logits, EngineError> {
        let failed = EngineError::runtime(&self.name);
        let positions = match self.graph.logits_of {
            LogitsOf::AllPositions => ids.len(),
            LogitsOf::LastPosition => 1,
        };
        let host = self.session.allocator();
        let inputs = inputs::of_run(&self.graph, host, ids, self.batch_size, &rows);
        let inputs = inputs.map_err(&failed)?;
        let Cache::Copied { tensors, empty } = cache else {
            let mut logits = match spare.filter(|spare| spare.positions == positions) {
                Some(spare) => spare,
                None => {
                    let arena = self.arena.as_ref().unwrap_or(host);
                    let dtype = self.graph.logits_dtype;
                    allocate(arena, dtype, self.batch_size, positions, self.vocab_size)
                        .map_err(&failed)?
                }
            };
            let mut bind = |binding: &mut IoBinding| -> ort::Result<()> {
                for (name, tensor) in &inputs {
                    binding.bind_input(*name, tensor)?;
                }
                binding.bind_output(self.graph.logits.as_str(), &mut logits.tensor)
            };
            bind(&mut self.binding).map_err(failed)?;
            let run = run_bound(&self.session, &self.binding, None);
            return run.map(|()| logits).map_err(|message| EngineError::Run {
                name: self.name.clone(),
                message,
            });
        };
        drop(spare);
        let past = if tensors.is_empty() {
            &*empty
        } else {
            &*tensors
        };
        let past = self.graph.past.iter().map(String::as_str).zip(past);
        let fed = inputs
            .iter()
            .map(|(name, tensor)| (*name, tensor))
            .chain(past);
        let fed: Vec<(Cow<str>, SessionInputValue)> = fed
            .map(|(name, tensor)| (Cow::Borrowed(name), SessionInputValue::from(tensor)))
            .collect();
        let mut given = self.session.run(fed).map_err(&failed)?;
        let mut take = |name: &str| {
            let value = given.remove(name).ok_or_else(|| EngineError::Run {
                name: self.name.clone(),
                message: format!("it gave no `{name}`"),
            })?;
            value.downcast().map_err(&failed)
        };
        let logits: DynTensor = take(&self.graph.logits)?;
        let present = self.graph.present.iter().map(|name| take(name));
        *tensors = present.collect::<Result<_, EngineError>>()?;
        Ok(Logits {
            tensor: logits,
            dtype: self.graph.logits_dtype,
            positions,
            vocab_size: self.vocab_size,
        })
    }
}

/// New logits of `positions`, in memory of the session that `arena` belongs to.
fn allocate(
    arena: &Allocator,
    dtype: Dtype,
    batch_size: usize,
    positions: usize,
    vocab_size: usize,
) -> ort::Result<Logits> {
    Ok(Logits {
        tensor: DynTensor::new(
            arena,
            element_type(dtype),
            [batch_size, positions, vocab_size],
        )?,
        dtype,
        positions,
        vocab_size,
    })
}
