//! All methods, by `peft_type`.

use std::path::{Path, PathBuf};

use super::{METHODS, lora, xlora};
use crate::adapter::toolbox::tuner::Loading;
use crate::adapter::{AdapterError, AdapterTensors, Effects};
use crate::json::check::nearest_three;
use crate::json::{ConfigError, JsonObject};
use crate::model::BaseModel;

/// A method that is implemented.
#[derive(Debug, Clone, Copy)]
pub struct Method {
    /// Its `peft_type`.
    pub peft_type: &'static str,
    /// How it changes the base.
    pub class: Class,
    /// Supported variants, for the documentation.
    pub variants: &'static str,
    /// Options and variants that are refused, and why, for the documentation.
    pub refused: &'static str,
    pub(super) load: fn(Loading) -> Result<Effects, AdapterError>,
}

/// How a method changes the base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Its change can be merged into the weights of the modules that it targets.
    Weight,
    /// It replaces other parameters: norms, biases, rows of the embedding.
    Parameter,
    /// It adds something that can't be merged into a weight.
    Unmergeable,
}

impl Class {
    /// Whether there's a merged variant.
    pub fn merges(self) -> bool {
        self != Self::Unmergeable
    }

    /// `A`, `B` or `C`.
    pub fn letter(self) -> char {
        match self {
            Self::Weight => 'A',
            Self::Parameter => 'B',
            Self::Unmergeable => 'C',
        }
    }
}

/// The `peft_type` of each of [`METHODS`].
pub const PEFT_TYPES: [&str; METHODS.len()] = {
    let mut names = [""; METHODS.len()];
    let mut index = 0;
    while index < names.len() {
        names[index] = METHODS[index].peft_type;
        index += 1;
    }
    names
};

/// The method of an `adapter_config.json`.
///
/// # Errors
/// If its `peft_type` is missing or not supported.
pub fn method(config: &JsonObject) -> Result<&'static Method, ConfigError> {
    let expected = "a method that `peft-bench methods` lists, such as `LORA`";
    let found = config
        .optional_text("peft_type")?
        .ok_or_else(|| config.missing("peft_type", expected))?;
    let known = METHODS.iter().find(|method| method.peft_type == found);
    known.copied().ok_or_else(|| ConfigError::Unknown {
        path: config.path().to_owned(),
        key: "peft_type",
        found: found.to_owned(),
        nearest: nearest_three(found, &PEFT_TYPES),
        listing: "methods",
    })
}

/// The `peft_type` of an `adapter_config.json`.
///
/// # Errors
/// If it's missing or not supported.
pub fn peft_type(config: &JsonObject) -> Result<&'static str, ConfigError> {
    Ok(method(config)?.peft_type)
}

/// Loads an adapter with its method's loader.
pub fn load(
    config: &JsonObject,
    base: &BaseModel,
    tensors: &mut AdapterTensors,
    task_id: Option<usize>,
) -> Result<Effects, AdapterError> {
    // `task_type` may have any value: only the adapter's tensors matter.
    config.optional_text("task_type")?;
    // For prompt learning, an encoder-decoder model would have 2.
    let submodules = config.optional_size("num_transformer_submodules")?;
    if submodules.unwrap_or(1) != 1 {
        let expected = "1, for a decoder";
        return Err(config.wrong("num_transformer_submodules", expected).into());
    }
    let effects = (method(config)?.load)(Loading {
        config,
        base,
        tensors,
        task_id,
    })?;
    match (effects.task, task_id) {
        (None, Some(id)) => Err(AdapterError::NoTasks {
            id,
            peft_type: peft_type(config)?,
            path: config.path().to_owned(),
        }),
        _ => Ok(effects),
    }
}

/// The folders of the experts of the adapter in `folder`. None if its configuration can't be read;
/// loading it reports that error.
pub fn expert_folders(folder: &Path) -> Vec<PathBuf> {
    let config = JsonObject::read(&folder.join("adapter_config.json"));
    let folders = config.and_then(|config| match config.optional_text("peft_type")? {
        Some("XLORA") => xlora::folders(&config),
        _ => lora::arrow_folders(&config),
    });
    folders.unwrap_or_default()
}

/// Whether the configuration at `path` names experts.
pub fn names_experts(path: &Path) -> bool {
    let config = JsonObject::read(path);
    config.is_ok_and(|config| {
        let mixes = |key: &str| config.get(key).is_some();
        mixes("arrow_config") || config.get("peft_type").is_some_and(|name| name == "XLORA")
    })
}
