//! The keys and values between runs.

use ort::memory::Allocator;
use ort::value::DynTensor;

use crate::engine::EngineOptions;
use crate::engine::tensors::element_type;
use crate::prepared::{CacheUse, ForeignGraphs};

/// Key and value of each layer in turn.
#[derive(Debug)]
pub enum Cache {
    /// Buffers that are bound as inputs and as outputs.
    Shared(Vec<DynTensor>),
    /// What the last run gave.
    Copied {
        /// The last run's outputs; at the beginning, tensors without rows.
        tensors: Vec<DynTensor>,
        /// Tensors without rows.
        empty: Vec<DynTensor>,
    },
}

impl Cache {
    /// Allocates buffers, or tensors without rows.
    pub fn new(
        graphs: &ForeignGraphs,
        options: &EngineOptions,
        host: &Allocator,
    ) -> ort::Result<Self> {
        let element = element_type(graphs.cache_dtype);
        let make = |length: Option<usize>| -> ort::Result<Vec<DynTensor>> {
            let all = graphs.cache.iter();
            let make = all.map(|one| {
                let rows = length.unwrap_or(one.length.unwrap_or(options.max_length));
                DynTensor::new(
                    host,
                    element,
                    [options.batch_size, one.heads, rows, one.width],
                )
            });
            make.collect()
        };
        Ok(match graphs.facts.cache {
            CacheUse::Shared => Self::Shared(make(None)?),
            CacheUse::Copied => Self::Copied {
                tensors: Vec::new(),
                empty: make(Some(0))?,
            },
        })
    }

    /// Forgets all rows. Shared buffers need nothing: no row is read before it's written.
    pub fn clear(&mut self) {
        if let Self::Copied { tensors, .. } = self {
            tensors.clear();
        }
    }
}
