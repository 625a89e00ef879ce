//! The key-value cache: buffers of the maximum length, bound as `past` and as `present`, so that
//! attention updates them in place.

use std::collections::BTreeSet;

use ort::memory::Allocator;
use ort::session::IoBinding;
use ort::value::{DynTensor, TensorElementType};

use super::cuda::write;
use super::tensors::{bytes_of, element_type, fill};
use super::{EngineError, EngineOptions, Provider};
use crate::graph::{AttentionOperator, PROMPT_INPUT};
use crate::onnxruntime::cuda::Stream;
use crate::prepared::{ADAPTER, PreparedVariant, PromptKind};
use crate::weights::{SafetensorsFile, WeightsError};

/// With [`AttentionOperator::Standard`], the cache's length is rounded up to a multiple of this.
/// For other lengths, ONNX Runtime (1.31) uses other kernels on a GPU, so a single row more could
/// change the times.
const LENGTH_MULTIPLE: usize = 4;

/// Keys or values of a layer.
#[derive(Debug)]
pub struct CachedTensor {
    layer: usize,
    kind: &'static str,
    tensor: DynTensor,
}

/// The first rows of a [`CachedTensor`] of one sequence.
#[derive(Debug, Clone)]
pub struct CachedRows {
    heads: usize,
    /// Bytes of the rows of a head.
    of_head: usize,
    /// All heads, one after the other.
    pub bytes: Vec<u8>,
}

impl CachedTensor {
    /// Heads, and the bytes of a head and of a row.
    fn sizes(&self) -> (usize, usize, usize) {
        let size = |axis: usize| self.tensor.shape()[axis] as usize;
        let element = match self.tensor.data_type() {
            TensorElementType::Float32 => 4,
            _ => 2,
        };
        let row = size(3) * element;
        (size(0) * size(1), size(2) * row, row)
    }

    /// Copies the first `rows` rows of each head, in host memory.
    pub fn rows(&self, rows: usize) -> CachedRows {
        let (heads, head, row) = self.sizes();
        let all = bytes_of(&self.tensor, heads * head);
        let of_head = rows * row;
        let bytes = all.chunks_exact(head).flat_map(|head| &head[..of_head]);
        CachedRows {
            heads,
            of_head,
            bytes: bytes.copied().collect(),
        }
    }

    /// Replaces the first rows by `rows`; `false` if they have another form.
    pub fn set_rows(&mut self, rows: &CachedRows) -> bool {
        let (heads, head, row) = self.sizes();
        let fits = rows.heads == heads
            && rows.of_head <= head
            && rows.of_head.is_multiple_of(row)
            && rows.bytes.len() == heads * rows.of_head;
        if fits && rows.of_head > 0 {
            for (index, bytes) in rows.bytes.chunks_exact(rows.of_head).enumerate() {
                fill(&mut self.tensor, index * head, bytes);
            }
        }
        fits
    }
}

