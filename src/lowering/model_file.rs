//! Reads `model.onnx` for a session that's opened from memory.
//!
//! ONNX Runtime refuses external data outside the model's own folder, absolute locations and `..`. Read
//! from memory, with `/` as the folder of the external data, any file can be named: by its path below
//! the root. That also looks through the symbolic links of a hub cache.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use prost::Message;
use thiserror::Error;

use crate::graph::ROTARY_LENGTH;
use crate::graph::proto::Model;
use crate::prepared::GRAPH;

/// A prepared graph that can't be opened.
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

/// The folder that locations are relative to, for the session's options.
pub const ROOT: &str = "/";

/// The graph of `folder`, with locations below [`ROOT`] and rotary tables of `max_length` positions.
///
/// # Errors
/// If a file can't be read, or the graph's weights aren't where it says.
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
