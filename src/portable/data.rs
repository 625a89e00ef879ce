//! The weights of a portable folder: copies of exactly what the graph uses, or hard links to the
//! files that it's in.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::PortableError;
use crate::graph::proto::Model;
use crate::weights::ByteSpan;

/// The file of copied weights.
pub const DATA: &str = "model.onnx.data";

/// Offsets of copied weights are multiples of this, so that they're aligned for every element type
/// and to a cache line.
const ALIGNMENT: u64 = 64;

/// How weights get into the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weights {
    /// What the graph uses is copied into one file.
    Copied,
    /// The files that the weights are in are linked: they take no space, and stay the same files.
    Linked,
}

/// The file of copied weights, which is made when it's first written to.
#[derive(Debug)]
pub struct DataFile {
    path: PathBuf,
    file: Option<File>,
    end: u64,
    copied: HashMap<ByteSpan, ByteSpan>,
    /// Bytes that aren't from a file, by their hash.
    appended: HashMap<Vec<u8>, ByteSpan>,
}

impl DataFile {
    /// The file in `folder`.
    pub fn new(folder: &Path) -> Self {
        Self {
            path: folder.join(DATA),
            file: None,
            end: 0,
            copied: HashMap::new(),
            appended: HashMap::new(),
        }
    }

    fn failed(&self) -> impl Fn(io::Error) -> PortableError + use<> {
        let path = self.path.clone();
        move |source| PortableError::Write {
            path: path.clone(),
            source,
        }
    }

    /// Reserves the next `length` bytes; the file stands at their beginning.
    fn reserve(&mut self, length: u64) -> Result<(ByteSpan, &mut File), PortableError> {
        let failed = self.failed();
        let offset = self.end.next_multiple_of(ALIGNMENT);
        self.end = offset + length;
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(File::create_new(&self.path).map_err(&failed)?),
        };
        file.seek(SeekFrom::Start(offset)).map_err(&failed)?;
        let span = ByteSpan {
            path: self.path.clone(),
            offset,
            length,
        };
        Ok((span, file))
    }

    /// Copies `span`, unless that was done before.
    ///
    /// # Errors
    /// If it can't be read or written.
    fn copy(&mut self, span: ByteSpan) -> Result<ByteSpan, PortableError> {
        if let Some(copied) = self.copied.get(&span) {
            return Ok(copied.clone());
        }
        let failed = self.failed();
        let unreadable = |source| PortableError::Read {
            path: span.path.clone(),
            source,
        };
        let mut source = File::open(&span.path).map_err(unreadable)?;
        source
            .seek(SeekFrom::Start(span.offset))
            .map_err(unreadable)?;
        let (copied, file) = self.reserve(span.length)?;
        let length = io::copy(&mut source.take(span.length), file).map_err(failed)?;
        if length != span.length {
            return Err(unreadable(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "it's shorter than the prepared graph expects; prepare again",
            )));
        }
        self.copied.insert(span, copied.clone());
        Ok(copied)
    }

    /// Appends `bytes`, unless the same were appended before.
    ///
    /// # Errors
    /// If they can't be written.
    pub fn append(&mut self, bytes: &[u8]) -> Result<ByteSpan, PortableError> {
        let key = Sha256::digest(bytes).to_vec();
        if let Some(appended) = self.appended.get(&key) {
            return Ok(appended.clone());
        }
        let failed = self.failed();
        let (span, file) = self.reserve(bytes.len() as u64)?;
        file.write_all(bytes).map_err(failed)?;
        self.appended.insert(key, span.clone());
        Ok(span)
    }
}

impl Weights {
    /// Brings the external data of `model`, whose locations are relative to `from`, into the folder
    /// `to`, whose data file is `data`.
    ///
    /// # Errors
    /// If a file can't be read, written or linked.
    pub fn bring(
        self,
        model: &mut Model,
        from: &Path,
        to: &Path,
        data: &mut DataFile,
    ) -> Result<(), PortableError> {
        let mut linked: HashMap<PathBuf, PathBuf> = HashMap::new();
        let graph = model.graph.iter_mut();
        for tensor in graph.flat_map(|graph| &mut graph.initializer) {
            let Some(span) = tensor.span(from) else {
                continue;
            };
            let span = match self {
                Self::Copied => data.copy(span)?,
                Self::Linked => link(span, to, &mut linked)?,
            };
            tensor.set_span(&span, to);
        }
        Ok(())
    }
}

/// Links the file of `span` into `to`, unless that was done before.
fn link(
    mut span: ByteSpan,
    to: &Path,
    linked: &mut HashMap<PathBuf, PathBuf>,
) -> Result<ByteSpan, PortableError> {
    // A hub's cache consists of symbolic links, which would be links still.
    let source = fs::canonicalize(&span.path).map_err(|source| PortableError::Read {
        path: span.path.clone(),
        source,
    })?;
    if let Some(target) = linked.get(&source) {
        target.clone_into(&mut span.path);
        return Ok(span);
    }
    // Several sources may have the same name.
    let target = to.join(format!("weights-{}.safetensors", linked.len() + 1));
    fs::hard_link(&source, &target).map_err(|error| PortableError::Link {
        path: source.clone(),
        source: error,
    })?;
    target.clone_into(&mut span.path);
    linked.insert(source, target);
    Ok(span)
}
