//! One memory-mapped safetensors file.
//!
//! Format: <https://huggingface.co/docs/safetensors>. The `safetensors` crate checks the header:
//! overlaps, offsets out of range, sizes that don't match their shapes or the file.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::Metadata;

use super::convert::narrow;
use super::diagnosis::diagnosis;
use super::packed::{PackedMatrix, elements};
use super::{Dtype, WeightsError, widen};
use crate::files;

/// A memory-mapped safetensors file whose header has been checked against the file's length. Clones
/// share the map.
#[derive(Debug, Clone)]
pub struct SafetensorsFile {
    path: PathBuf,
    map: Arc<Mmap>,
    metadata: Metadata,
    /// Offset of the tensors' bytes, after the length field and the header.
    data_start: usize,
}

/// The location of a tensor's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorLocation {
    /// The file.
    pub path: PathBuf,
    /// First byte, from the beginning of the file.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
    /// Element type.
    pub dtype: Dtype,
    /// Row-major shape.
    pub shape: Vec<usize>,
}

/// A range of bytes in a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ByteSpan {
    /// The file.
    pub path: PathBuf,
    /// First byte, from the beginning of the file.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
}

impl ByteSpan {
    /// Offset of the first byte after the range.
    pub fn end(&self) -> u64 {
        self.offset + self.length
    }
}

/// A tensor in a mapped file.
#[derive(Debug, Clone)]
pub struct TensorView<'a> {
    /// The name in the file.
    pub name: &'a str,
    /// The file.
    pub path: &'a Path,
    /// Element type in the header.
    pub stored: safetensors::Dtype,
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// Little-endian elements; empty if the values are computed ([`is_packed`](Self::is_packed)).
    pub bytes: &'a [u8],
    offset: u64,
    /// What the values are computed from, and the first element in it.
    packed: Option<(&'a dyn PackedMatrix, usize)>,
}

impl SafetensorsFile {
    /// Maps `path` and checks its header.
    ///
    /// # Errors
    /// If the file can't be read, isn't safetensors, or is shorter or longer than its header says.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let read = |source| WeightsError::Read {
            path: path.to_owned(),
            source,
        };
        let file = files::open(path).map_err(read)?;
        // SAFETY: the map is only read. A file that another process truncates while it's mapped
        // raises SIGBUS; the programs that write such files rename them into place.
        #[expect(unsafe_code, reason = "mapping a file has no safe form")]
        let map = unsafe { Mmap::map(&file) }.map_err(read)?;
        let (header_length, metadata) =
            SafeTensors::read_metadata(&map).map_err(|error| WeightsError::Header {
                path: path.to_owned(),
                message: diagnosis(&map, &error),
            })?;
        let data_start = header_length + 8;
        Ok(Self {
            path: path.to_owned(),
            map: Arc::new(map),
            metadata,
            data_start,
        })
    }

    /// The file's path, as it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The value of `key` in the header's metadata.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        let all = self.metadata.metadata().as_ref()?;
        all.get(key).map(String::as_str)
    }

    /// Names of all tensors, in the file's order.
    pub fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    /// The tensor `name`, if the file has it.
    pub fn get<'a>(&'a self, name: &'a str) -> Option<TensorView<'a>> {
        let info = self.metadata.info(name)?;
        let (start, end) = info.data_offsets;
        let (start, end) = (self.data_start + start, self.data_start + end);
        Some(TensorView {
            name,
            path: &self.path,
            stored: info.dtype,
            shape: info.shape.clone(),
            bytes: &self.map[start..end],
            offset: start as u64,
            packed: None,
        })
    }
}

/// Decodes little-endian integers of `N` bytes each.
fn whole_numbers<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> i64) -> Vec<i64> {
    let (chunks, _) = bytes.as_chunks::<N>();
    chunks.iter().map(|&chunk| read(chunk)).collect()
}

impl<'a> TensorView<'a> {
    /// A view of a matrix whose values are computed.
    pub(super) fn of_packed(name: &'a str, packed: &'a dyn PackedMatrix) -> Self {
        Self {
            name,
            path: packed.path(),
            stored: safetensors::Dtype::F32,
            shape: packed.shape().to_owned(),
            bytes: &[],
            offset: 0,
            packed: Some((packed, 0)),
        }
    }

