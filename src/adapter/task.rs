//! The task of an adapter that was trained for several.

use serde::{Deserialize, Serialize};

use super::AdapterError;
use super::toolbox::options::rank;
use crate::json::JsonObject;

/// The task that an adapter is loaded for. PEFT takes it with every call (`task_ids`); here an
/// adapter is prepared for one task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Counted from 0.
    pub id: usize,
    /// The number of the adapter's tasks.
    #[serde(rename = "of")]
    pub count: usize,
}

impl Task {
    /// Task `id` of the number under `key`; the first if `id` is `None`.
    ///
    /// # Errors
    /// If there are fewer tasks.
    pub fn choose(
        config: &JsonObject,
        key: &'static str,
        id: Option<usize>,
    ) -> Result<Self, AdapterError> {
        let count = rank(config, key, 1)?;
        let id = id.unwrap_or(0);
        if id >= count {
            return Err(AdapterError::TaskId {
                id,
                path: config.path().to_owned(),
                key,
                count,
            });
        }
        Ok(Self { id, count })
    }
}
