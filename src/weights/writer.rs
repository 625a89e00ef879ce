//! Writes a safetensors file; its tensors may come in any order, from any thread.
//!
//! The header is written first, so every tensor's offset is known. The file has a temporary name
//! until it's complete. Writing uses `pwrite`, never a map, so that a full disk is an error and not
//! a SIGBUS.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use serde_json::json;
use tempfile::NamedTempFile;

use super::page_writer::PageWriter;
use super::{Dtype, NonFinite, TensorView, WeightsError, encode};
use crate::files::temporary_file;

/// A tensor that will be written: its name, dtype and shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorPlan {
    /// Name in the file.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Row-major shape.
    pub shape: Vec<usize>,
}

/// A planned tensor of any element type, written as bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BytesPlan {
    /// Name in the file.
    pub name: String,
    /// Element type.
    pub stored: safetensors::Dtype,
    /// Row-major shape.
    pub shape: Vec<usize>,
}

impl BytesPlan {
    /// Size of the tensor in bytes.
    pub fn bytes(&self) -> u64 {
        let bits = self.shape.iter().map(|&d| d as u64).product::<u64>();
        bits * self.stored.bitsize() as u64 / 8
    }
}

impl From<&TensorPlan> for BytesPlan {
    fn from(plan: &TensorPlan) -> Self {
        Self {
            name: plan.name.clone(),
            stored: plan.dtype.to_safetensors(),
            shape: plan.shape.clone(),
        }
    }
}

/// A safetensors file that's being written. If it's dropped before [`finish`](Self::finish), no
/// file remains.
#[derive(Debug)]
pub struct SafetensorsWriter {
    path: PathBuf,
    file: NamedTempFile,
    length: u64,
    pages: PageWriter,
    tensors: BTreeMap<String, (BytesPlan, u64)>,
}

/// Why a tensor could not be written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each variant is its message")]
#[non_exhaustive]
pub enum WriteTensorError {
    #[error(transparent)]
    Weights(#[from] WeightsError),
    #[error("tensor `{name}` for `{}` is not finite", path.display())]
    NonFinite {
        name: String,
        path: PathBuf,
        source: NonFinite,
    },
}

/// Elements that are converted at a time, which bounds the extra memory.
const CHUNK: usize = 1 << 18;

/// Alignment of the data, so that mapped data begins at a cache line.
const ALIGNMENT: u64 = 64;

impl SafetensorsWriter {
    /// Writes the header for `plans` to a temporary file in the folder of `path`.
    ///
    /// # Errors
    /// If the file can't be created or written.
    pub fn create(path: &Path, plans: &[TensorPlan]) -> Result<Self, WeightsError> {
        let plans: Vec<BytesPlan> = plans.iter().map(BytesPlan::from).collect();
        Self::create_with(path, &plans, &[])
    }

    /// Like [`create`](Self::create), for tensors of any element type, with `metadata` in the
    /// header.
    ///
    /// # Errors
    /// If the file can't be created or written.
    pub fn create_with(
        path: &Path,
        plans: &[BytesPlan],
        metadata: &[(&str, &str)],
    ) -> Result<Self, WeightsError> {
        let failed = |source| WeightsError::Write {
            path: path.to_owned(),
            source,
        };
        let mut header = serde_json::Map::new();
        let mut free = json!({ "format": "pt" });
        for &(key, value) in metadata {
            free[key] = json!(value);
        }
        header.insert("__metadata__".to_owned(), free);
        let mut offset = 0_u64;
        let mut tensors = BTreeMap::new();
        for plan in plans {
            let end = offset + plan.bytes();
            header.insert(
                plan.name.clone(),
                json!({
                    "dtype": format!("{:?}", plan.stored),
                    "shape": plan.shape,
                    "data_offsets": [offset, end],
                }),
            );
            tensors.insert(plan.name.clone(), (plan.clone(), offset));
            offset = end;
        }
        let mut text = serde_json::Value::Object(header).to_string().into_bytes();
        let data_start = (8 + text.len() as u64).next_multiple_of(ALIGNMENT);
        text.resize((data_start - 8) as usize, b' ');
        for (_, start) in tensors.values_mut() {
            *start += data_start;
        }

        let folder = path.parent().unwrap_or(Path::new("."));
        let file = temporary_file(folder).map_err(failed)?;
        let length = data_start + offset;
        file.as_file().set_len(length).map_err(failed)?;
        let writer = Self {
            path: path.to_owned(),
            file,
            length,
            pages: PageWriter::default(),
            tensors,
        };
        writer.write_at(&(text.len() as u64).to_le_bytes(), 0)?;
        writer.write_at(&text, 8)?;
        Ok(writer)
    }

