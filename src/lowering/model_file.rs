//! Reads `model.onnx`, so that a session can be opened from memory.
//!
//! ONNX Runtime refuses external data with an absolute location, or outside the model's folder. If
//! a model is opened from memory with `/` as the folder of its external data, any file can be named
//! by its path relative to the root. Symbolic links, as in a hub cache, are resolved for that.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use prost::Message;
use thiserror::Error;

use crate::graph::ROTARY_LENGTH;
use crate::graph::proto::Model;
use crate::prepared::GRAPH;

/// Why a prepared graph can't be read.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
#[non_exhaustive]
pub enum ModelFileError {
    #[error("cannot read `{}`", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("`{}` is not a graph that this program wrote", path.display())]
    Graph {
        path: PathBuf,
        source: prost::DecodeError,
    },
    #[error(
        "`{}` is shorter than `{}` expects: was the base model changed? prepare the experiment again",
        weights.display(),
        graph.display()
    )]
    Weights { graph: PathBuf, weights: PathBuf },
}

/// The folder that locations of external data are relative to.
pub const ROOT: &str = "/";

/// Reads the graph in `folder`. Locations of its external data become relative to [`ROOT`], and the
/// length of its rotary tables becomes `max_length`.
///
/// # Errors
/// If the graph can't be read, or a file of weights is missing or too short.
pub fn read(folder: &Path, max_length: usize) -> Result<Model, ModelFileError> {
    let path = folder.join(GRAPH);
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |source| ModelFileError::Read { path, source }
    };
    let bytes = fs::read(&path).map_err(unreadable(&path))?;
    let mut model = Model::decode(bytes.as_slice()).map_err(|source| ModelFileError::Graph {
        path: path.clone(),
        source,
    })?;
    let folder = fs::canonicalize(folder).map_err(unreadable(folder))?;
    let mut files: HashMap<PathBuf, (PathBuf, u64)> = HashMap::new();
    for tensor in model
        .graph
        .iter_mut()
        .flat_map(|graph| &mut graph.initializer)
    {
        if tensor.name == ROTARY_LENGTH {
            tensor.raw_data = (max_length as i64).to_le_bytes().to_vec();
        }
        let Some(mut span) = tensor.span(&folder) else {
            continue;
        };
        let (file, size) = match files.get(&span.path) {
            Some(known) => known.clone(),
            None => {
                let file = fs::canonicalize(&span.path).map_err(unreadable(&span.path))?;
                let size = fs::metadata(&file).map_err(unreadable(&file))?.len();
                files.insert(span.path.clone(), (file.clone(), size));
                (file, size)
            }
        };
        if span.offset.saturating_add(span.length) > size {
            return Err(ModelFileError::Weights {
                graph: path,
                weights: file,
            });
        }
        span.path = file;
        tensor.set_span(&span, Path::new(ROOT));
    }
    Ok(model)
}
