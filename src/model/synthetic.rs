//! `synthetic/<shape>`: a folder in Hugging Face layout with the real architecture and sizes of a
//! known model, and seeded random weights.
//!
//! Time and memory of a dense decoder don't depend on the values of its weights, so such a folder
//! shows what an adapter would cost on that model, without a download or a licence to accept. It's
//! made on first use, under a lock and a temporary name, and kept:
//!
//! ```text
//! <cache>/synthetic/llama-135m-float32-v2/
//!     config.json  model.safetensors  tokenizer.json  tokenizer_config.json
//! ```

mod altered;
mod shapes;
mod tokenizer;
mod weights;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde_json::Value;
use thiserror::Error;

use crate::arch::Shape;
use crate::json::check::nearest_three;
pub use altered::AlteredShape;
pub use shapes::shapes;

/// Part of every folder's name. Increase it whenever a shape, the generator or the tokenizer's text
/// changes, so that no older folder is reused.
pub const VERSION: &str = "v2";

/// Space reserved for the small files and the file system's metadata.
const SPACE_MARGIN_BYTES: u64 = 8 << 20;

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// Why a synthetic model can't be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SyntheticError {
    /// There's no shape of that name.
    #[error(
        "unknown synthetic shape `{shape}`; did you mean {nearest}? `peft-bench models` lists all"
    )]
    UnknownShape {
        /// The requested name.
        shape: String,
        /// The most similar shapes, in words.
        nearest: String,
    },

    /// Weights can't be made in this dtype.
    #[error("synthetic weights cannot be `{dtype:?}`, only `F32`, `F16` or `BF16`")]
    Dtype {
        /// The requested dtype.
        dtype: Dtype,
    },

    /// The disk is too full.
    #[error(
        "{} needs {needed_mib} MiB, but only {available_mib} MiB are free on its disk",
        path.display()
    )]
    Space {
        /// The folder to be made.
        path: PathBuf,
        /// Space needed, in MiB.
        needed_mib: u64,
        /// Space available to this user, in MiB.
        available_mib: u64,
    },

    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },

    /// An existing folder is incomplete.
    #[error(
        "{} is damaged: {file} has {found_bytes} bytes, expected {expected}; delete the folder to have it made again",
        path.display()
    )]
    Damaged {
        /// The folder.
        path: PathBuf,
        /// The file in it.
        file: &'static str,
        /// Its size; 0 if it's absent.
        found_bytes: u64,
        /// The expected size.
        expected: String,
    },

    /// The tokenizer can't be trained or serialized.
    #[error("cannot make a tokenizer for {}", path.display())]
    Tokenizer {
        /// The folder to be made.
        path: PathBuf,
        /// The cause, from the `tokenizers` crate.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The folder of the synthetic model `shape` with weights of `dtype`; it's made below `cache` if it
/// doesn't exist. Equal arguments give equal bytes, on any machine and with any number of threads.
///
/// `progress` receives the bytes of weights written so far and in total; it isn't called if the
/// folder exists. A second process that wants the same folder waits.
///
/// # Errors
/// If the shape is unknown, `dtype` isn't `F32`, `F16` or `BF16`, the disk is full, a file can't be
/// written, or an existing folder is incomplete.
pub fn materialize(
    shape: &str,
    dtype: Dtype,
    cache: &Path,
    progress: &dyn Fn(u64, u64),
) -> Result<PathBuf, SyntheticError> {
    make(find(shape)?, dtype, cache, progress)
}

fn make(
    shape: &Shape,
    dtype: Dtype,
    cache: &Path,
    progress: &dyn Fn(u64, u64),
) -> Result<PathBuf, SyntheticError> {
    let name = format!("{}-{}-{VERSION}", shape.name, torch_dtype(dtype)?);
    let root = cache.join("synthetic");
    let folder = root.join(&name);
    let weights = weights::FilePlan::new(shape.tensors(), dtype);
    if folder.exists() {
        return check_whole(folder, &weights);
    }

    fs::create_dir_all(&root).map_err(io_error("create", &root))?;
    let lock_path = root.join(format!(".{name}.lock"));
    let lock = File::create(&lock_path).map_err(io_error("create", &lock_path))?;
    lock.lock().map_err(io_error("lock", &lock_path))?;
    if folder.exists() {
        return check_whole(folder, &weights);
    }

    let partial = root.join(format!(".{name}.partial"));
    if partial.exists() {
        // An interrupted run left it: this process holds the lock now.
        fs::remove_dir_all(&partial).map_err(io_error("remove", &partial))?;
    }
    check_space(&folder, weights.file_bytes(), available_bytes(&root)?)?;
    fs::create_dir(&partial).map_err(io_error("create", &partial))?;
    let written = write_files(shape, dtype, &weights, &partial, progress)
        .and_then(|()| fs::rename(&partial, &folder).map_err(io_error("create", &folder)));
    if let Err(error) = written {
        // The first error is more informative than one from cleaning up.
        let _ = fs::remove_dir_all(&partial);
        return Err(error);
    }
    Ok(folder)
}

/// Makes `shape` in `folder` without values and tokenizer, where only architecture and dtypes
/// matter. It takes almost no disk space.
///
/// # Errors
/// If the shape is unknown, or a file can't be written.
pub fn make_hollow(shape: &str, folder: &Path) -> Result<(), SyntheticError> {
    let shape = find(shape)?;
    write_json(&folder.join(CONFIG), &shape.config("float16"))?;
    let path = folder.join(WEIGHTS);
    let mut file = File::create(&path).map_err(io_error("create", &path))?;
    let plan = weights::FilePlan::new(shape.tensors(), Dtype::F16);
    plan.write_hollow(&mut file)
        .map_err(io_error("write", &path))
}

fn find(shape: &str) -> Result<&'static Shape, SyntheticError> {
    let found = shapes().find(|candidate| candidate.name == shape);
    found.ok_or_else(|| {
        let names: Vec<&str> = shapes().map(|shape| shape.name).collect();
        SyntheticError::UnknownShape {
            shape: shape.to_owned(),
            nearest: nearest_three(shape, &names),
        }
    })
}

