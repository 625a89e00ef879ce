//! LoRA's configuration.

use super::activated::{self, invocation};
use super::arrow_config::{self, ArrowConfig};
use super::block_diagonal::Blocks;
use super::init::LoraInit;
use super::residual::Removed;
use crate::adapter::toolbox::options::{Factor, Rank};
use crate::json::{ConfigError, JsonObject};

/// The options that change inference, except those of `Targets`.
#[derive(Debug)]
pub struct LoraConfig {
    r: Rank,
    lora_alpha: Factor,
    use_rslora: bool,
    /// Whether `lora_B` has a bias.
    pub lora_bias: bool,
    /// DoRA: whether rows are rescaled to a trained magnitude.
    pub use_dora: bool,
    /// Whether a tied embedding and head must stay tied.
    pub ensure_weight_tying: bool,
    /// How a fresh adapter is initialised.
    pub init: LoraInit,
    /// BD-LoRA: which factors are block-diagonal.
    pub blocks: Option<Blocks>,
    /// QALoRA: the number of inputs that share a column of `A`. Only for GPTQ weights.
    pub qalora_group: Option<usize>,
    /// KaSA: a diagonal matrix between `B` and `A`, and a base without its smallest components.
    pub kasa: bool,
    /// VeLoRA, which differs from LoRA in training only.
    pub velora: bool,
    /// MonteCLoRA, which differs from LoRA in training only: the number of its samples.
    pub monteclora_samples: Option<usize>,
    /// Arrow: routes tokens to other adapters.
    pub arrow: Option<ArrowConfig>,
    /// aLoRA: the adapter acts from the last occurrence of these tokens in the prompt on.
    pub invocation: Option<Vec<u32>>,
}

/// Variants that PEFT doesn't combine.
const EXCLUSIVE: [&str; 7] = [
    "use_dora",
    arrow_config::KEY,
    activated::KEY,
    "use_bdlora",
    "velora_config",
    "monteclora_config",
    "kasa_config",
];

/// Whether an option is set.
pub fn is_on(config: &JsonObject, key: &str) -> bool {
    let empty = [serde_json::json!([]), serde_json::json!(false)];
    config.get(key).is_some_and(|value| !empty.contains(value))
}

impl LoraConfig {
    /// Reads the options.
    ///
    /// # Errors
    /// If one is wrong or not implemented.
    pub fn read(config: &JsonObject, vocab_size: usize) -> Result<Self, ConfigError> {
        let init = LoraInit::read(config)?;
        let mut variants = EXCLUSIVE.into_iter().filter(|key| is_on(config, key));
        if let (Some(first), Some(second)) = (variants.next(), variants.next()) {
            let reason = format!("it can't be combined with `{first}`");
            return Err(config.refused(second, &reason));
        }
        let kasa = is_on(config, "kasa_config");
        if kasa && matches!(init, LoraInit::Pissa | LoraInit::Olora | LoraInit::Mica) {
            let reason = "it can't be combined with `init_lora_weights` `pissa`, `olora` or `mica`";
            return Err(config.refused("kasa_config", reason));
        }
        let arrow = ArrowConfig::read(config)?;
        if arrow.is_some() && (init != LoraInit::Default || config.flag("lora_bias", false)?) {
            let reason = "it can't be combined with `lora_bias`, or with `init_lora_weights` other than the default";
            return Err(config.refused(arrow_config::KEY, reason));
        }
        let invocation = invocation(config, vocab_size)?;
        if invocation.is_some() && init == LoraInit::Mica {
            let reason = "it can't be combined with `init_lora_weights` `mica`";
            return Err(config.refused(activated::KEY, reason));
        }
        let monteclora_samples = match config.optional_object("monteclora_config")? {
            Some(object) => Some(object.optional_size("num_samples")?.unwrap_or(8)),
            None => None,
        };
        let group = config.optional_size("qalora_group_size")?.unwrap_or(16);
        Ok(Self {
            r: Rank::read(config, 8)?,
            lora_alpha: Factor::read(config, "lora_alpha", 8.0, "alpha_pattern")?,
            use_rslora: config.flag("use_rslora", false)?,
            lora_bias: config.flag("lora_bias", false)?,
            use_dora: config.flag("use_dora", false)?,
            ensure_weight_tying: config.flag("ensure_weight_tying", false)?,
            init,
            blocks: Blocks::read(config)?,
            qalora_group: config.flag("use_qalora", false)?.then_some(group),
            kasa,
            velora: is_on(config, "velora_config"),
            monteclora_samples,
            arrow,
            invocation,
        })
    }

    /// Rank and scaling of the module at `path`.
    ///
    /// # Errors
    /// If a pattern can't be matched.
    pub fn rank_and_scaling(
        &self,
        config: &JsonObject,
        path: &str,
    ) -> Result<(usize, f32), ConfigError> {
        let r = self.r.of(config, path)?;
        let alpha = self.lora_alpha.of(config, path)?;
        let divisor = if self.use_rslora {
            (r as f64).sqrt()
        } else {
            r as f64
        };
        Ok((r, (alpha / divisor) as f32))
    }

    /// The part that's taken out of a linear layer's weight.
    pub fn removed(&self, scaling: f32) -> Option<Removed> {
        match self.init {
            _ if self.kasa => Some(Removed::Smallest),
            LoraInit::Pissa => Some(Removed::Largest),
            LoraInit::Olora => Some(Removed::Orthogonal { scaling }),
            _ => None,
        }
    }
}
