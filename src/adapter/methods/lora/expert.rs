//! LoRA adapters that another adapter mixes, each in its own folder: the experts of Arrow and
//! X-LoRA.
//!
//! Both use an expert's factors and scaling only, so an expert with options that change more than
//! these is refused. An expert without tensors is drawn fresh, like any adapter.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use ndarray::Array2;

use super::config::{LoraConfig, is_on};
use super::conversion::converted;
use super::factors::{factors, factors_from_weights};
use super::init::LoraInit;
use crate::adapter::replaced::replace_base_layer;
use crate::adapter::targets::{QUERY_VALUE, Targets};
use crate::adapter::toolbox::tuner::{TargetModule, not_adaptable, target_module};
use crate::adapter::{AdapterError, AdapterTensors, Effects, ValuesFrom};
use crate::json::{ConfigError, JsonObject};
use crate::model::BaseModel;

/// An expert.
#[derive(Debug)]
pub struct Expert {
    /// Its `adapter_config.json`.
    pub config: JsonObject,
    /// Its pairs, by the path of their module.
    pub pairs: BTreeMap<String, Pair>,
    /// Whether it was drawn fresh.
    pub fresh: bool,
    /// Bytes of its tensors; for a fresh one in float32.
    pub stored_bytes: u64,
    /// Notes for the user about how it was loaded.
    pub notes: Vec<String>,
}

/// The factors of one module.
#[derive(Debug, Clone)]
pub struct Pair {
    /// `[r, in_features]`
    pub a: Array2<f32>,
    /// `[out_features, r]`
    pub b: Array2<f32>,
    /// What `B A` is multiplied by.
    pub scaling: f32,
}

/// LoRA options that Arrow and X-LoRA don't support in an expert.
const NOT_TAKEN: [&str; 11] = [
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "modules_to_save",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
];

impl Expert {
    /// Reads the expert in `folder`, or draws it with `seed`; `values` is the choice for the
    /// adapter that mixes it.
    ///
    /// # Errors
    /// If it isn't a plain LoRA adapter for `base`.
    pub fn load(
        folder: &Path,
        base: &BaseModel,
        seed: u64,
        values: ValuesFrom,
    ) -> Result<Self, AdapterError> {
        let config = JsonObject::read(&folder.join("adapter_config.json"))?;
        if config.optional_text("peft_type")? != Some("LORA") {
            return Err(config
                .wrong("peft_type", "`LORA`, which every expert is")
                .into());
        }
        let mut tensors = AdapterTensors::open(folder, &config, seed, values)?;
        let config = converted(&tensors.spell(&config, &base.spec), &base.spec)?;
        for key in NOT_TAKEN {
            if is_on(&config, key) {
                let reason =
                    "a mixture of experts takes their `lora_A`, `lora_B` and scaling alone";
                return Err(config.refused(key, reason).into());
            }
        }
        if !matches!(config.optional_text("bias")?, None | Some("none")) {
            return Err(config.wrong("bias", "`none`, for an expert").into());
        }
        let lora = LoraConfig::read(&config, base.spec.vocab_size)?;
        if matches!(lora.init, LoraInit::Pissa | LoraInit::Olora) {
            let reason = "it changes the base's weights, which all experts share";
            return Err(config.refused("init_lora_weights", reason).into());
        }
        let targets = Targets::with_defaults(&config, &base.spec.model_type, QUERY_VALUE)?;
        let mut pairs = BTreeMap::new();
        // A head's own weight in the file would be replaced here.
        let mut effects = Effects::default();
        let selected = targets.select(&config, &mut tensors, &base.spec.modules())?;
        let mut made = factors_from_weights(&lora, &config, base, &tensors, &selected)?;
        for module in selected {
            let Some(TargetModule::Linear(layer)) = target_module(base, &module) else {
                return Err(not_adaptable(&config, &module, "linear layers"));
            };
            let (r, scaling) = lora.rank_and_scaling(&config, layer.path())?;
            let taken = factors(
                &lora,
                &config,
                &mut tensors,
                &layer,
                r,
                made.remove(layer.path()),
            )?;
            let pair = Pair {
                a: taken.a,
                b: taken.b,
                scaling,
            };
            replace_base_layer(&mut effects, &mut tensors, base, &module)?;
            pairs.insert(module.path, pair);
        }
        if let Some(other) = effects.replaced.values().next() {
            return Err(tensors.layout(format!(
                "tensor `{}` isn't the base's, whose weights all experts share",
                other.key
            )));
        }
        tensors.finish()?;
        let elements: usize = pairs.values().map(Pair::elements).sum();
        Ok(Self {
            fresh: tensors.is_fresh(),
            stored_bytes: tensors.stored_bytes().unwrap_or(4 * elements as u64),
            notes: tensors.notes().to_vec(),
            config,
            pairs,
        })
    }

    /// The number of elements of its factors.
    pub fn elements(&self) -> usize {
        self.pairs.values().map(Pair::elements).sum()
    }
}

impl Pair {
    /// Numbers of its factors.
    pub fn elements(&self) -> usize {
        self.a.len() + self.b.len()
    }
}

/// The folder at `relative`, a path in the option `key`, below the configuration's own folder.
///
/// # Errors
/// If it isn't below that folder.
pub fn folder_below(
    config: &JsonObject,
    key: &str,
    relative: &str,
) -> Result<PathBuf, ConfigError> {
    let path = Path::new(relative);
    let inside = |part: Component| matches!(part, Component::Normal(_) | Component::CurDir);
    if relative.is_empty() || !path.components().all(inside) {
        let reason = format!(
            "`{relative}` isn't below the adapter's own folder; put the expert there and give its path relative to \
             that folder"
        );
        return Err(config.refused(key, &reason));
    }
    let own = config.path().parent().unwrap_or(Path::new("."));
    Ok(own.join(path))
}
