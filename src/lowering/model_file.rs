//! Reads `model.onnx`, so that a session can be opened from memory.
//!
//! ONNX Runtime refuses external data with an absolute location, or outside the model's folder. If
//! a model is opened from memory with `/` as the folder of its external data, any file can be named
//! by its path relative to the root. Symbolic links, as in a hub cache, are resolved for that.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use prost::Message;
use thiserror::Error;

use crate::files;
use crate::graph::ROTARY_LENGTH;
use crate::graph::proto::{Model, Tensor, element};
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
    #[error("`{}` is not a graph that this program wrote: {what}", path.display())]
    Malformed { path: PathBuf, what: String },
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
    let bytes = files::read(&path).map_err(unreadable(&path))?;
    let mut model = Model::decode(bytes.as_slice()).map_err(|source| ModelFileError::Graph {
        path: path.clone(),
        source,
    })?;
    if let Some(what) = fault(&model) {
        return Err(ModelFileError::Malformed { path, what });
    }
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

/// Inputs that the nodes of some operators have at least; others have one.
const FEWEST_INPUTS: [(&str, usize); 8] = [
    ("Constant", 0),
    ("MatMul", 2),
    ("FusedMatMul", 2),
    ("MatMulNBits", 3),
    ("MatMulBnb4", 3),
    ("Add", 2),
    ("Mul", 2),
    ("GroupQueryAttention", 7),
];

/// Attributes with the sizes of quantized weights, and the largest that they may be.
const SIZES: [&str; 3] = ["N", "K", "block_size"];
const LARGEST_SIZE: i64 = 1 << 30;

/// What can't be in a graph of this program, and what rewriting one relies on: nodes come after what
/// they take, every value is made once, and weights have as many bytes as their shapes take.
fn fault(model: &Model) -> Option<String> {
    let graph = model.graph.as_ref()?;
    let tensors = graph.initializer.iter().map(|tensor| tensor.name.as_str());
    let inputs = graph.input.iter().map(|input| input.name.as_str());
    let mut known: HashSet<&str> = tensors.chain(inputs).collect();
    // An input that's left out.
    known.insert("");
    for node in &graph.node {
        let operator = &node.op_type;
        let listed = FEWEST_INPUTS.iter().find(|(name, _)| operator == name);
        let fewest = listed.map_or(1, |(_, fewest)| *fewest);
        let about = |what: &str| Some(format!("its node `{}` ({operator}) {what}", node.name));
        if node.input.len() < fewest || node.output.first().is_none_or(String::is_empty) {
            return about("lacks inputs or outputs");
        }
        let sizes = node
            .attribute
            .iter()
            .filter(|one| SIZES.contains(&one.name.as_str()));
        if sizes
            .map(|one| one.i)
            .any(|size| !(0..=LARGEST_SIZE).contains(&size))
        {
            return about("has a size that no weight has");
        }
        if !node
            .input
            .iter()
            .all(|input| known.contains(input.as_str()))
        {
            return about("takes a value that no node before it makes");
        }
        let made = node.output.iter().filter(|output| !output.is_empty());
        if !made.into_iter().all(|output| known.insert(output)) {
            return about("makes a value that's there already");
        }
    }
    let mut tensors = graph.initializer.iter();
    let wrong = tensors.find(|tensor| !has_all_bytes(tensor))?;
    let name = &wrong.name;
    Some(format!(
        "its tensor `{name}` doesn't have the bytes that its shape takes"
    ))
}

/// Whether a tensor in another file has as many bytes as its shape takes.
fn has_all_bytes(tensor: &Tensor) -> bool {
    let (Some(span), Some(bits)) = (tensor.span(Path::new(ROOT)), element_bits(tensor.data_type))
    else {
        return true;
    };
    let elements = tensor.dims.iter().try_fold(1_u64, |product, &side| {
        product.checked_mul(u64::try_from(side).ok()?)
    });
    let bits = elements.and_then(|elements| elements.checked_mul(bits));
    bits.is_some_and(|bits| bits.div_ceil(8) == span.length)
}

/// The bits of an element of a kind that weights have.
fn element_bits(kind: i32) -> Option<u64> {
    match kind {
        element::FLOAT32 | element::INT32 => Some(32),
        element::FLOAT16 | element::BFLOAT16 => Some(16),
        element::UINT8 | element::BOOL => Some(8),
        element::INT64 => Some(64),
        _ => None,
    }
}
