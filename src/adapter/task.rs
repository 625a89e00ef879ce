//! The task of methods that train one adapter for several of them.

use serde::{Deserialize, Serialize};

use super::AdapterError;
use super::toolbox::options::rank;
use crate::json::JsonObject;

/// The task that an adapter was loaded for. PEFT is given it with every call (`task_ids`); here a prepared adapter
/// is of one task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// From 0.
    pub id: usize,
    /// How many the adapter has.
    #[serde(rename = "of")]
    pub count: usize,
}

impl Task {
    /// Task `id` of the number under `key`; the first where none was asked for.
    ///
    /// # Errors
    /// If there are fewer.
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
