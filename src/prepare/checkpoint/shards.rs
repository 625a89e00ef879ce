//! Tensors distributed over safetensors files, with an index if there's more than one file.
//!
//! File names and index have the format of `save_pretrained`, Hugging Face Transformers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::layout::Tensor;
use super::packed::Packing;
use crate::files::write_file;
use crate::prepare::PrepareError;
use crate::weights::{BytesPlan, SafetensorsWriter, TensorView, WeightsError, WriteTensorError};

/// The files of a checkpoint while they're being written.
#[derive(Debug)]
pub struct Shards {
    writers: Vec<(String, SafetensorsWriter)>,
    /// The index of each stored tensor's file.
    places: BTreeMap<String, usize>,
    /// Weights that are packed.
    packed: BTreeMap<String, Packed>,
    tensor_bytes: u64,
    made: PathBuf,
    target: PathBuf,
}

/// A weight that is packed, and the index of its file.
#[derive(Debug)]
struct Packed {
    packing: Packing,
    plan: BytesPlan,
    file: usize,
}

/// What was written.
#[derive(Debug, Clone, Copy)]
pub struct Written {
    /// Number of safetensors files.
    pub files: usize,
    /// Bytes of all tensors.
    pub tensor_bytes: u64,
}

const INDEX: &str = "model.safetensors.index.json";

impl Shards {
    /// Creates the files for `tensors` in the folder `made`; errors name `target`, the final
    /// folder. A file contains at most `limit` bytes of tensors, or a single larger tensor.
    ///
    /// # Errors
    /// If a file can't be created.
    pub fn create(
        tensors: &[Tensor],
        limit: u64,
        made: &Path,
        target: &Path,
    ) -> Result<Self, PrepareError> {
        let groups = split(tensors, limit);
        let mut shards = Self {
            writers: Vec::new(),
            places: BTreeMap::new(),
            packed: BTreeMap::new(),
            tensor_bytes: 0,
            made: made.to_owned(),
            target: target.to_owned(),
        };
        for (number, plans) in groups.iter().enumerate() {
            let name = match groups.len() {
                1 => "model.safetensors".to_owned(),
                count => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
            };
            let writer = SafetensorsWriter::create_with(&made.join(&name), plans, &[]);
            let writer = writer.map_err(|error| shards.renamed(error))?;
            shards.writers.push((name, writer));
            shards.tensor_bytes += plans.iter().map(BytesPlan::bytes).sum::<u64>();
            let places = plans.iter().map(|plan| (plan.name.clone(), number));
            shards.places.extend(places);
        }
        for Tensor { plan, packing, .. } in tensors {
            let Some(packing) = *packing else { continue };
            let stored = &packing.plans(plan)[0].name;
            let packed = Packed {
                packing,
                plan: plan.clone(),
                file: shards.places[stored],
            };
            shards.packed.insert(plan.name.clone(), packed);
        }
        Ok(shards)
    }

    /// Writes `values`, rounded once to the tensor's dtype, into the tensor `name` from element
    /// `first` on. A packed tensor is written as a whole.
    ///
    /// # Errors
    /// If a value isn't finite in that dtype, or writing fails.
    pub fn write(&self, name: &str, first: usize, values: &[f32]) -> Result<(), WriteTensorError> {
        let written = match self.packed.get(name) {
            Some(packed) => {
                let writer = &self.writers[packed.file].1;
                packed.packing.write(writer, &packed.plan, values)
            }
            None => self.writer(name).write_elements(name, first, values),
        };
        written.map_err(|error| self.renamed_tensor(error))
    }

    /// Writes `stored` into the tensor of `plan` from element `first` on: byte for byte, or
    /// converted if the dtypes differ. A packed tensor is written as a whole.
    ///
    /// # Errors
    /// If a converted value isn't finite, or writing fails.
    pub fn copy(
        &self,
        plan: &BytesPlan,
        first: usize,
        stored: &TensorView,
    ) -> Result<(), WriteTensorError> {
        if let Some(packed) = self.packed.get(&plan.name) {
            let writer = &self.writers[packed.file].1;
            let written = packed.packing.write_stored(writer, plan, stored);
            return written.map_err(|error| self.renamed_tensor(error));
        }
        let writer = self.writer(&plan.name);
        let copied = if stored.stored == plan.stored && !stored.is_packed() {
            let first = first * plan.stored.bitsize() / 8;
            let written = writer.write_bytes_from(&plan.name, first, stored.bytes);
            written.map_err(WriteTensorError::from)
        } else {
            writer.write_converted(&plan.name, first, stored)
        };
        copied.map_err(|error| self.renamed_tensor(error))
    }

    /// Renames all files to their final names, and writes the index if there's more than one.
    ///
    /// # Errors
    /// If a file can't be renamed or written.
    pub fn finish(mut self) -> Result<Written, PrepareError> {
        let written = Written {
            files: self.writers.len(),
            tensor_bytes: self.tensor_bytes,
        };
        let mut names = Vec::new();
        for (name, writer) in std::mem::take(&mut self.writers) {
            writer.finish().map_err(|error| self.renamed(error))?;
            names.push(name);
        }
        if names.len() > 1 {
            let places = self.places.iter();
            let map: BTreeMap<&String, &String> = places
                .map(|(tensor, &file)| (tensor, &names[file]))
                .collect();
            let index = json!({
                "metadata": { "total_size": self.tensor_bytes },
                "weight_map": map,
            });
            write_file(&self.made.join(INDEX), format!("{index:#}\n").as_bytes()).map_err(
                |source| PrepareError::Write {
                    path: self.target.join(INDEX),
                    source,
                },
            )?;
        }
        Ok(written)
    }

    fn writer(&self, name: &str) -> &SafetensorsWriter {
        &self.writers[self.places[name]].1
    }

    /// Replaces the temporary path in `error` by the final one: the temporary file no longer exists
    /// when the message is read.
    fn renamed(&self, error: WeightsError) -> WeightsError {
        match error {
            WeightsError::Write { path, source } => WeightsError::Write {
                path: self.final_path(&path),
                source,
            },
            other => other,
        }
    }

    fn renamed_tensor(&self, error: WriteTensorError) -> WriteTensorError {
        match error {
            WriteTensorError::Weights(error) => self.renamed(error).into(),
            WriteTensorError::NonFinite { name, path, source } => WriteTensorError::NonFinite {
                name,
                path: self.final_path(&path),
                source,
            },
        }
    }

    fn final_path(&self, path: &Path) -> PathBuf {
        match path.strip_prefix(&self.made) {
            Ok(name) => self.target.join(name),
            Err(_) => path.to_owned(),
        }
    }
}

/// The tensors of each file, in order.
fn split(tensors: &[Tensor], limit: u64) -> Vec<Vec<BytesPlan>> {
    let mut groups: Vec<Vec<BytesPlan>> = vec![Vec::new()];
    let mut size = 0;
    for tensor in tensors {
        let plans = tensor.plans();
        let bytes: u64 = plans.iter().map(BytesPlan::bytes).sum();
        if size > 0 && size + bytes > limit {
            groups.push(Vec::new());
            size = 0;
        }
        size += bytes;
        groups
            .last_mut()
            .expect("there is at least one group")
            .extend(plans);
    }
    groups
}
