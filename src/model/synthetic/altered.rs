//! Synthetic shapes with other keys in their `config.json`, such as fewer layers of the same width.

use std::fs::File;
use std::path::Path;

use safetensors::Dtype;
use serde_json::Value;

use super::{CONFIG, WEIGHTS, find, io_error, shapes, torch_dtype, weights, write_json};
use crate::arch::DecoderSpec;
use crate::model::ModelError;

/// A shape with other keys.
#[derive(Debug)]
pub struct AlteredShape {
    config: Value,
    spec: DecoderSpec,
}

impl AlteredShape {
    /// `shape`, with the changes that `alter` makes to its `config.json`.
    ///
    /// # Errors
    /// If the shape is unknown, or the altered model isn't supported.
    pub fn new(shape: &str, alter: impl FnOnce(&mut Value)) -> Result<Self, ModelError> {
        let shape = find(shape)?;
        let mut config = shape.config("float32");
        alter(&mut config);
        let spec = shapes::spec_of(shape.name, config.clone())?;
        Ok(Self { config, spec })
    }

    /// Its `config.json`.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// Its architecture.
    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// Writes the model with random weights in `dtype` to `folder`, without a tokenizer.
    ///
    /// # Errors
    /// If a file can't be written, or weights can't have this dtype.
    pub fn write(&self, dtype: Dtype, folder: &Path) -> Result<(), ModelError> {
        let mut config = self.config.clone();
        config["torch_dtype"] = torch_dtype(dtype)?.into();
        write_json(&folder.join(CONFIG), &config)?;
        let path = folder.join(WEIGHTS);
        let mut file = File::create(&path).map_err(io_error("create", &path))?;
        let plan = weights::FilePlan::new(shapes::tensors_of(&self.spec), dtype);
        let written = plan.write(&mut file, &|_, _| ());
        Ok(written.map_err(io_error("write", &path))?)
    }
}
