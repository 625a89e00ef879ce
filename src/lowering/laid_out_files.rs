//! Files of weights that are laid out for the processor. They're written once and mapped
//! afterwards.
//!
//! A base model's file is in its prepared folder and is shared by all its variants. A merged
//! variant has a file of its own, for the weights in its `overlay.safetensors`. They're deleted
//! with their folders. A tensor's name contains its form and, for each source weight, the file's
//! path, size and modification time, the offset and the dtypes. So a tensor made from an earlier
//! version of a file is never used.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rayon::prelude::*;

use super::laid_out_tensor::{Batch, LaidOutTensor, LayOutError};
use super::products::Weight;
use crate::graph::proto::{Tensor, element};
use crate::lowering::model_file::ROOT;
use crate::prepared::GRAPH;
use crate::weights::{ByteSpan, Dtype, SafetensorsFile, SafetensorsWriter, TensorPlan};

/// The file of laid-out weights, in a prepared folder.
pub const LAID_OUT: &str = "laid-out.safetensors";

/// The name of the base's prepared folder.
const BASE: &str = "base";

/// Separates the parts of a tensor's name. If a path contains it, the tensor isn't kept when the
/// file is rewritten with others.
const BETWEEN: char = '\n';

/// Where a laid-out tensor, or several contiguous ones of the same form, is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaidOutRange {
    /// The bytes.
    span: ByteSpan,
    /// The sum of their `out_features`.
    pub rows: usize,
    /// `in_features`
    pub columns: usize,
}

impl LaidOutRange {
    /// An initializer with these bytes.
    pub fn initializer(&self, name: &str, dims: Vec<i64>) -> Tensor {
        Tensor::external(name, element::FLOAT32, dims, &self.span, Path::new(ROOT))
    }
}

/// The open laid-out files of a variant.
#[derive(Debug)]
pub struct LaidOutFiles {
    /// Rows of a block.
    pub block: usize,
    /// Seconds that writing the variant's own file took, if it was written just now. The base's
    /// file doesn't count, since all variants share it.
    pub own_seconds: Option<f64>,
    /// The files by path.
    files: BTreeMap<PathBuf, SafetensorsFile>,
    names: Names,
}

impl LaidOutFiles {
    /// Opens the laid-out files of the variant in `folder`, and writes those that lack a tensor of
    /// `wanted`. The tensors of a group are stored contiguously. Before a file is written, `begin`
    /// is called with its size in bytes.
    ///
    /// # Errors
    /// If a weight can't be read, or a file can't be written.
    pub fn open_or_write(
        wanted: Vec<Vec<LaidOutTensor>>,
        folder: &Path,
        block: usize,
        begin: &dyn Fn(u64),
    ) -> Result<Self, LayOutError> {
        let folder = fs::canonicalize(folder).map_err(|source| LayOutError::Read {
            path: folder.to_owned(),
            source,
        })?;
        let mut ready = Self {
            block,
            own_seconds: None,
            files: BTreeMap::new(),
            names: Names::default(),
        };
        let shared = shared_folder(&folder);
        let mut homes: BTreeMap<PathBuf, Vec<Vec<LaidOutTensor>>> = BTreeMap::new();
        for group in wanted {
            let own = |weight: &Weight| weight.span.path.starts_with(&folder);
            let home = match group.iter().flat_map(LaidOutTensor::sources).any(own) {
                true => &folder,
                false => &shared,
            };
            homes.entry(home.join(LAID_OUT)).or_default().push(group);
        }
        for (path, groups) in homes {
            let existing = SafetensorsFile::open(&path).ok();
            let mut all = true;
            for group in &groups {
                all &= match &existing {
                    Some(file) => ready.names.joined(file, group)?.is_some(),
                    None => false,
                };
            }
            let file = match existing {
                Some(file) if all => file,
                existing => {
                    let start = Instant::now();
                    let written = write(&path, &groups, existing, &ready.names, begin)?;
                    if path.starts_with(&folder) {
                        ready.own_seconds = Some(start.elapsed().as_secs_f64());
                    }
                    written
                }
            };
            ready.files.insert(path, file);
        }
        Ok(ready)
    }

    /// The files' paths.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.keys().map(PathBuf::as_path)
    }

    /// Whether `path` is one of these files.
    pub fn has(&self, path: &Path) -> bool {
        self.files.contains_key(path)
    }

    /// Where `tensors` are stored, if they're contiguous.
    ///
    /// # Errors
    /// If the metadata of a weight's file can't be read.
    pub fn find(&self, tensors: &[LaidOutTensor]) -> Result<Option<LaidOutRange>, LayOutError> {
        for (path, file) in &self.files {
            if let Some(offset) = self.names.joined(file, tensors)? {
                let [_, columns] = tensors[0].size();
                let rows = tensors.iter().map(|one| one.size()[0]).sum();
                let span = ByteSpan {
                    path: path.clone(),
                    offset,
                    length: 4 * (rows * columns) as u64,
                };
                return Ok(Some(LaidOutRange {
                    span,
                    rows,
                    columns,
                }));
            }
        }
        Ok(None)
    }
}

/// The folder of the base that the variant in `folder` was prepared with, or `folder` itself.
fn shared_folder(folder: &Path) -> PathBuf {
    let beside = folder.ancestors().nth(2).map(|model| model.join(BASE));
    match beside {
        Some(base) if base.join(GRAPH).is_file() => base,
        _ => folder.to_owned(),
    }
}

