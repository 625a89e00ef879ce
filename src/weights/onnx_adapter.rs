//! `.onnx_adapter` files: named tensors that ONNX Runtime and onnxruntime-genai bind to the inputs
//! of a graph.
//!
//! It's a FlatBuffer. Nothing in it is particular to a method:
//!
//! ```text
//! table Parameter { name: string; dims: [int64]; data_type: TensorDataType; raw_data: [uint8] (force_align: 8); }
//! table Adapter { format_version: int; adapter_version: int; model_version: int; parameters: [Parameter]; }
//! root_type Adapter;  file_identifier "TORT";
//! ```
//!
//! Offsets have 32 bits, and readers accept less than 2 GiB. `data_type` has the numbers of ONNX's
//! element types.
//!
//! Sources: ONNX Runtime, `onnxruntime/lora/adapter_format/adapter_schema.fbs`; FlatBuffers'
//! internals, <https://flatbuffers.dev/internals/>.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::{Dtype, WeightsError};
use crate::files;

/// The ending of such a file's name.
pub const EXTENSION: &str = "onnx_adapter";

const IDENTIFIER: &[u8; 4] = b"TORT";
const FORMAT_VERSION: u32 = 1;

/// Readers refuse files that are larger.
const MOST_BYTES: u64 = (1 << 31) - 1;

/// Both tables have four fields of 4 bytes after the offset of their `vtable`, so they share one:
/// its own size, the table's size, and the fields' offsets.
const VTABLE: [u16; 6] = [12, 20, 4, 8, 12, 16];
const TABLE_BYTES: u64 = 20;

/// Where the first bytes are: the root's offset, the identifier, the vtable, the root.
const VTABLE_AT: u64 = 8;
const ROOT_AT: u64 = 20;

/// A tensor to write.
#[derive(Debug, Clone)]
pub struct AdapterTensor<'a> {
    /// The name of the graph's input.
    pub name: String,
    /// Its dtype.
    pub dtype: Dtype,
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// Its elements, little-endian.
    pub bytes: std::borrow::Cow<'a, [u8]>,
}

/// Where the parts of a parameter are in the file.
struct Place {
    table: u64,
    name: u64,
    dims: u64,
    data: u64,
}

/// Writes `tensors` to `path`. `versions` are those of the adapter and of the model, whose meaning
/// is the writer's.
///
/// # Errors
/// If the file can't be written, or would be larger than readers accept.
pub fn write_onnx_adapter(
    path: &Path,
    tensors: &[AdapterTensor],
    versions: [u32; 2],
) -> Result<(), WeightsError> {
    let count = tensors.len() as u64;
    let vector = ROOT_AT + TABLE_BYTES;
    let mut end = vector + 4 + 4 * count;
    let mut places = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let table = end;
        let name = table + TABLE_BYTES;
        // A string ends with a zero that its length doesn't count.
        let after_name = (name + 4 + tensor.name.len() as u64 + 1).next_multiple_of(4);
        // The elements of a vector are aligned, its length of 4 bytes is before them.
        let dims = (after_name + 4).next_multiple_of(8) - 4;
        let data = (dims + 4 + 8 * tensor.shape.len() as u64 + 4).next_multiple_of(8) - 4;
        end = (data + 4 + tensor.bytes.len() as u64).next_multiple_of(4);
        places.push(Place {
            table,
            name,
            dims,
            data,
        });
    }
    if end > MOST_BYTES {
        return Err(WeightsError::Layout {
            path: path.to_owned(),
            message: format!(
                "the adapter's tensors take {end} bytes, and an `.{EXTENSION}` file holds less than 2 GiB"
            ),
        });
    }
    let failed = |source| WeightsError::Write {
        path: path.to_owned(),
        source,
    };
    let file = File::create(path).map_err(failed)?;
    let mut out = BufWriter::new(file);
    let mut write = |at: u64, bytes: &[u8]| {
        // Gaps are zeros.
        out.seek(SeekFrom::Start(at))?;
        out.write_all(bytes)
    };
    let table = |at: u64, fields: [u32; 4]| {
        // The offset of the vtable is counted backwards.
        let vtable = (at - VTABLE_AT) as u32;
        let parts = std::iter::once(vtable).chain(fields);
        parts.flat_map(u32::to_le_bytes).collect::<Vec<u8>>()
    };
    let mut write_all = || -> std::io::Result<()> {
        write(0, &(ROOT_AT as u32).to_le_bytes())?;
        write(4, IDENTIFIER)?;
        write(VTABLE_AT, &VTABLE.map(u16::to_le_bytes).concat())?;
        // An offset is counted from the field that holds it.
        let to_vector = (vector - (ROOT_AT + 16)) as u32;
        let [adapter, model] = versions;
        let root = table(ROOT_AT, [FORMAT_VERSION, adapter, model, to_vector]);
        write(ROOT_AT, &root)?;
        let offsets = places.iter().enumerate().map(|(index, place)| {
            let at = vector + 4 + 4 * index as u64;
            ((place.table - at) as u32).to_le_bytes()
        });
        let list: Vec<u8> = offsets.flatten().collect();
        write(vector, &[&(count as u32).to_le_bytes()[..], &list].concat())?;
        for (tensor, place) in tensors.iter().zip(&places) {
            let field = |number: u64, target: u64| (target - (place.table + 4 + 4 * number)) as u32;
            let fields = [
                field(0, place.name),
                field(1, place.dims),
                data_type(tensor.dtype),
                field(3, place.data),
            ];
            write(place.table, &table(place.table, fields))?;
            let length = |length: usize| (length as u32).to_le_bytes();
            write(
                place.name,
                &[&length(tensor.name.len())[..], tensor.name.as_bytes(), &[0]].concat(),
            )?;
            let dims = tensor.shape.iter().flat_map(|&d| (d as i64).to_le_bytes());
            let dims: Vec<u8> = dims.collect();
            write(
                place.dims,
                &[&length(tensor.shape.len())[..], &dims].concat(),
            )?;
            write(place.data, &length(tensor.bytes.len()))?;
            write(place.data + 4, &tensor.bytes)?;
        }
        Ok(())
    };
    write_all().map_err(failed)?;
    let file = out
        .into_inner()
        .map_err(|error| failed(error.into_error()))?;
    file.set_len(end).map_err(failed)
}

