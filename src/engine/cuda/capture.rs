//! Opening an engine whose decode steps are a CUDA graph, after checking that their logits are
//! right.

use std::slice::from_ref;

use super::StepGraph;
use super::transfer::read;
use crate::engine::logits::difference;
use crate::engine::tensors::{bytes_of, fill};
use crate::engine::{DecoderEngine, Engine, EngineError, EngineOptions, OnnxRuntime};
use crate::onnxruntime::cuda::Stream;
use crate::prepared::PreparedVariant;
use crate::weights::widen;

/// The largest allowed difference of logits, relative to the largest logit. Attention may sum up in
/// another order, since the graph uses another length of the cache.
const TOLERANCE: f32 = 0.02;

/// Number of steps to compare. ONNX Runtime runs the first one twice, to record it, and replays the
/// others.
const STEPS: usize = 3;

/// Opens an engine with a CUDA graph. If ONNX Runtime refuses it, or replayed steps give other
/// logits, the engine has none.
pub fn open_captured(
    runtime: &OnnxRuntime,
    variant: &PreparedVariant,
    options: &EngineOptions,
    device: u32,
) -> Result<DecoderEngine, EngineError> {
    let reason = match captured(runtime, variant, options, device) {
        Ok(mut engine) => {
            engine.step_graph = Some(StepGraph::Captured);
            return Ok(engine);
        }
        Err(reason) => reason,
    };
    let mut engine = DecoderEngine::open_on(runtime, variant, options, None)?;
    engine.step_graph = Some(StepGraph::Refused(reason));
    Ok(engine)
}

fn captured(
    runtime: &OnnxRuntime,
    variant: &PreparedVariant,
    options: &EngineOptions,
    device: u32,
) -> Result<DecoderEngine, String> {
    let text = |error: EngineError| match error {
        EngineError::Run { message, .. } => message,
        other => other.to_string(),
    };
    let stream = Stream::new(device)?;
    let mut engine =
        DecoderEngine::open_on(runtime, variant, options, Some(stream)).map_err(text)?;
    let taken = engine.prefix + engine.virtual_tokens + 1;
    let steps = STEPS.min(engine.max_length.saturating_sub(taken));
    let expected = engine.without_graph(steps)?;
    let found = engine.logits_of_steps(steps).map_err(text)?;
    for (step, (expected, found)) in expected.iter().zip(&found).enumerate() {
        let off = difference(from_ref(expected), from_ref(found));
        if off > TOLERANCE {
            let number = step + 1;
            return Err(format!(
                "step {number} of the graph gives logits that are off by {off:.1e} of the largest"
            ));
        }
    }
    Ok(engine)
}

impl DecoderEngine {
    /// Runs a decode step as a CUDA graph.
    pub(in crate::engine) fn run_captured(&mut self, token: u32) -> Result<u32, EngineError> {
        let (Some(steps), Some(stream)) = (&mut self.captured, &self.stream) else {
            return self.run(&[token], 0);
        };
        let rows = self.length..self.length + 1;
        let next = self.next_token.extract_tensor_mut().1;
        let session = &self.sessions.step.session;
        let run = steps.run(session, stream, token, &rows, next);
        let done = run.and_then(|()| {
            if self.logits_on_host {
                let mut bytes = vec![0; self.vocab_size * self.compute.size()];
                steps.read_logits(stream, &mut bytes)?;
                fill(&mut self.logits, 0, &bytes);
            }
            Ok(())
        });
        done.map_err(|message| EngineError::Run {
            name: self.name.clone(),
            message,
        })?;
        self.length = rows.end;
        self.first_next_token()
    }

    /// The logits of `steps` decode steps without the graph.
    fn without_graph(&mut self, steps: usize) -> Result<Vec<Vec<f32>>, String> {
        let captured = self.captured.take();
        let found = self.logits_of_steps(steps);
        self.captured = captured;
        found.map_err(|error| error.to_string())
    }

    /// The logits of decode steps with fixed tokens, after a prompt of one token.
    fn logits_of_steps(&mut self, steps: usize) -> Result<Vec<Vec<f32>>, EngineError> {
        self.prefill(&[0])?;
        let mut all = Vec::new();
        for step in 1..=steps {
            self.decode((step % self.vocab_size) as u32)?;
            all.push(self.last_logits()?);
        }
        Ok(all)
    }

    /// The last step's logits, read from the host or the device.
    fn last_logits(&self) -> Result<Vec<f32>, EngineError> {
        let mut bytes = vec![0; self.vocab_size * self.compute.size()];
        let read = match (&self.captured, &self.stream) {
            (Some(steps), Some(stream)) => steps.read_logits(stream, &mut bytes),
            (None, Some(stream)) if !self.logits_on_host => read(stream, &self.logits, &mut bytes),
            _ => {
                let length = bytes.len();
                bytes.copy_from_slice(bytes_of(&self.logits, length));
                Ok(())
            }
        };
        read.map_err(|message| EngineError::Run {
            name: self.name.clone(),
            message,
        })?;
        Ok(widen(&bytes, self.compute))
    }
}