fn write_files(
    shape: &Shape,
    dtype: Dtype,
    weights: &weights::FilePlan,
    folder: &Path,
    progress: &dyn Fn(u64, u64),
) -> Result<(), SyntheticError> {
    write_json(&folder.join(CONFIG), &shape.config(torch_dtype(dtype)?))?;
    let context_length = shape.spec().max_position_embeddings as u64;
    write_json(
        &folder.join(TOKENIZER_CONFIG),
        &tokenizer::config(context_length),
    )?;

    let tokenizer = tokenizer::train()
        .and_then(|tokenizer| tokenizer.to_string(false))
        .map_err(|source| SyntheticError::Tokenizer {
            path: folder.to_owned(),
            source,
        })?;
    let path = folder.join(TOKENIZER);
    fs::write(&path, tokenizer).map_err(io_error("write", &path))?;

    let path = folder.join(WEIGHTS);
    let mut file = File::create(&path).map_err(io_error("create", &path))?;
    weights
        .write(&mut file, progress)
        .map_err(io_error("write", &path))
}

fn write_json(path: &Path, value: &Value) -> Result<(), SyntheticError> {
    fs::write(path, format!("{value:#}\n")).map_err(io_error("write", path))
}

/// Returns the folder if its weights have the full size and the other files exist.
fn check_whole(folder: PathBuf, weights: &weights::FilePlan) -> Result<PathBuf, SyntheticError> {
    let size = |file| fs::metadata(folder.join(file)).map_or(0, |metadata| metadata.len());
    let expected_bytes = weights.file_bytes();
    let damage = if size(WEIGHTS) != expected_bytes {
        Some((WEIGHTS, expected_bytes.to_string()))
    } else {
        [CONFIG, TOKENIZER, TOKENIZER_CONFIG]
            .into_iter()
            .find(|file| size(file) == 0)
            .map(|file| (file, "some".to_owned()))
    };
    match damage {
        None => Ok(folder),
        Some((file, expected)) => Err(SyntheticError::Damaged {
            found_bytes: size(file),
            path: folder,
            file,
            expected,
        }),
    }
}

fn available_bytes(folder: &Path) -> Result<u64, SyntheticError> {
    let disk = rustix::fs::statvfs(folder)
        .map_err(|errno| io_error("read the free space of", folder)(errno.into()))?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

fn check_space(folder: &Path, file_bytes: u64, available: u64) -> Result<(), SyntheticError> {
    let needed = file_bytes + SPACE_MARGIN_BYTES;
    if needed <= available {
        return Ok(());
    }
    Err(SyntheticError::Space {
        path: folder.to_owned(),
        needed_mib: needed.div_ceil(1 << 20),
        available_mib: available >> 20,
    })
}

/// PyTorch's name of a dtype, as in `config.json`.
fn torch_dtype(dtype: Dtype) -> Result<&'static str, SyntheticError> {
    match dtype {
        Dtype::F32 => Ok("float32"),
        Dtype::F16 => Ok("float16"),
        Dtype::BF16 => Ok("bfloat16"),
        _ => Err(SyntheticError::Dtype { dtype }),
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SyntheticError {
    let path = path.to_owned();
    move |source| SyntheticError::Io {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests;