/// The number of ONNX's element type.
fn data_type(dtype: Dtype) -> u32 {
    match dtype {
        Dtype::Float32 => 1,
        Dtype::Float16 => 10,
        Dtype::BFloat16 => 16,
    }
}

/// An open `.onnx_adapter` file.
#[derive(Debug)]
pub struct OnnxAdapterFile {
    path: PathBuf,
    map: Mmap,
    tensors: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    data: std::ops::Range<usize>,
}

impl OnnxAdapterFile {
    /// Maps `path` and checks it.
    ///
    /// # Errors
    /// If it can't be read, or isn't such a file.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let read = |source| WeightsError::Read {
            path: path.to_owned(),
            source,
        };
        let file = files::open(path).map_err(read)?;
        // SAFETY: the map is only read. A file that another process truncates while it's mapped
        // raises SIGBUS; portable folders are renamed into place.
        #[expect(unsafe_code, reason = "mapping a file has no safe form")]
        let map = unsafe { Mmap::map(&file) }.map_err(read)?;
        let tensors = Buffer(&map).tensors().ok_or_else(|| WeightsError::Layout {
            path: path.to_owned(),
            message: format!("it's not a complete `.{EXTENSION}` file of float tensors"),
        })?;
        Ok(Self {
            path: path.to_owned(),
            map,
            tensors,
        })
    }

    /// The file's path, as it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its tensors, in the file's order.
    pub fn tensors(&self) -> impl Iterator<Item = AdapterTensor<'_>> {
        self.tensors.iter().map(|entry| AdapterTensor {
            name: entry.name.clone(),
            dtype: entry.dtype,
            shape: entry.shape.clone(),
            bytes: self.map[entry.data.clone()].into(),
        })
    }
}

/// A FlatBuffer whose offsets aren't trusted: whatever lies outside is `None`.
struct Buffer<'a>(&'a [u8]);

