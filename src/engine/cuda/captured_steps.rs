//! Decode steps recorded as a CUDA graph, whose tensors stay at fixed addresses.

use std::fmt;
use std::ops::Range;

use ort::memory::Allocator;
use ort::session::{IoBinding, RunOptions, Session};
use ort::value::{DynTensor, Tensor};

use super::transfer::{read, write};
use crate::engine::EngineOptions;
use crate::engine::session::run_bound;
use crate::graph::lengths::{LAST_INDEX, PAST, TOTAL, TOTAL_I32};
use crate::graph::proto::Model;
use crate::graph::{ACTIVE_FROM_INPUT, PROMPT_INPUT};
use crate::lowering::host_side::{LOGITS, MASK, NEXT_TOKEN};
use crate::onnxruntime::cuda::Stream;

/// Inputs that depend on the prompt or change their size, so they can't stay bound.
const CHANGING: [&str; 4] = [MASK, TOTAL, ACTIVE_FROM_INPUT, PROMPT_INPUT];

/// Checks that the nodes of a step's graph can be recorded.
///
/// # Errors
/// If a node's output size is computed on the GPU: all steps would have the recorded step's sizes.
pub fn check_capturable(model: &Model) -> Result<(), String> {
    let mut nodes = model.graph.iter().flat_map(|graph| &graph.node);
    match nodes.find(|node| node.op_type == "NonZero") {
        Some(node) => Err(format!(
            "`{}` selects the tokens of an expert, whose number changes from step to step",
            node.name
        )),
        None => Ok(()),
    }
}

/// The key of ONNX Runtime's run option that selects the CUDA graph to record or replay.
const GRAPH_ID: &str = "gpu_graph_id";

/// Run options for a session that can record CUDA graphs.
pub struct GraphRun(pub RunOptions);

impl GraphRun {
    /// Options of a run that's neither recorded nor replayed.
    pub fn plain() -> ort::Result<Self> {
        let mut options = RunOptions::new()?;
        options.set(GRAPH_ID, "-1")?;
        Ok(Self(options))
    }

    /// Options of runs of which the first is recorded and the others replay it. `run` doesn't wait
    /// for the GPU, since results are read on the same stream.
    fn recorded() -> ort::Result<Self> {
        let mut options = RunOptions::new()?;
        options.set(GRAPH_ID, "1")?;
        options.disable_device_sync()?;
        Ok(Self(options))
    }
}

impl fmt::Debug for GraphRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GraphRun").finish_non_exhaustive()
    }
}

/// A session's decode steps as a CUDA graph, with the bound tensors. The session runs on one
/// [`Stream`].
#[derive(Debug)]
pub struct CapturedSteps {
    /// The binding; cache and adapter must be bound to it, too.
    pub binding: IoBinding,
    options: GraphRun,
    /// The input token of each sequence, `[batch, 1]`.
    token: Tensor<i64>,
    last_index: Option<Tensor<i32>>,
    past: Option<Tensor<i64>>,
    /// In host memory; the binding refers to it.
    _total: Option<Tensor<i32>>,
    next_token: Tensor<i64>,
    logits: DynTensor,
}

impl CapturedSteps {
    /// Binds everything except cache and adapter. `logits` is a tensor on the device.
    ///
    /// # Errors
    /// If the session has an input that changes from step to step, or ONNX Runtime refuses a
    /// tensor.
    pub fn new(
        session: &Session,
        device: &Allocator,
        options: &EngineOptions,
        logits: DynTensor,
    ) -> Result<Self, String> {
        let takes = |name: &str| session.inputs().iter().any(|input| input.name() == name);
        if let Some(name) = CHANGING.into_iter().find(|name| takes(name)) {
            return Err(format!(
                "the graph takes `{name}`, which changes from step to step"
            ));
        }
        let failed = |error: ort::Error| error.message().to_owned();
        let batch = options.batch_size;
        let bind = || {
            let total = || {
                let mut total = Tensor::<i32>::new(session.allocator(), [0_usize; 0])?;
                total.extract_tensor_mut().1.fill(options.max_length as i32);
                Ok::<_, ort::Error>(total)
            };
            let mut made = Self {
                binding: session.create_binding()?,
                options: GraphRun::recorded()?,
                token: Tensor::<i64>::new(device, [batch, 1])?,
                last_index: takes(LAST_INDEX)
                    .then(|| Tensor::<i32>::new(device, [batch]))
                    .transpose()?,
                past: takes(PAST)
                    .then(|| Tensor::<i64>::new(device, [1_usize]))
                    .transpose()?,
                _total: takes(TOTAL_I32).then(total).transpose()?,
                next_token: Tensor::<i64>::new(device, [batch, 1])?,
                logits,
            };
            let binding = &mut made.binding;
            binding.bind_input("input_ids", &made.token)?;
            if let Some(last_index) = &made.last_index {
                binding.bind_input(LAST_INDEX, last_index)?;
            }
            if let Some(total) = &made._total {
                binding.bind_input(TOTAL_I32, total)?;
            }
            if let Some(past) = &made.past {
                binding.bind_input(PAST, past)?;
            }
            binding.bind_output(NEXT_TOKEN, &mut made.next_token)?;
            binding.bind_output(LOGITS, &mut made.logits)?;
            Ok(made)
        };
        bind().map_err(failed)
    }

    /// Runs token `id` of every sequence, whose keys and values go into the single row `rows` of
    /// the cache, and writes the next tokens to `next_tokens`.
    ///
    /// # Errors
    /// The message of ONNX Runtime or the CUDA runtime.
    pub fn run(
        &mut self,
        session: &Session,
        stream: &Stream,
        id: u32,
        rows: &Range<usize>,
        next_tokens: &mut [i64],
    ) -> Result<(), String> {
        let batch = next_tokens.len();
        let ids = i64::from(id).to_ne_bytes().repeat(batch);
        write(stream, &ids, &mut self.token)?;
        let last = (rows.end as i32 - 1).to_ne_bytes().repeat(batch);
        if let Some(last_index) = &mut self.last_index {
            write(stream, &last, last_index)?;
        }
        if let Some(past) = &mut self.past {
            write(stream, &(rows.start as i64).to_ne_bytes(), past)?;
        }
        run_bound(session, &self.binding, Some(&self.options.0))?;
        let mut found = vec![0; ids.len()];
        read(stream, &self.next_token, &mut found)?;
        for (next, bytes) in next_tokens.iter_mut().zip(found.as_chunks().0) {
            *next = i64::from_ne_bytes(*bytes);
        }
        Ok(())
    }

    /// Copies the first bytes of the last step's logits to `target`.
    ///
    /// # Errors
    /// The message of the CUDA runtime.
    pub fn read_logits(&self, stream: &Stream, target: &mut [u8]) -> Result<(), String> {
        read(stream, &self.logits, target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::proto::{Graph, Node};

    #[test]
    fn steps_whose_sizes_are_found_on_the_gpu_are_not_recorded() {
        let model = |op_type: &str| Model {
            graph: Some(Graph {
                node: vec![Node {
                    name: "/experts.3".to_owned(),
                    op_type: op_type.to_owned(),
                    ..Node::default()
                }],
                ..Graph::default()
            }),
            ..Model::default()
        };
        assert_eq!(check_capturable(&model("MatMul")), Ok(()));
        let problem = check_capturable(&model("NonZero")).unwrap_err();
        assert!(problem.contains("`/experts.3`"), "{problem}");
    }
}