    /// The file's final path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn place(&self, name: &str, elements: usize) -> (Dtype, u64) {
        let (plan, _) = &self.tensors[name];
        assert_eq!(
            plan.shape.iter().product::<usize>(),
            elements,
            "tensor `{name}` has another size than was planned"
        );
        self.float_place(name)
    }

    fn float_place(&self, name: &str) -> (Dtype, u64) {
        let (plan, start) = &self.tensors[name];
        let dtype = Dtype::from_safetensors(plan.stored);
        (
            dtype.expect("values are written to tensors of float types"),
            *start,
        )
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), WeightsError> {
        let file = self.file.as_file();
        self.pages
            .write(file, self.length, offset, bytes)
            .map_err(|source| WeightsError::Write {
                path: self.path.clone(),
                source,
            })
    }

    /// Writes the planned tensor `name`; values are rounded once to the planned dtype.
    ///
    /// # Errors
    /// If a value isn't finite in that dtype, or writing fails.
    ///
    /// # Panics
    /// If `name` was not planned, or was planned with another number of elements.
    pub fn write(&self, name: &str, values: &[f32]) -> Result<(), WriteTensorError> {
        let (dtype, start) = self.place(name, values.len());
        let mut bytes = Vec::new();
        for (number, chunk) in values.chunks(CHUNK).enumerate() {
            self.write_chunk(name, dtype, start, (number * CHUNK, chunk), &mut bytes)?;
        }
        Ok(())
    }

    /// Writes `values` into the planned tensor `name` from element `first` on, rounded as by
    /// [`write`](Self::write).
    ///
    /// # Errors
    /// As [`write`](Self::write).
    ///
    /// # Panics
    /// If `name` was not planned, or has fewer elements.
    pub fn write_elements(
        &self,
        name: &str,
        first: usize,
        values: &[f32],
    ) -> Result<(), WriteTensorError> {
        let (dtype, start) = self.float_place(name);
        let elements = self.tensors[name].0.shape.iter().product::<usize>();
        assert!(first + values.len() <= elements, "tensor `{name}`");
        let mut bytes = Vec::new();
        for (number, chunk) in values.chunks(CHUNK).enumerate() {
            let first = first + number * CHUNK;
            self.write_chunk(name, dtype, start, (first, chunk), &mut bytes)?;
        }
        Ok(())
    }

    /// Converts the elements of `tensor` to the planned dtype, a chunk at a time, and writes them
    /// into the planned tensor `name` from element `first` on.
    ///
    /// # Errors
    /// If `tensor` has no float type, a value isn't finite in the planned dtype, or writing fails.
    ///
    /// # Panics
    /// If `name` was not planned, or has fewer elements.
    pub fn write_converted(
        &self,
        name: &str,
        first: usize,
        tensor: &TensorView,
    ) -> Result<(), WriteTensorError> {
        tensor.dtype()?;
        let all = tensor.elements();
        for start in (0..all).step_by(CHUNK) {
            let values = tensor.range_to_f32(start..all.min(start + CHUNK))?;
            self.write_elements(name, first + start, &values)?;
        }
        Ok(())
    }

    /// Writes elements, from element `first` on, of a tensor that begins at byte `start`.
    fn write_chunk(
        &self,
        name: &str,
        dtype: Dtype,
        start: u64,
        (first, values): (usize, &[f32]),
        bytes: &mut Vec<u8>,
    ) -> Result<(), WriteTensorError> {
        bytes.clear();
        encode(values, dtype, first, bytes).map_err(|source| WriteTensorError::NonFinite {
            name: name.to_owned(),
            path: self.path.clone(),
            source,
        })?;
        Ok(self.write_at(bytes, start + (first * dtype.size()) as u64)?)
    }

    /// Writes the planned tensor `name` from bytes that already have the planned dtype.
    ///
    /// # Errors
    /// If writing fails.
    ///
    /// # Panics
    /// If `name` was not planned, or was planned with another size.
    pub fn write_bytes(&self, name: &str, bytes: &[u8]) -> Result<(), WeightsError> {
        let (plan, start) = &self.tensors[name];
        assert_eq!(plan.bytes(), bytes.len() as u64, "tensor `{name}`");
        self.write_at(bytes, *start)
    }

    /// Writes bytes that already have the planned dtype into the planned tensor `name`, from its
    /// byte `first` on.
    ///
    /// # Errors
    /// If writing fails.
    ///
    /// # Panics
    /// If `name` was not planned, or is shorter.
    pub fn write_bytes_from(
        &self,
        name: &str,
        first: usize,
        bytes: &[u8],
    ) -> Result<(), WeightsError> {
        let (plan, start) = &self.tensors[name];
        let end = (first + bytes.len()) as u64;
        assert!(end <= plan.bytes(), "tensor `{name}`");
        self.write_at(bytes, start + first as u64)
    }

