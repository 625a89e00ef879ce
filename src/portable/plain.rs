//! A plain loop of ONNX Runtime over a portable folder's graph, as others run it: the file is opened
//! as it is, keys and values are handed on from call to call, and prompts of unequal lengths are
//! padded on the right.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use ort::logging::LogLevel;
use ort::session::{Session, SessionInputValue};
use ort::value::{DynTensor, DynValue, Tensor, TensorElementType};
use thiserror::Error;

use crate::graph::ACTIVE_FROM_INPUT;
use crate::onnxruntime::OnnxRuntime;
use crate::parity::Trace;
use crate::prepared::{AdapterSummary, GRAPH, Manifest};
use crate::weights::{OnnxAdapterFile, widen};

/// ONNX Runtime refuses the graph.
#[derive(Debug, Error)]
#[error("ONNX Runtime can't run `{}`: {message}", graph.display())]
pub struct PlainError {
    graph: PathBuf,
    message: String,
}

/// An open graph.
#[derive(Debug)]
pub struct PlainSession {
    session: Session,
    graph: PathBuf,
    /// For each layer with keys and values: its number, and their heads and width.
    cache: Vec<(usize, [usize; 2])>,
    vocab_size: usize,
    /// The tensors of the active adapter.
    adapter: Vec<(String, Tensor<f32>)>,
    /// The tokens that the active adapter acts from on, if it doesn't always act.
    invocation: Option<Vec<u32>>,
}

impl PlainSession {
    /// Opens the graph in `folder`, which this `manifest` describes.
    ///
    /// # Errors
    /// If ONNX Runtime can't open it.
    pub fn open(
        runtime: &OnnxRuntime,
        folder: &Path,
        manifest: &Manifest,
        threads: usize,
    ) -> Result<Self, PlainError> {
        let graph = folder.join(GRAPH);
        let open = || -> Result<Session, String> {
            let builder = Session::builder(runtime.environment()).map_err(|e| e.to_string())?;
            let builder = builder
                .with_log_level(LogLevel::Error)
                .map_err(|e| e.to_string())?;
            let mut builder = builder
                .with_intra_threads(threads)
                .map_err(|e| e.to_string())?;
            builder.commit_from_file(&graph).map_err(|e| e.to_string())
        };
        match open() {
            Ok(session) => Ok(Self {
                session,
                graph,
                cache: cached_layers(manifest),
                vocab_size: manifest.vocab_size,
                adapter: Vec::new(),
                invocation: None,
            }),
            Err(message) => Err(PlainError { graph, message }),
        }
    }

    /// Makes the adapter of `file`, which `summary` describes, the active one.
    ///
    /// # Errors
    /// If its tensors can't be held.
    pub fn activate(
        &mut self,
        file: &OnnxAdapterFile,
        summary: &AdapterSummary,
    ) -> Result<(), PlainError> {
        self.deactivate();
        self.invocation.clone_from(&summary.invocation);
        for tensor in file.tensors() {
            let host = self.session.allocator();
            let made = Tensor::<f32>::new(host, tensor.shape);
            let mut made = made.map_err(|error| PlainError {
                graph: self.graph.clone(),
                message: error.to_string(),
            })?;
            let values = widen(&tensor.bytes, tensor.dtype);
            made.extract_tensor_mut().1.copy_from_slice(&values);
            self.adapter.push((tensor.name, made));
        }
        Ok(())
    }

    /// Lets no adapter be active.
    pub fn deactivate(&mut self) {
        self.adapter.clear();
        self.invocation = None;
    }

    /// Generates `count` tokens after each of `prompts` at once, greedily. Shorter prompts are
    /// padded on the right with `pad`.
    ///
    /// # Errors
    /// If the graph can't be run.
    pub fn generate(
        &mut self,
        prompts: &[&[u32]],
        pad: u32,
        count: usize,
    ) -> Result<Vec<Trace>, PlainError> {
        let graph = self.graph.clone();
        self.run(prompts, pad, count).map_err(|error| PlainError {
            graph,
            message: error.to_string(),
        })
    }

