//! What a command's argument names: an experiment, a prepared folder, or a Hugging Face checkpoint.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::experiment::Experiment;
use crate::model::ModelId;
use crate::prepared::{Manifest, Variant};

/// What a command's argument names.
#[derive(Debug)]
pub enum Target {
    /// An adapter.
    Experiment(Experiment),
    /// A folder of `exported_models`: one with variants below it, or one variant.
    Prepared(PathBuf),
    /// A base model's or a merged checkpoint's folder.
    Checkpoint(ModelId),
}

impl Target {
    /// Looks at what's there.
    ///
    /// # Errors
    /// If it's none of the three.
    pub fn find(path: &Path) -> Result<Self> {
        let has = |name: &str| path.join(name).is_file();
        if has("adapter_config.json") {
            return Ok(Self::Experiment(Experiment::find(path)?));
        }
        let variants = [Variant::Base, Variant::Merged, Variant::Unmerged];
        let manifest = |variant: &Variant| path.join(variant.name()).join(Manifest::FILE).is_file();
        if has(Manifest::FILE) || variants.iter().any(manifest) {
            return Ok(Self::Prepared(path.to_owned()));
        }
        if has("config.json") {
            return Ok(Self::Checkpoint(ModelId::Local(path.to_owned())));
        }
        Ok(Self::Experiment(Experiment::find(path)?))
    }
}
