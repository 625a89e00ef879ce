//! A checkpoint's tensors by name, whether in one file or in shards with an index.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::{PackedMatrix, SafetensorsFile, TensorHandle, TensorView, WeightsError};
use crate::advice::convert_model;
use crate::files::{self, failed_download};

/// All tensors of one checkpoint. Clones share their files.
#[derive(Debug, Clone)]
pub struct TensorStore {
    files: Vec<SafetensorsFile>,
    /// The index of the file that has each tensor.
    names: BTreeMap<String, usize>,
    /// Slices of tensors, by the name under which they're found.
    slices: BTreeMap<String, TensorSlice>,
    /// Matrices whose values are computed from tensors, by the name under which they're found.
    packed: BTreeMap<String, Arc<dyn PackedMatrix>>,
    /// What error messages call the checkpoint.
    path: PathBuf,
}

/// A slice of a tensor that can be looked up under a name of its own.
#[derive(Debug, Clone)]
pub struct TensorSlice {
    /// Name of the whole tensor.
    pub whole: String,
    /// Index of its first element in the whole tensor.
    pub first: usize,
    /// Its own shape.
    pub shape: Vec<usize>,
}

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

impl TensorStore {
    /// Whether `folder` contains a checkpoint, complete or not.
    pub fn is_in(folder: &Path) -> bool {
        let is_there = |name: &str| folder.join(name).symlink_metadata().is_ok();
        [SINGLE, INDEX].into_iter().any(is_there)
    }

    /// Opens the checkpoint in `folder`: `model.safetensors`, or the shards of
    /// `model.safetensors.index.json`.
    ///
    /// # Errors
    /// If neither is there, or a file is missing, truncated or malformed.
    pub fn open_folder(folder: &Path) -> Result<Self, WeightsError> {
        if folder.join(SINGLE).exists() {
            return Self::open_file(&folder.join(SINGLE));
        }
        if folder.join(INDEX).exists() {
            return Self::open_shards(&folder.join(INDEX));
        }
        Err(WeightsError::Layout {
            path: folder.to_owned(),
            message: format!(
                "no weights found, expected `{SINGLE}` or `{INDEX}` (pickled `pytorch_model.bin` \
                 files are not read: `{}` writes them as safetensors)",
                convert_model(folder)
            ),
        })
    }

    /// Opens one safetensors file.
    ///
    /// # Errors
    /// If it is missing, truncated or malformed.
    pub fn open_file(path: &Path) -> Result<Self, WeightsError> {
        let file = SafetensorsFile::open(path)?;
        let names = file.names().into_iter().map(|name| (name, 0)).collect();
        Ok(Self {
            files: vec![file],
            names,
            slices: BTreeMap::new(),
            packed: BTreeMap::new(),
            path: path.to_owned(),
        })
    }

    /// Opens the shards that the index file `path` names, in the same folder.
    ///
    /// # Errors
    /// If a file is missing, truncated or malformed, or the index names a path outside its folder.
    pub fn open_shards(path: &Path) -> Result<Self, WeightsError> {
        let path = path.to_owned();
        let folder = path.parent().unwrap_or(Path::new("."));
        let text = files::read(&path).map_err(|source| WeightsError::Read {
            path: path.clone(),
            source,
        })?;
        let parsed = serde_json::from_slice(&text);
        let index: ShardIndex = parsed.map_err(|source| match failed_download(&text) {
            Some(message) => WeightsError::NoIndex {
                path: path.clone(),
                message,
            },
            None => WeightsError::Index {
                path: path.clone(),
                source,
            },
        })?;
        let mut files = Vec::new();
        let mut shards = BTreeMap::new();
        let mut names = BTreeMap::new();
        for (name, shard) in index.weight_map {
            let number = match shards.get(&shard) {
                Some(&number) => number,
                None => {
                    if !files::is_plain(Path::new(&shard)) {
                        return Err(WeightsError::Layout {
                            path,
                            message: format!(
                                "shard `{shard}` is not a file name inside the checkpoint's folder"
                            ),
                        });
                    }
                    files.push(SafetensorsFile::open(&folder.join(&shard))?);
                    shards.insert(shard, files.len() - 1);
                    files.len() - 1
                }
            };
            if files[number].get(&name).is_none() {
                return Err(WeightsError::Missing {
                    name,
                    path: files[number].path().to_owned(),
                });
            }
            names.insert(name, number);
        }
        Ok(Self {
            files,
            names,
            slices: BTreeMap::new(),
            packed: BTreeMap::new(),
            path,
        })
    }

    /// The file or index that the checkpoint was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Paths of all files that hold tensors.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(SafetensorsFile::path)
    }

    /// All tensor names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    /// Names of all tensors and of all matrices whose values are computed; a name may come twice.
    pub fn names_of_values(&self) -> impl Iterator<Item = &str> {
        self.names().chain(self.packed.keys().map(String::as_str))
    }

    /// Whether there is a tensor `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.names.contains_key(name) || self.packed.contains_key(name)
    }

    /// Makes `matrix` available under `name`, in place of a tensor of that name.
    pub fn add_packed(&mut self, name: String, matrix: Arc<dyn PackedMatrix>) {
        self.packed.insert(name, matrix);
    }

    /// The tensor `name` together with its file, if the checkpoint has it.
    pub fn handle(&self, name: &str) -> Option<TensorHandle> {
        let number = *self.names.get(name)?;
        Some(TensorHandle {
            file: self.files[number].clone(),
            name: name.to_owned(),
        })
    }

    /// Refuses empty tensors, which DeepSpeed ZeRO-3 writes if it didn't gather the weights. `what`
    /// is the expected content of the file, for the message.
    ///
    /// # Errors
    /// If a tensor has the shape `[0]`.
    pub fn refuse_empty(&self, what: &'static str) -> Result<(), WeightsError> {
        for (name, &number) in &self.names {
            let file = &self.files[number];
            if file.get(name).is_some_and(|tensor| tensor.shape == [0]) {
                return Err(WeightsError::NotGathered {
                    name: name.clone(),
                    path: file.path().to_owned(),
                    what,
                });
            }
        }
        Ok(())
    }

    /// The tensor or slice called `name`, if there is one.
    pub fn find(&self, name: &str) -> Option<TensorView<'_>> {
        if let Some((name, packed)) = self.packed.get_key_value(name) {
            return Some(TensorView::of_packed(name, &**packed));
        }
        if let Some((name, &number)) = self.names.get_key_value(name) {
            return self.files[number].get(name);
        }
        let (name, slice) = self.slices.get_key_value(name)?;
        let whole = self.find(&slice.whole)?;
        Some(whole.slice(name, slice.first, &slice.shape))
    }

    /// Makes a slice of a tensor available under `name`.
    ///
    /// # Panics
    /// If the tensor doesn't exist or is too short.
    pub fn add_slice(&mut self, name: String, slice: TensorSlice) {
        let whole = self.find(&slice.whole).expect("the tensor was found");
        let elements = |shape: &[usize]| shape.iter().product::<usize>();
        assert!(slice.first + elements(&slice.shape) <= elements(&whole.shape));
        self.slices.insert(name, slice);
    }

    /// The slice called `name`, if it's one.
    pub fn slice(&self, name: &str) -> Option<&TensorSlice> {
        self.slices.get(name)
    }

    /// The tensor or slice called `name`.
    ///
    /// # Errors
    /// If the checkpoint has none.
    pub fn get(&self, name: &str) -> Result<TensorView<'_>, WeightsError> {
        self.find(name).ok_or_else(|| WeightsError::Missing {
            name: name.to_owned(),
            path: self.path.clone(),
        })
    }
}
