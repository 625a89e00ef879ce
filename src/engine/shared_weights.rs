//! Laid-out weights in memory, mapped or read, which a variant's sessions share.
//!
//! ONNX Runtime would open and map a file anew for each weight of each session, which takes longer than all else at their
//! start.

use std::ffi::CString;
use std::fs::File;
use std::ops::Deref;
use std::os::unix::fs::FileExt;
use std::path::Path;
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

/// What one thread reads at a time.
const PART: usize = 32 << 20;

/// The weights, and the values that sessions were given.
///
/// Fields are dropped in order: values before the memory that they are in. Sessions have to be closed before.
#[derive(Debug)]
pub struct SharedWeights {
    values: Mutex<Vec<TensorRefMut<'static, f32>>>,
    regions: Vec<Region>,
}

/// Some bytes of a file.
#[derive(Debug)]
struct Region {
    /// The file's path below the root.
    location: String,
    /// First byte.
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

/// Where an initializer is, if that's in a file that `is_laid_out`: location, first byte, the byte behind the last.
fn place(tensor: &Tensor, is_laid_out: &dyn Fn(&str) -> bool) -> Option<(String, u64, u64)> {
    let entry = |key: &str| {
        let entry = tensor.external_data.iter().find(|entry| entry.key == key);
        entry.map(|entry| entry.value.as_str())
    };
    let location = entry("location").filter(|location| is_laid_out(location))?;
    let offset: u64 = entry("offset")?.parse().ok()?;
    let length: u64 = entry("length")?.parse().ok()?;
    Some((location.to_owned(), offset, offset.checked_add(length)?))
}

impl SharedWeights {
    /// Maps the files at `locations`, paths below the root.
    ///
    /// # Errors
    /// If one can't be mapped.
    #[expect(unsafe_code, reason = "a mapped file can be changed by others")]
    pub fn map<'a>(locations: impl Iterator<Item = &'a str>) -> Result<Self, EngineError> {
        let map = |location: &str| {
            let path = Path::new(ROOT).join(location);
            // SAFETY: files of laid-out weights are replaced as a whole and never written to, so that what's mapped stays.
            let mapped = File::open(&path).and_then(|file| unsafe { Mmap::map(&file) });
            // What has to be read from the disk comes in large pages, where the file system has them.
            #[cfg(target_os = "linux")]
            if let Ok(mapped) = &mapped {
                let _ = mapped.advise(memmap2::Advice::HugePage);
            }
            Ok(Region {
                location: location.to_owned(),
                start: 0,
                bytes: Bytes::Mapped(mapped.map_err(|source| EngineError::Read { path, source })?),
            })
        };
        Ok(Self {
            values: Mutex::default(),
            regions: locations.map(map).collect::<Result<_, EngineError>>()?,
        })
    }

    /// Reads what the initializers of `models` have in files that `is_laid_out`, each byte once.
    ///
    /// # Errors
    /// If a file can't be read, or there's no memory for it.
    pub fn read<'a>(
        models: impl Iterator<Item = &'a Model>,
        is_laid_out: &dyn Fn(&str) -> bool,
    ) -> Result<Self, EngineError> {
        let initializers = models
            .flat_map(|model| &model.graph)
            .flat_map(|graph| &graph.initializer);
        let mut places: Vec<(String, u64, u64)> = initializers
            .filter_map(|tensor| place(tensor, is_laid_out))
            .collect();
        places.sort();
        let mut joined: Vec<(String, u64, u64)> = Vec::new();
        for (location, start, end) in places {
            match joined.last_mut() {
                Some(last) if last.0 == location && start <= last.2 => last.2 = last.2.max(end),
                _ => joined.push((location, start, end)),
            }
        }
        let read = |(location, start, end): (String, u64, u64)| {
            Ok(Region {
                bytes: Bytes::Own(read(&location, start, (end - start) as usize)?),
                location,
                start,
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

    /// Gives the initializers of `model` that are here to the session that `builder` opens on it.
    ///
    /// # Errors
    /// If ONNX Runtime refuses one.
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
            // SAFETY: the memory has as many bytes there as the shape has elements (`find`), sessions only read them, and
            // it and the value stay where they are until the sessions are closed.
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

    /// The bytes of an initializer in float32, if they are here.
    fn find(&self, tensor: &Tensor) -> Option<&[u8]> {
        let known = |location: &str| {
            self.regions
                .iter()
                .any(|region| region.location == location)
        };
        let (location, start, end) = place(tensor, &known)?;
        let elements: i64 = tensor.dims.iter().product();
        let is_float = tensor.data_type == element::FLOAT32;
        if !is_float || u64::try_from(elements).ok()?.checked_mul(4)? != end - start {
            return None;
        }
        self.regions.iter().find_map(|region| {
            let first = start.checked_sub(region.start)? as usize;
            let last = end.checked_sub(region.start)? as usize;
            let bytes = region.bytes.get(first..last)?;
            // Elements of float32 have to begin where such can.
            (region.location == location && bytes.as_ptr().cast::<f32>().is_aligned())
                .then_some(bytes)
        })
    }
}

/// Reads so many bytes from `start` on of the file at `location`, with all threads.
fn read(location: &str, start: u64, length: usize) -> Result<MmapMut, EngineError> {
    let failed = |source| EngineError::Memory {
        bytes: length,
        source,
    };
    let mut memory = MmapMut::map_anon(length.max(1)).map_err(failed)?;
    // Where the kernel has none, small pages do.
    #[cfg(target_os = "linux")]
    let _ = memory.advise(memmap2::Advice::HugePage);
    let path = Path::new(ROOT).join(location);
    let failed = |source| EngineError::Read {
        path: path.clone(),
        source,
    };
    let file = File::open(&path).map_err(failed)?;
    let parts = memory[..length].par_chunks_mut(PART).enumerate();
    parts
        .map(|(index, part)| file.read_exact_at(part, start + (index * PART) as u64))
        .collect::<Result<(), _>>()
        .map_err(failed)?;
    Ok(memory)
}
