//! Laid-out weights in the process' own memory, which a variant's sessions share.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use memmap2::MmapMut;
use ort::AsPointer;
use ort::memory::MemoryInfo;
use ort::session::builder::SessionBuilder;
use ort::value::{Shape, TensorRefMut};
use rayon::prelude::*;

use super::EngineError;
use super::model_file::ROOT;
use crate::graph::proto::{Model, Tensor};

/// What one thread reads at a time.
const PART: usize = 32 << 20;

/// Bytes of files, by where they begin: location and offset.
type Spans = BTreeMap<(String, u64), Span>;

/// Some bytes of a file, and where they are in memory.
#[derive(Debug, Clone, Copy)]
struct Span {
    /// The byte behind the last.
    end: u64,
    place: usize,
}

/// The weights, and the values that sessions were given.
///
/// Fields are dropped in order: values before the memory that they are in. Sessions have to be closed before.
#[derive(Debug)]
pub struct InMemory {
    values: Vec<TensorRefMut<'static, f32>>,
    memory: MmapMut,
    spans: Spans,
}

/// Where an initializer is, if that's in a file that `is_laid_out`.
fn place(tensor: &Tensor, is_laid_out: &dyn Fn(&str) -> bool) -> Option<(String, u64, u64)> {
    let entry = |key: &str| {
        let entry = tensor.external_data.iter().find(|entry| entry.key == key);
        entry.map(|entry| entry.value.as_str())
    };
    let location = entry("location").filter(|location| is_laid_out(location))?;
    let offset: u64 = entry("offset")?.parse().ok()?;
    let length: u64 = entry("length")?.parse().ok()?;
    Some((location.to_owned(), offset, offset + length))
}

impl InMemory {
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
        let mut spans: Spans = BTreeMap::new();
        for (location, start, end) in places {
            match spans.last_entry() {
                Some(mut last) if last.key().0 == location && start <= last.get().end => {
                    let last = last.get_mut();
                    last.end = last.end.max(end);
                }
                _ => {
                    spans.insert((location, start), Span { end, place: 0 });
                }
            }
        }
        let mut bytes = 0;
        for ((_, start), span) in &mut spans {
            // As the files are, lines of the cache begin with weights.
            span.place = bytes;
            bytes += ((span.end - start) as usize).next_multiple_of(64);
        }
        let failed = |source| EngineError::Memory { bytes, source };
        let mut memory = MmapMut::map_anon(bytes.max(1)).map_err(failed)?;
        // Where the kernel has none, small pages do.
        #[cfg(target_os = "linux")]
        let _ = memory.advise(memmap2::Advice::HugePage);
        let mut rest = &mut memory[..bytes];
        for ((location, start), span) in &spans {
            let length = (span.end - start) as usize;
            let (own, others) = rest.split_at_mut(length.next_multiple_of(64));
            rest = others;
            let path = Path::new(ROOT).join(location);
            let failed = |source| EngineError::Read {
                path: path.clone(),
                source,
            };
            let file = File::open(&path).map_err(failed)?;
            let parts = own[..length].par_chunks_mut(PART).enumerate();
            parts
                .map(|(index, part)| file.read_exact_at(part, start + (index * PART) as u64))
                .collect::<Result<(), _>>()
                .map_err(failed)?;
        }
        Ok(Self {
            values: Vec::new(),
            memory,
            spans,
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
    pub fn share(&mut self, builder: &mut SessionBuilder, model: &Model) -> Result<(), String> {
        for tensor in model.graph.iter().flat_map(|graph| &graph.initializer) {
            let Some(start) = self.find(tensor) else {
                continue;
            };
            let name = CString::new(tensor.name.as_str()).map_err(|error| error.to_string())?;
            let shape = Shape::new(tensor.dims.iter().copied());
            let data = self.memory[start..].as_mut_ptr().cast();
            // SAFETY: the memory has as many bytes there as the shape has elements (the initializer's `length`), and it
            // and the value stay where they are until the sessions are closed.
            unsafe {
                let value = TensorRefMut::<f32>::from_raw(MemoryInfo::default(), data, shape)
                    .map_err(|error| error.message().to_owned())?;
                let add = ort::api().AddInitializer;
                let status = add(builder.ptr_mut(), name.as_ptr(), value.ptr());
                if !status.0.is_null() {
                    (ort::api().ReleaseStatus)(status.0);
                    return Err(format!("initializer `{}` can't be shared", tensor.name));
                }
                self.values.push(value);
            }
        }
        Ok(())
    }

    /// Where an initializer is in memory.
    fn find(&self, tensor: &Tensor) -> Option<usize> {
        let known = |location: &str| self.spans.keys().any(|(known, _)| known == location);
        let (location, start, end) = place(tensor, &known)?;
        let before = self.spans.range(..=(location.clone(), start)).next_back();
        let ((found, first), span) = before?;
        let elements: i64 = tensor.dims.iter().product();
        let whole = elements >= 0 && end - start == 4 * elements as u64;
        (*found == location && end <= span.end && whole)
            .then(|| span.place + (start - first) as usize)
    }
}
