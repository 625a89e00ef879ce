//! `arrow_config`: the adapters that a router sends tokens to, and how.

use std::collections::BTreeSet;

use crate::adapter::toolbox::options::{factor, seed};
use crate::json::{ConfigError, JsonObject};

/// The key in the configuration.
pub const KEY: &str = "arrow_config";

/// `arrow_config`
#[derive(Debug)]
pub struct ArrowConfig {
    /// `task_adapter_names`: the experts.
    pub tasks: Vec<String>,
    /// `gks_adapter_names` of `use_gks`: the general adapters.
    pub general: Vec<String>,
    /// The number of experts for each token.
    pub top_k: usize,
    /// Similarities are divided by it.
    pub temperature: f32,
    /// `rng_seed`: the seed of the prototypes' power iteration.
    pub seed: u64,
}

impl ArrowConfig {
    /// Reads the option, if it's present.
    ///
    /// # Errors
    /// If one of its values is wrong.
    pub fn read(config: &JsonObject) -> Result<Option<Self>, ConfigError> {
        let Some(object) = config.optional_object(KEY)? else {
            return Ok(None);
        };
        let names = |key: &str| {
            let names = object.optional_texts(key)?.unwrap_or_default();
            let mut seen = BTreeSet::new();
            match names.iter().find(|name| !seen.insert(name.as_str())) {
                Some(_) => Err(object.wrong(key, "names that differ from each other")),
                None => Ok(names),
            }
        };
        let tasks = names("task_adapter_names")?;
        if tasks.is_empty() {
            let expected = "the names of the experts, `task_0` and so on";
            return Err(match object.get("task_adapter_names") {
                None => object.missing("task_adapter_names", expected),
                Some(_) => object.wrong("task_adapter_names", expected),
            });
        }
        let general = match object.flag("use_gks", false)? {
            true => names("gks_adapter_names")?,
            false => Vec::new(),
        };
        if general.is_empty() && object.flag("use_gks", false)? {
            let expected = "the names of the general adapters, `gks_0` and so on, for `use_gks`";
            return Err(object.missing("gks_adapter_names", expected));
        }
        let top_k = object.optional_size("top_k")?.unwrap_or(3);
        if top_k > tasks.len() {
            let expected = format!("at most {}, the number of experts", tasks.len());
            return Err(object.wrong("top_k", &expected));
        }
        let temperature = factor(&object, "router_temperature", 1.0)? as f32;
        if temperature <= 0.0 {
            return Err(object.wrong("router_temperature", "a positive number that float32 holds"));
        }
        Ok(Some(Self {
            tasks,
            general,
            top_k,
            temperature,
            seed: seed(&object, "rng_seed", 0)?,
        }))
    }
}
