//! Files of panels: made once from a model's weights, and mapped afterwards.
//!
//! The panels of a base model are in its prepared folder, and all variants beside it share them; those of merged tensors
//! are beside the variant's own `overlay.safetensors`. They vanish with their folders. A panel is named by its source's
//! path, size, modification time, offset and types, so that one made from an earlier version of a file is never taken.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use thiserror::Error;

use super::panels::{PANEL_ROWS, wanted};
use super::products::Weight;
use crate::engine::model_file::ROOT;
use crate::graph::proto::{self, Model};
use crate::prepare::GRAPH;
use crate::weights::{
    Dtype, SafetensorsFile, SafetensorsWriter, TensorPlan, WeightsError, round_to, widen,
};

/// The file of panels, in a prepared folder.
const PANELS: &str = "panels.safetensors";

/// The name of the base's prepared folder.
const BASE: &str = "base";

/// What's converted at a time.
const BATCH_BYTES: usize = 8 << 20;

/// Panels that can't be made or read.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
pub enum PackError {
    #[error("cannot read `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "a copy of the weights can't be laid out for decoding; `--weights in-place` does without one"
    )]
    Write(#[source] WeightsError),
}

/// A weight, or several behind one another, in panels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Panel {
    /// The file's path below the root.
    pub location: String,
    /// First byte.
    pub offset: u64,
    /// `out_features`, of all of them.
    pub rows: usize,
    /// `in_features`
    pub columns: usize,
}

/// The open files of panels of one variant.
#[derive(Debug, Default)]
pub struct PanelFiles {
    /// By path.
    files: BTreeMap<PathBuf, SafetensorsFile>,
    names: Names,
}

impl PanelFiles {
    /// Makes the panels that `model` wants, if they aren't there, and opens them. `folder` is the variant's; `begin` is
    /// told the bytes of each file that has to be made.
    ///
    /// # Errors
    /// If a weight can't be read, or a file of panels can't be written.
    pub fn make_ready(
        model: &Model,
        folder: &Path,
        begin: &dyn Fn(u64),
    ) -> Result<Self, PackError> {
        let folder = fs::canonicalize(folder).map_err(|source| PackError::Read {
            path: folder.to_owned(),
            source,
        })?;
        let mut ready = Self::default();
        let shared = shared_folder(&folder);
        let mut homes: BTreeMap<PathBuf, Vec<Vec<Weight>>> = BTreeMap::new();
        for group in wanted(model) {
            let own = |weight: &Weight| Path::new(ROOT).join(&weight.location).starts_with(&folder);
            let home = match group.iter().any(own) {
                true => &folder,
                false => &shared,
            };
            homes.entry(home.join(PANELS)).or_default().push(group);
        }
        for (path, groups) in homes {
            let existing = SafetensorsFile::open(&path).ok();
            let mut all = true;
            for group in &groups {
                let group: Vec<&Weight> = group.iter().collect();
                all &= match &existing {
                    Some(file) => ready.names.joined(file, &group)?.is_some(),
                    None => false,
                };
            }
            let file = match existing {
                Some(file) if all => file,
                existing => write(&path, &groups, existing, &ready.names, begin)?,
            };
            ready.files.insert(path, file);
        }
        Ok(ready)
    }

    /// Where the panels of `weight` are, if it has any.
    ///
    /// # Errors
    /// If its file can't be asked for its size.
    pub fn find(&self, weight: &Weight) -> Result<Option<Panel>, PackError> {
        self.find_joined(&[weight])
    }

    /// Where the panels of `weights` are, if they follow each other.
    ///
    /// # Errors
    /// If a weight's file can't be asked for its size.
    pub fn find_joined(&self, weights: &[&Weight]) -> Result<Option<Panel>, PackError> {
        for (path, file) in &self.files {
            if let Some(offset) = self.names.joined(file, weights)? {
                return Ok(Some(Panel {
                    location: path
                        .strip_prefix(ROOT)
                        .unwrap_or(path)
                        .to_string_lossy()
                        .into_owned(),
                    offset,
                    rows: weights.iter().map(|weight| weight.rows).sum(),
                    columns: weights[0].columns,
                }));
            }
        }
        Ok(None)
    }
}

/// The folder of the base that the variant in `folder` was prepared beside, or `folder` itself.
fn shared_folder(folder: &Path) -> PathBuf {
    let beside = folder.ancestors().nth(2).map(|model| model.join(BASE));
    match beside {
        Some(base) if base.join(GRAPH).is_file() => base,
        _ => folder.to_owned(),
    }
}

/// Names of panels, with what's known of their sources' files.
#[derive(Debug, Default)]
struct Names {
    stamps: RefCell<HashMap<String, (u64, i128)>>,
}

impl Names {
    /// Size and modification time, in nanoseconds, of a file below the root.
    fn stamp(&self, location: &str) -> Result<(u64, i128), PackError> {
        if let Some(known) = self.stamps.borrow().get(location) {
            return Ok(*known);
        }
        let path = Path::new(ROOT).join(location);
        let data = fs::metadata(&path).map_err(|source| PackError::Read { path, source })?;
        let modified = i128::from(data.mtime()) * 1_000_000_000 + i128::from(data.mtime_nsec());
        let stamp = (data.len(), modified);
        self.stamps.borrow_mut().insert(location.to_owned(), stamp);
        Ok(stamp)
    }