    fn run(&mut self, prompts: &[&[u32]], pad: u32, count: usize) -> ort::Result<Vec<Trace>> {
        let batch = prompts.len();
        let length = prompts.iter().map(|prompt| prompt.len()).max().unwrap_or(0);
        let mut ids = Vec::with_capacity(batch * length);
        let mut masks: Vec<Vec<i64>> = Vec::with_capacity(batch);
        for prompt in prompts {
            let missing = length - prompt.len();
            ids.extend(prompt.iter().map(|&id| i64::from(id)));
            ids.extend(std::iter::repeat_n(i64::from(pad), missing));
            masks.push([vec![1; prompt.len()], vec![0; missing]].concat());
        }
        let mut cache = self.empty_cache(batch)?;
        let starts: Vec<i64> = prompts
            .iter()
            .filter_map(|prompt| self.start(prompt))
            .collect();
        let mut traces = vec![
            Trace {
                tokens: Vec::new(),
                logits: Vec::new(),
            };
            batch
        ];
        for _ in 0..count {
            let columns = ids.len() / batch;
            let mut inputs: Vec<(Cow<str>, SessionInputValue)> = vec![
                (
                    "input_ids".into(),
                    Tensor::from_array(([batch, columns], ids))?.into(),
                ),
                (
                    "attention_mask".into(),
                    Tensor::from_array(([batch, masks[0].len()], masks.concat()))?.into(),
                ),
            ];
            for (name, value) in names("past_key_values", &self.cache).zip(cache) {
                inputs.push((name.into(), value.into()));
            }
            for (name, value) in &self.adapter {
                inputs.push((name.as_str().into(), value.into()));
            }
            if !starts.is_empty() {
                let starts = Tensor::from_array(([batch, 1], starts.clone()))?;
                inputs.push((ACTIVE_FROM_INPUT.into(), starts.into()));
            }
            let mut outputs = self.session.run(inputs)?;
            let logits = outputs.get("logits");
            let logits = logits.ok_or_else(|| ort::Error::new("it has no output `logits`"))?;
            let (shape, logits) = logits.try_extract_tensor::<f32>()?;
            if logits.len() != batch * self.vocab_size {
                return Err(ort::Error::new(format!(
                    "its logits have the shape {shape}, expected [{batch}, 1, {}] as its manifest says",
                    self.vocab_size
                )));
            }
            ids = Vec::with_capacity(batch);
            for (trace, row) in traces.iter_mut().zip(logits.chunks_exact(self.vocab_size)) {
                let token = largest(row);
                ids.push(i64::from(token));
                trace.tokens.push(token);
                trace.logits.push(row.to_vec());
            }
            masks.iter_mut().for_each(|mask| mask.push(1));
            cache = names("present", &self.cache)
                .filter_map(|name| outputs.remove(name))
                .collect();
        }
        Ok(traces)
    }

    /// The position of `prompt` from which the active adapter acts on, if it has an invocation.
    fn start(&self, prompt: &[u32]) -> Option<i64> {
        let invocation = self.invocation.as_deref()?;
        let mut places = prompt.windows(invocation.len());
        let start = places.rposition(|place| place == invocation);
        Some(start.map_or(i64::MAX, |start| start as i64))
    }

    /// Keys and values of no positions.
    fn empty_cache(&self, batch: usize) -> ort::Result<Vec<DynValue>> {
        let host = self.session.allocator();
        let mut all = Vec::with_capacity(2 * self.cache.len());
        for &(_, [heads, width]) in &self.cache {
            for _ in 0..2 {
                let shape = [batch, heads, 0, width];
                let tensor = DynTensor::new(host, TensorElementType::Float32, shape)?;
                all.push(tensor.into_dyn());
            }
        }
        Ok(all)
    }
}

/// The layers with keys and values.
fn cached_layers(manifest: &Manifest) -> Vec<(usize, [usize; 2])> {
    let layers = manifest.cache.iter().enumerate();
    let cached = layers.filter_map(|(layer, cache)| Some((layer, <[usize; 2]>::from((*cache)?))));
    cached.collect()
}

/// The cache's inputs or outputs, in the order of layers.
fn names(kind: &str, layers: &[(usize, [usize; 2])]) -> impl Iterator<Item = String> {
    let layers = layers.iter().map(|&(layer, _)| layer);
    let halves = layers.flat_map(|layer| [(layer, "key"), (layer, "value")]);
    halves.map(move |(layer, half)| format!("{kind}.{layer}.{half}"))
}

fn largest(row: &[f32]) -> u32 {
    crate::lowering::host_side::largest(row) as u32
}