impl Buffer<'_> {
    fn tensors(&self) -> Option<Vec<Entry>> {
        if self.0.get(4..8)? != IDENTIFIER {
            return None;
        }
        let root = self.follow(0)?;
        let vector = self.follow(self.field(root, 3)?)?;
        let count = self.u32(vector)? as usize;
        let mut tensors = Vec::new();
        for index in 0..count {
            let table = self.follow(vector + 4 + 4 * index)?;
            let name = self.vector(table, 0, 1)?;
            let dims = self.vector(table, 1, 8)?;
            let data = self.vector(table, 3, 1)?;
            let dtype = match self.u32(self.field(table, 2)?)? {
                1 => Dtype::Float32,
                10 => Dtype::Float16,
                16 => Dtype::BFloat16,
                _ => return None,
            };
            let dims = self.0[dims].chunks_exact(8);
            let shape: Option<Vec<usize>> = dims
                .map(|d| usize::try_from(i64::from_le_bytes(d.try_into().ok()?)).ok())
                .collect();
            let shape = shape?;
            let elements = shape.iter().try_fold(1_usize, |a, &b| a.checked_mul(b))?;
            if elements.checked_mul(dtype.size())? != data.len() {
                return None;
            }
            tensors.push(Entry {
                name: std::str::from_utf8(&self.0[name]).ok()?.to_owned(),
                dtype,
                shape,
                data,
            });
        }
        Some(tensors)
    }

    fn u32(&self, at: usize) -> Option<u32> {
        let bytes = self.0.get(at..at.checked_add(4)?)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    }

    /// Where the offset at `at` leads.
    fn follow(&self, at: usize) -> Option<usize> {
        at.checked_add(self.u32(at)? as usize)
    }

    /// The place of field `number` of the table at `table`; `None` if it's left out.
    fn field(&self, table: usize, number: usize) -> Option<usize> {
        let back = self.u32(table)? as i32;
        let vtable = usize::try_from(i64::try_from(table).ok()? - i64::from(back)).ok()?;
        let u16 = |at: usize| {
            let bytes = self.0.get(at..at.checked_add(2)?)?;
            Some(usize::from(u16::from_le_bytes(bytes.try_into().ok()?)))
        };
        let at = vtable.checked_add(4 + 2 * number)?;
        if at >= vtable + u16(vtable)? {
            return None;
        }
        match u16(at)? {
            0 => None,
            offset => table.checked_add(offset),
        }
    }

    /// The bytes of the vector in field `number`, whose elements have `size` bytes.
    fn vector(&self, table: usize, number: usize, size: usize) -> Option<std::ops::Range<usize>> {
        let Some(field) = self.field(table, number) else {
            return Some(0..0);
        };
        let at = self.follow(field)?;
        let length = (self.u32(at)? as usize).checked_mul(size)?;
        let start = at + 4;
        let end = start.checked_add(length)?;
        (end <= self.0.len()).then_some(start..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors() -> Vec<AdapterTensor<'static>> {
        let tensor = |name: &str, dtype, shape: &[usize], bytes: Vec<u8>| AdapterTensor {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
            bytes: bytes.into(),
        };
        vec![
            tensor("a.weight", Dtype::Float32, &[2, 3], (0..24).collect()),
            tensor("b", Dtype::BFloat16, &[5], (0..10).collect()),
            tensor("rank", Dtype::Float32, &[0, 4], Vec::new()),
        ]
    }

    #[test]
    fn tensors_are_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.onnx_adapter");
        write_onnx_adapter(&path, &tensors(), [1, 2]).unwrap();
        let file = OnnxAdapterFile::open(&path).unwrap();
        for (found, written) in file.tensors().zip(tensors()) {
            assert_eq!(
                (found.name, found.dtype, found.shape),
                (written.name, written.dtype, written.shape)
            );
            assert_eq!(found.bytes, written.bytes);
        }
        assert_eq!(file.tensors().count(), 3);
    }

    #[test]
    fn data_is_aligned_for_readers_that_map_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.onnx_adapter");
        write_onnx_adapter(&path, &tensors(), [1, 1]).unwrap();
        let file = OnnxAdapterFile::open(&path).unwrap();
        assert!(file.tensors.iter().all(|entry| entry.data.start % 8 == 0));
        assert_eq!(&file.map[4..8], IDENTIFIER);
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.onnx_adapter");
        write_onnx_adapter(&path, &tensors(), [1, 1]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for length in 0..bytes.len() - 4 {
            assert!(Buffer(&bytes[..length]).tensors().is_none(), "{length}");
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] = damaged[at].wrapping_add(0x91);
            // Other values may still be a file; none may panic.
            let _ = Buffer(&damaged).tensors();
        }
    }
}