    /// Renames the file to its final name. Data isn't flushed to the disk first: on local file
    /// systems the write itself reports a full disk, and the file can be made again.
    ///
    /// # Errors
    /// If the file can't be renamed.
    pub fn finish(self) -> Result<(), WeightsError> {
        let path = self.path;
        let failed = |source| WeightsError::Write {
            path: path.clone(),
            source,
        };
        self.pages.finish(self.file.as_file()).map_err(failed)?;
        set_default_permissions(self.file.as_file()).map_err(failed)?;
        self.file
            .persist(&path)
            .map_err(|error| failed(error.error))?;
        Ok(())
    }
}

/// Temporary files are private to the user; the final file gets ordinary permissions.
fn set_default_permissions(file: &File) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::SafetensorsFile;

    fn plan(name: &str, shape: &[usize], dtype: Dtype) -> TensorPlan {
        TensorPlan {
            name: name.to_owned(),
            dtype,
            shape: shape.to_owned(),
        }
    }

    #[test]
    fn tensors_written_in_any_order_are_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.safetensors");
        let plans = [
            plan("a", &[2, 2], Dtype::Float32),
            plan("b", &[3], Dtype::BFloat16),
        ];
        let writer = SafetensorsWriter::create(&path, &plans).unwrap();
        writer.write("b", &[1.0, 2.0, 3.0]).unwrap();
        writer.write("a", &[4.0, 5.0, 6.0, 7.0]).unwrap();
        assert!(!path.exists());
        writer.finish().unwrap();
        let file = SafetensorsFile::open(&path).unwrap();
        assert_eq!(file.get("a").unwrap().to_f32().unwrap(), [4., 5., 6., 7.]);
        assert_eq!(file.get("b").unwrap().to_f32().unwrap(), [1., 2., 3.]);
        assert_eq!(file.get("a").unwrap().shape, [2, 2]);
    }

    #[test]
    fn a_tensor_longer_than_a_chunk_is_converted_and_an_overflow_has_its_index() {
        let folder = tempfile::tempdir().unwrap();
        let from = folder.path().join("from.safetensors");
        let length = CHUNK + 3;
        let mut values: Vec<f32> = (0..length).map(|index| (index % 1000) as f32).collect();
        values[CHUNK + 1] = 1e6;
        let writer =
            SafetensorsWriter::create(&from, &[plan("a", &[length], Dtype::Float32)]).unwrap();
        writer.write("a", &values).unwrap();
        writer.finish().unwrap();
        let file = SafetensorsFile::open(&from).unwrap();
        let tensor = file.get("a").unwrap();

        let to = folder.path().join("to.safetensors");
        let create =
            |dtype| SafetensorsWriter::create(&to, &[plan("a", &[length], dtype)]).unwrap();
        let writer = create(Dtype::BFloat16);
        writer.write_converted("a", 0, &tensor).unwrap();
        writer.finish().unwrap();
        let rounded: Vec<f32> = values
            .iter()
            .map(|&value| crate::weights::round_to(value, Dtype::BFloat16))
            .collect();
        let converted = SafetensorsFile::open(&to).unwrap();
        assert_eq!(converted.get("a").unwrap().to_f32().unwrap(), rounded);

        let error = create(Dtype::Float16)
            .write_converted("a", 0, &tensor)
            .unwrap_err();
        let WriteTensorError::NonFinite { source, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(source.index, CHUNK + 1);
    }

    #[test]
    fn a_writer_that_is_dropped_leaves_the_earlier_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.safetensors");
        std::fs::write(&path, b"earlier").unwrap();
        let writer = SafetensorsWriter::create(&path, &[plan("a", &[1], Dtype::Float16)]).unwrap();
        assert!(writer.write("a", &[1e9]).is_err());
        drop(writer);
        assert_eq!(std::fs::read(&path).unwrap(), b"earlier");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_truncated_file_or_overlapping_offsets_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.safetensors");
        let writer = SafetensorsWriter::create(&path, &[plan("a", &[8], Dtype::Float32)]).unwrap();
        writer.write("a", &[0.5; 8]).unwrap();
        writer.finish().unwrap();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 3]).unwrap();
        assert!(SafetensorsFile::open(&path).is_err());

        let header = br#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#;
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header);
        bytes.extend_from_slice(&[0; 12]);
        std::fs::write(&path, &bytes).unwrap();
        let error = SafetensorsFile::open(&path).unwrap_err();
        assert!(error.to_string().contains("t.safetensors"), "{error}");
    }
}