    fn of(&self, weight: &Weight) -> Result<String, PackError> {
        let (size, modified) = self.stamp(&weight.location)?;
        let types: Vec<String> = weight.types.iter().map(i32::to_string).collect();
        Ok(format!(
            "{}:{size}:{modified}:{}:{}",
            weight.location,
            weight.offset,
            types.join("-")
        ))
    }

    /// Whether the source of the panel `name` is as it was.
    fn is_current(&self, name: &str) -> bool {
        let parts: Vec<&str> = name.rsplitn(5, ':').collect();
        let [_, _, modified, size, location] = parts[..] else {
            return false;
        };
        self.stamp(location).is_ok_and(|stamp| {
            (stamp.0.to_string(), stamp.1.to_string()) == (size.to_owned(), modified.to_owned())
        })
    }

    /// Where `weights` begin in `file`, if they follow each other there.
    fn joined(
        &self,
        file: &SafetensorsFile,
        weights: &[&Weight],
    ) -> Result<Option<u64>, PackError> {
        let mut first = None;
        let mut end = None;
        for weight in weights {
            let name = self.of(weight)?;
            let Some(tensor) = file.get(&name) else {
                return Ok(None);
            };
            let shape = [weight.rows / PANEL_ROWS, weight.columns, PANEL_ROWS];
            let Ok(location) = tensor.location() else {
                return Ok(None);
            };
            let follows = end.is_none_or(|end| end == location.offset);
            if tensor.shape != shape || location.dtype != Dtype::Float32 || !follows {
                return Ok(None);
            }
            first.get_or_insert(location.offset);
            end = Some(location.offset + location.length);
        }
        Ok(first)
    }
}

/// Writes the file at `path` with `groups`, and what's still current of the `existing` one.
fn write(
    path: &Path,
    groups: &[Vec<Weight>],
    existing: Option<SafetensorsFile>,
    names: &Names,
    begin: &dyn Fn(u64),
) -> Result<SafetensorsFile, PackError> {
    let mut seen = HashSet::new();
    let mut plans = Vec::new();
    let mut sources = Vec::new();
    for weight in groups.iter().flatten() {
        let name = names.of(weight)?;
        if seen.insert(name.clone()) {
            plans.push(TensorPlan {
                name: name.clone(),
                dtype: Dtype::Float32,
                shape: vec![weight.rows / PANEL_ROWS, weight.columns, PANEL_ROWS],
            });
            sources.push((name, weight));
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
    let writer = SafetensorsWriter::create(path, &plans).map_err(PackError::Write)?;
    let batches: Vec<Batch> = sources
        .iter()
        .flat_map(|(name, weight)| Batch::all(name, weight))
        .collect();
    batches
        .par_iter()
        .try_for_each(|batch| batch.write(&writer))?;
    for (name, file) in kept.iter().zip(existing.iter().cycle()) {
        if let Some(tensor) = file.get(name) {
            writer
                .write_bytes(name, tensor.bytes)
                .map_err(PackError::Write)?;
        }
    }
    writer.finish().map_err(PackError::Write)?;
    SafetensorsFile::open(path).map_err(PackError::Write)
}

/// Some panels of a weight.
struct Batch<'a> {
    name: &'a str,
    weight: &'a Weight,
    first: usize,
    count: usize,
}

impl<'a> Batch<'a> {
    fn all(name: &'a str, weight: &'a Weight) -> impl Iterator<Item = Self> {
        let panels = weight.rows / PANEL_ROWS;
        let panel_bytes = (4 * PANEL_ROWS * weight.columns).max(1);
        let step = (BATCH_BYTES / panel_bytes).max(1);
        (0..panels).step_by(step).map(move |first| Self {
            name,
            weight,
            first,
            count: step.min(panels - first),
        })
    }

    fn write(&self, writer: &SafetensorsWriter) -> Result<(), PackError> {
        let weight = self.weight;
        let path = Path::new(ROOT).join(&weight.location);
        let dtypes: Vec<Dtype> = weight
            .types
            .iter()
            .filter_map(|&element| proto::dtype(element))
            .collect();
        let stored = dtypes[0];
        let row_bytes = weight.columns * stored.size();
        let mut bytes = vec![0; self.count * PANEL_ROWS * row_bytes];
        let start = weight.offset + (self.first * PANEL_ROWS * row_bytes) as u64;
        File::open(&path)
            .and_then(|file| file.read_exact_at(&mut bytes, start))
            .map_err(|source| PackError::Read { path, source })?;
        let mut values = widen(&bytes, stored);
        for &dtype in &dtypes[1..] {
            if dtype != Dtype::Float32 {
                for value in &mut values {
                    *value = round_to(*value, dtype);
                }
            }
        }
        let panel = PANEL_ROWS * weight.columns;
        let mut turned = vec![0_u8; 4 * values.len()];
        for (from, to) in values
            .chunks_exact(panel)
            .zip(turned.chunks_exact_mut(4 * panel))
        {
            for (column, target) in to.chunks_exact_mut(4 * PANEL_ROWS).enumerate() {
                for (row, place) in target.chunks_exact_mut(4).enumerate() {
                    place.copy_from_slice(&from[row * weight.columns + column].to_le_bytes());
                }
            }
        }
        writer
            .write_part(self.name, 4 * self.first * panel, &turned)
            .map_err(PackError::Write)
    }
}