/// Allocates the cache: key and value of each layer that has them, in turn. Those whose input is in
/// `on_host` are in the host's memory. A trained prefix is written into the first rows. On a GPU, the
/// other rows are set to zero only if attention reads them, as [`AttentionOperator::Standard`] does.
pub fn allocate(
    host: &Allocator,
    device: &Allocator,
    variant: &PreparedVariant,
    options: &EngineOptions,
    on_host: &BTreeSet<String>,
) -> Result<Vec<CachedTensor>, EngineError> {
    let manifest = &variant.manifest;
    let failed = EngineError::runtime(&variant.folder.display().to_string());
    let prefix = Prefix::read(variant)?;
    let element = element_type(manifest.compute);
    let read_whole = manifest.attention == AttentionOperator::Standard;
    let length = match read_whole {
        true => options.max_length.next_multiple_of(LENGTH_MULTIPLE),
        false => options.max_length,
    };
    let stream = match options.provider {
        Provider::Cuda(device) if read_whole || prefix.is_some() => {
            let stream = Stream::new(device);
            Some(stream.map_err(|message| EngineError::Cuda { device, message })?)
        }
        _ => None,
    };
    let mut cache = Vec::new();
    let layers = manifest.cache.iter().enumerate();
    for (layer, (heads, width)) in layers.filter_map(|(layer, own)| Some((layer, (*own)?))) {
        for (half, kind) in ["key", "value"].into_iter().enumerate() {
            let shape = [options.batch_size, heads, length, width];
            let size = manifest.compute.size();
            let filled = |allocator| {
                let mut tensor = DynTensor::new(allocator, element, shape).map_err(&failed)?;
                if let Some(prefix) = &prefix {
                    let entry = 2 * layer + half;
                    let entries = 2 * manifest.cache.len();
                    let place = (entry, entries);
                    prefix.write(&mut tensor, place, shape, manifest.head_dim, size);
                }
                Ok::<_, EngineError>(tensor)
            };
            let tensor = match options.provider {
                Provider::Cpu => filled(device)?,
                Provider::Cuda(_) if on_host.contains(&past(layer, kind)) => filled(host)?,
                Provider::Cuda(number) => {
                    let mut tensor = DynTensor::new(device, element, shape).map_err(&failed)?;
                    if let Some(stream) = &stream {
                        let staged = filled(host)?;
                        let bytes = bytes_of(&staged, shape.iter().product::<usize>() * size);
                        // Not with `ort`'s copy, which uses an operator without bfloat16 support.
                        let written = write(stream, bytes, &mut tensor);
                        let done = written.and_then(|()| stream.synchronize());
                        done.map_err(|message| EngineError::Cuda {
                            device: number,
                            message,
                        })?;
                    }
                    tensor
                }
            };
            cache.push(CachedTensor {
                layer,
                kind,
                tensor,
            });
        }
    }
    Ok(cache)
}

/// The name of the input with `kind` of a layer.
pub fn past(layer: usize, kind: &str) -> String {
    format!("past_key_values.{layer}.{kind}")
}

/// Binds the cache to a session, as inputs and as outputs.
pub fn bind(
    cache: &mut [CachedTensor],
    binding: &mut IoBinding,
    name: &str,
) -> Result<(), EngineError> {
    let failed = EngineError::runtime(name);
    for cached in cache {
        let CachedTensor {
            layer,
            kind,
            tensor,
        } = cached;
        let past = past(*layer, kind);
        let present = format!("present.{layer}.{kind}");
        binding.bind_input(past, &*tensor).map_err(&failed)?;
        binding.bind_output(present, tensor).map_err(&failed)?;
    }
    Ok(())
}

/// A trained prefix, `[rows, 2 * layers, heads, head_dim]`.
struct Prefix {
    rows: usize,
    bytes: Vec<u8>,
}

impl Prefix {
    fn read(variant: &PreparedVariant) -> Result<Option<Self>, WeightsError> {
        let adapter = variant.manifest.adapter.as_ref();
        let Some(PromptKind::Prefix(rows)) = adapter.and_then(|adapter| adapter.prompt) else {
            return Ok(None);
        };
        let path = variant.folder.join(ADAPTER);
        let file = SafetensorsFile::open(&path)?;
        let tensor = file
            .get(PROMPT_INPUT)
            .ok_or_else(|| WeightsError::Missing {
                name: PROMPT_INPUT.to_owned(),
                path: path.clone(),
            })?;
        Ok(Some(Self {
            rows,
            bytes: tensor.bytes.to_vec(),
        }))
    }

    /// Writes entry `entry` of `entries` into every sequence of `target`,
    /// `[batch, heads, max_length, width]`. A prefix may have more heads, and wider ones, than the
    /// layer, which takes the first; what's wider than `head_dim` is padded with zeros.
    fn write(
        &self,
        target: &mut DynTensor,
        (entry, entries): (usize, usize),
        [batch, heads, max_length, width]: [usize; 4],
        head_dim: usize,
        size: usize,
    ) {
        let row_bytes = self.bytes.len() / self.rows;
        let head_bytes = head_dim * size;
        let entry_bytes = row_bytes / entries;
        let taken = head_bytes.min(width * size);
        let mut widened = vec![0; width * size];
        for row in 0..self.rows {
            for head in 0..heads {
                let start = row * row_bytes + entry * entry_bytes + head * head_bytes;
                widened[..taken].copy_from_slice(&self.bytes[start..][..taken]);
                for sequence in 0..batch {
                    let place = (sequence * heads + head) * max_length + row;
                    fill(target, place * width * size, &widened);
                }
            }
        }
    }
}