    /// Whether its values are computed from other tensors, so that it has no bytes of its own.
    pub fn is_packed(&self) -> bool {
        self.packed.is_some()
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes that it takes in its file; for a computed one, those of the tensors that it's computed
    /// from.
    pub fn stored_bytes(&self) -> u64 {
        match self.packed {
            None => self.bytes.len() as u64,
            Some((packed, _)) => {
                let all = packed.shape().iter().product::<usize>().max(1) as u64;
                packed.stored_bytes() * self.elements() as u64 / all
            }
        }
    }

    /// A slice of the tensor: `shape` elements from element `first` on. The caller has checked that
    /// the tensor is long enough.
    pub(super) fn slice(&self, name: &'a str, first: usize, shape: &[usize]) -> Self {
        if let Some((packed, start)) = self.packed {
            return Self {
                name,
                shape: shape.to_owned(),
                packed: Some((packed, start + first)),
                ..self.clone()
            };
        }
        let size = self.stored.bitsize() / 8;
        let length = shape.iter().product::<usize>() * size;
        Self {
            name,
            shape: shape.to_owned(),
            bytes: &self.bytes[first * size..first * size + length],
            offset: self.offset + (first * size) as u64,
            ..self.clone()
        }
    }

    /// The tensor cut to its first `rows` rows, if it has more.
    pub fn first_rows(mut self, rows: usize) -> Self {
        if let Some(there) = self.shape.first_mut()
            && *there > rows
        {
            self.bytes = &self.bytes[..self.bytes.len() / *there * rows];
            *there = rows;
        }
        self
    }

    /// The element type, if it is one of the three float types.
    ///
    /// # Errors
    /// For integers, float64, and other types.
    pub fn dtype(&self) -> Result<Dtype, WeightsError> {
        Dtype::from_safetensors(self.stored).ok_or_else(|| WeightsError::Dtype {
            name: self.name.to_owned(),
            path: self.path.to_owned(),
            actual: self.stored,
        })
    }

    /// Checks that the tensor's shape is `expected`.
    ///
    /// # Errors
    /// If it's another shape.
    pub fn expect_shape(&self, expected: &[usize]) -> Result<(), WeightsError> {
        if self.shape == expected {
            return Ok(());
        }
        Err(WeightsError::Shape {
            name: self.name.to_owned(),
            path: self.path.to_owned(),
            actual: self.shape.to_owned(),
            expected: expected.to_owned(),
        })
    }

    /// All elements, widened to `f32`; float64 is rounded.
    ///
    /// # Errors
    /// If the element type is not a float type.
    pub fn to_f32(&self) -> Result<Vec<f32>, WeightsError> {
        self.range_to_f32(0..self.shape.iter().product())
    }

    /// The elements in `range`, widened as in [`to_f32`](Self::to_f32). The range must be within
    /// the tensor.
    ///
    /// # Errors
    /// As [`to_f32`](Self::to_f32).
    pub fn range_to_f32(&self, range: Range<usize>) -> Result<Vec<f32>, WeightsError> {
        if let Some((packed, first)) = self.packed {
            return Ok(elements(packed, first + range.start..first + range.end));
        }
        let bytes = |size: usize| &self.bytes[range.start * size..range.end * size];
        if self.stored == safetensors::Dtype::F64 {
            return Ok(narrow(bytes(8)));
        }
        let dtype = self.dtype()?;
        Ok(widen(bytes(dtype.size()), dtype))
    }

    /// All elements of an integer tensor. Float types are accepted if every element is a whole
    /// number: PEFT writes indices as float32 on some platforms.
    ///
    /// # Errors
    /// If the element type is unsupported, or an element isn't a whole number.
    pub fn to_i64(&self) -> Result<Vec<i64>, WeightsError> {
        use safetensors::Dtype as Stored;
        let wrong = || WeightsError::Dtype {
            name: self.name.to_owned(),
            path: self.path.to_owned(),
            actual: self.stored,
        };
        let whole = |value: f32| (value.fract() == 0.0).then_some(value as i64);
        match self.stored {
            Stored::U8 => Ok(self.bytes.iter().map(|&byte| i64::from(byte)).collect()),
            Stored::I16 => Ok(whole_numbers(self.bytes, |b| i16::from_le_bytes(b).into())),
            Stored::I32 => Ok(whole_numbers(self.bytes, |b| i32::from_le_bytes(b).into())),
            Stored::I64 => Ok(whole_numbers(self.bytes, i64::from_le_bytes)),
            _ => {
                let values = self.to_f32()?.into_iter();
                values.map(whole).collect::<Option<_>>().ok_or_else(wrong)
            }
        }
    }

    /// The location of the bytes in the file, whatever the element type.
    pub fn span(&self) -> ByteSpan {
        ByteSpan {
            path: self.path.to_owned(),
            offset: self.offset,
            length: self.bytes.len() as u64,
        }
    }

    /// The location of the elements in the file.
    ///
    /// # Errors
    /// If the element type is not a supported float type, or the values are computed.
    pub fn location(&self) -> Result<TensorLocation, WeightsError> {
        if self.is_packed() {
            return Err(WeightsError::Layout {
                path: self.path.to_owned(),
                message: format!(
                    "tensor `{}` is quantized, so no file has its values",
                    self.name
                ),
            });
        }
        Ok(TensorLocation {
            path: self.path.to_owned(),
            offset: self.offset,
            length: self.bytes.len() as u64,
            dtype: self.dtype()?,
            shape: self.shape.to_owned(),
        })
    }
}
