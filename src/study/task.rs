//! The task of an adapter that has several, where one is chosen.

use thiserror::Error;

use crate::adapter::Task;
use crate::prepared::{Manifest, Variant};

/// A task that can't be had.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
#[non_exhaustive]
pub enum TaskError {
    #[error("`--task-id` goes with an adapter, and the variant `base` has none")]
    NoAdapter,
    #[error("`--task-id {chosen}` can't be had: this folder was prepared for task {} of {}", found.id, found.count)]
    OtherTask { chosen: usize, found: Task },
    #[error("`--task-id {0}` can't be had: this folder has no tasks")]
    NoTasks(usize),
}

/// Refuses a task where `variants` holds no variant with an adapter.
///
/// # Errors
/// That.
pub fn check_variants(chosen: Option<usize>, variants: &[Variant]) -> Result<(), TaskError> {
    let adapted = variants.iter().any(|variant| *variant != Variant::Base);
    match chosen {
        Some(_) if !adapted => Err(TaskError::NoAdapter),
        _ => Ok(()),
    }
}

/// Refuses a task where a folder was prepared for something else.
///
/// # Errors
/// That.
pub fn check_prepared(chosen: Option<usize>, manifest: &Manifest) -> Result<(), TaskError> {
    let Some(chosen) = chosen else {
        return Ok(());
    };
    let adapter = manifest.adapter.as_ref();
    match adapter.and_then(|adapter| adapter.task) {
        Some(task) if task.id == chosen => Ok(()),
        Some(found) => Err(TaskError::OtherTask { chosen, found }),
        None => Err(TaskError::NoTasks(chosen)),
    }
}
