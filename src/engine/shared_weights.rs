//! Laid-out weights in memory, mapped or read, which a variant's sessions share.
//!
//! ONNX Runtime would open and map the file again for each weight of each session, which takes
//! longer than the rest of opening a session.

use std::ffi::CString;
use std::fs::File;
use std::ops::Deref;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use memmap2::{Mmap, MmapMut};
use ort::AsPointer;
use ort::memory::MemoryInfo;
use ort::session::builder::SessionBuilder;
use ort::value::{Shape, TensorRefMut};
use rayon::prelude::*;

use super::EngineError;
use crate::graph::proto::{Model, Tensor, element};
use crate::lowering::model_file::ROOT;
use crate::weights::ByteSpan;

/// Bytes that a thread reads at a time.
const PART: usize = 32 << 20;

/// The weights, and the values over them that sessions use.
///
/// Fields are dropped in order: values before their memory. All sessions must be closed before.
#[derive(Debug)]
pub struct SharedWeights {
    values: Mutex<Vec<TensorRefMut<'static, f32>>>,
    regions: Vec<Region>,
}

/// A byte range of a file.
#[derive(Debug)]
struct Region {
    /// The file.
    path: PathBuf,
    /// Offset of the first byte.
    start: u64,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    Own(MmapMut),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(bytes) => bytes,
            Self::Own(bytes) => bytes,
        }
    }
}

/// The span of an initializer, if it's in a file that `is_laid_out`.
fn span(tensor: &Tensor, is_laid_out: &dyn Fn(&Path) -> bool) -> Option<ByteSpan> {
    let span = tensor.span(Path::new(ROOT))?;
    (is_laid_out(&span.path) && span.offset.checked_add(span.length).is_some()).then_some(span)
}

impl SharedWeights {
    /// Maps the files at `paths`.
    ///
    /// # Errors
    /// If one can't be mapped.
    #[expect(unsafe_code, reason = "a mapped file can be changed by others")]
    pub fn map<'a>(paths: impl Iterator<Item = &'a Path>) -> Result<Self, EngineError> {
        let map = |path: &Path| {
            let path = path.to_owned();
            // SAFETY: laid-out files are replaced as a whole and never written to, so mapped bytes
            // don't change.
            let mapped = File::open(&path).and_then(|file| unsafe { Mmap::map(&file) });
            // Reads from disk use huge pages if the file system supports them.
            #[cfg(target_os = "linux")]
            if let Ok(mapped) = &mapped {
                let _ = mapped.advise(memmap2::Advice::HugePage);
            }
            match mapped {
                Ok(mapped) => Ok(Region {
                    path,
                    start: 0,
                    bytes: Bytes::Mapped(mapped),
                }),
                Err(source) => Err(EngineError::Read { path, source }),
            }
        };
        Ok(Self {
            values: Mutex::default(),
            regions: paths.map(map).collect::<Result<_, EngineError>>()?,
        })
    }

    /// Reads the bytes of all initializers of `models` that are in files that `is_laid_out`, each
    /// byte once.
    ///
    /// # Errors
    /// If a file can't be read, or there isn't enough memory.
    pub fn read<'a>(
        models: impl Iterator<Item = &'a Model>,
        is_laid_out: &dyn Fn(&Path) -> bool,
    ) -> Result<Self, EngineError> {
        let initializers = models
            .flat_map(|model| &model.graph)
            .flat_map(|graph| &graph.initializer);
        let mut spans: Vec<ByteSpan> = initializers
            .filter_map(|tensor| span(tensor, is_laid_out))
            .collect();
        spans.sort_by(|a, b| (&a.path, a.offset).cmp(&(&b.path, b.offset)));
        let mut joined: Vec<ByteSpan> = Vec::new();
        for span in spans {
            match joined.last_mut() {
                Some(last) if last.path == span.path && span.offset <= last.end() => {
                    last.length = last.end().max(span.end()) - last.offset;
                }
                _ => joined.push(span),
            }
        }
        let read = |span: ByteSpan| {
            Ok(Region {
                bytes: Bytes::Own(read(&span)?),
                path: span.path,
                start: span.offset,
            })
        };
        Ok(Self {
            values: Mutex::default(),
            regions: joined
                .into_iter()
                .map(read)
                .collect::<Result<_, EngineError>>()?,
        })
    }

    /// Lets the session that `builder` opens on `model` use the initializers held here.
    ///
    /// # Errors
    /// If ONNX Runtime refuses an initializer.
    #[expect(
        unsafe_code,
        reason = "`ort` takes shared initializers only in memory of their own"
    )]
    pub fn share(&self, builder: &mut SessionBuilder, model: &Model) -> Result<(), String> {
        for tensor in model.graph.iter().flat_map(|graph| &graph.initializer) {
            let Some(bytes) = self.find(tensor) else {
                continue;
            };
            let name = CString::new(tensor.name.as_str()).map_err(|error| error.to_string())?;
            let shape = Shape::new(tensor.dims.iter().copied());
            let data = bytes.as_ptr().cast_mut().cast();
            // SAFETY: `find` checks that the memory holds all elements of the shape. Sessions only
            // read it. Memory and value stay in place until the sessions are closed.
            unsafe {
                let value = TensorRefMut::<f32>::from_raw(MemoryInfo::default(), data, shape)
                    .map_err(|error| error.message().to_owned())?;
                let add = ort::api().AddInitializer;
                let status = add(builder.ptr_mut(), name.as_ptr(), value.ptr());
                if !status.0.is_null() {
                    (ort::api().ReleaseStatus)(status.0);
                    return Err(format!("initializer `{}` can't be shared", tensor.name));
                }
                let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
                values.push(value);
            }
        }
        Ok(())
    }

    /// The bytes of a float32 initializer, if they're held here.
    fn find(&self, tensor: &Tensor) -> Option<&[u8]> {
        let known = |path: &Path| self.regions.iter().any(|region| region.path == path);
        let span = span(tensor, &known)?;
        let elements: i64 = tensor.dims.iter().product();
        let is_float = tensor.data_type == element::FLOAT32;
        if !is_float || u64::try_from(elements).ok()?.checked_mul(4)? != span.length {
            return None;
        }
        self.regions.iter().find_map(|region| {
            let first = span.offset.checked_sub(region.start)? as usize;
            let bytes = region.bytes.get(first..first + span.length as usize)?;
            // The bytes must be aligned for float32.
            (region.path == span.path && bytes.as_ptr().cast::<f32>().is_aligned()).then_some(bytes)
        })
    }
}

/// Reads `span` with all threads into new memory.
fn read(span: &ByteSpan) -> Result<MmapMut, EngineError> {
    let length = span.length as usize;
    let failed = |source| EngineError::Memory {
        bytes: length,
        source,
    };
    let mut memory = MmapMut::map_anon(length.max(1)).map_err(failed)?;
    // If the kernel has no huge pages, small ones are used.
    #[cfg(target_os = "linux")]
    let _ = memory.advise(memmap2::Advice::HugePage);
    let failed = |source| EngineError::Read {
        path: span.path.clone(),
        source,
    };
    let file = File::open(&span.path).map_err(failed)?;
    let parts = memory[..length].par_chunks_mut(PART).enumerate();
    parts
        .map(|(index, part)| file.read_exact_at(part, span.offset + (index * PART) as u64))
        .collect::<Result<(), _>>()
        .map_err(failed)?;
    Ok(memory)
}