/// A file's path as it's written in tensor names.
fn below_root(path: &Path) -> std::borrow::Cow<'_, str> {
    path.strip_prefix(ROOT).unwrap_or(path).to_string_lossy()
}

/// Makes the names of laid-out tensors; caches the metadata of their sources' files.
#[derive(Debug, Default)]
struct Names {
    stamps: RefCell<HashMap<PathBuf, (u64, i128)>>,
}

impl Names {
    /// A file's size, and its modification time in nanoseconds.
    fn stamp(&self, path: &Path) -> Result<(u64, i128), LayOutError> {
        if let Some(known) = self.stamps.borrow().get(path) {
            return Ok(*known);
        }
        let data = fs::metadata(path).map_err(|source| LayOutError::Read {
            path: path.to_owned(),
            source,
        })?;
        let modified = i128::from(data.mtime()) * 1_000_000_000 + i128::from(data.mtime_nsec());
        let stamp = (data.len(), modified);
        self.stamps.borrow_mut().insert(path.to_owned(), stamp);
        Ok(stamp)
    }

    fn of(&self, one: &LaidOutTensor) -> Result<String, LayOutError> {
        let mut name = one.form();
        for weight in one.sources() {
            name.push(BETWEEN);
            name += &self.of_source(weight)?;
        }
        Ok(name)
    }

    fn of_source(&self, weight: &Weight) -> Result<String, LayOutError> {
        let (size, modified) = self.stamp(&weight.span.path)?;
        let types: Vec<String> = weight.types.iter().map(i32::to_string).collect();
        Ok(format!(
            "{}:{size}:{modified}:{}:{}",
            below_root(&weight.span.path),
            weight.span.offset,
            types.join("-")
        ))
    }

    /// Whether all source files of the tensor `name` are unchanged.
    fn is_current(&self, name: &str) -> bool {
        name.split(BETWEEN).skip(1).all(|source| {
            let parts: Vec<&str> = source.rsplitn(5, ':').collect();
            let [_, _, modified, size, location] = parts[..] else {
                return false;
            };
            self.stamp(&Path::new(ROOT).join(location))
                .is_ok_and(|stamp| {
                    (stamp.0.to_string(), stamp.1.to_string())
                        == (size.to_owned(), modified.to_owned())
                })
        })
    }

    /// The offset of `tensors` in `file`, if they're contiguous there.
    fn joined(
        &self,
        file: &SafetensorsFile,
        tensors: &[LaidOutTensor],
    ) -> Result<Option<u64>, LayOutError> {
        let mut first = None;
        let mut end = None;
        for one in tensors {
            let name = self.of(one)?;
            let Some(tensor) = file.get(&name) else {
                return Ok(None);
            };
            let Ok(location) = tensor.location() else {
                return Ok(None);
            };
            let follows = end.is_none_or(|end| end == location.offset);
            if tensor.shape != one.shape() || location.dtype != Dtype::Float32 || !follows {
                return Ok(None);
            }
            first.get_or_insert(location.offset);
            end = Some(location.offset + location.length);
        }
        Ok(first)
    }
}

/// Writes the file at `path` with `groups`, and with the tensors of the `existing` file that are
/// still current.
fn write(
    path: &Path,
    groups: &[Vec<LaidOutTensor>],
    existing: Option<SafetensorsFile>,
    names: &Names,
    begin: &dyn Fn(u64),
) -> Result<SafetensorsFile, LayOutError> {
    let mut seen = HashSet::new();
    let mut plans = Vec::new();
    let mut tensors = Vec::new();
    for one in groups.iter().flatten() {
        let name = names.of(one)?;
        if seen.insert(name.clone()) {
            plans.push(TensorPlan {
                name: name.clone(),
                dtype: Dtype::Float32,
                shape: one.shape(),
            });
            tensors.push((name, one));
        }
    }
    let kept: Vec<String> = existing
        .iter()
        .flat_map(SafetensorsFile::names)
        .filter(|name| !seen.contains(name) && names.is_current(name))
        .collect();
    for (name, file) in kept.iter().zip(existing.iter().cycle()) {
        if let Some(tensor) = file.get(name) {
            plans.push(TensorPlan {
                name: name.clone(),
                dtype: Dtype::Float32,
                shape: tensor.shape.to_owned(),
            });
        }
    }
    let bytes = |plan: &TensorPlan| 4 * plan.shape.iter().product::<usize>() as u64;
    begin(plans.iter().map(bytes).sum());
    let writer = SafetensorsWriter::create(path, &plans).map_err(LayOutError::Write)?;
    let batches: Vec<Batch> = tensors
        .iter()
        .flat_map(|(name, one)| one.batches(name))
        .collect();
    batches
        .par_iter()
        .try_for_each(|batch| batch.write(&writer))?;
    for (name, file) in kept.iter().zip(existing.iter().cycle()) {
        if let Some(tensor) = file.get(name) {
            writer
                .write_bytes(name, tensor.bytes)
                .map_err(LayOutError::Write)?;
        }
    }
    writer.finish().map_err(LayOutError::Write)?;
    SafetensorsFile::open(path).map_err(LayOutError::Write)
}
