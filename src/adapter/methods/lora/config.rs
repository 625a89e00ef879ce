//! LoRA's configuration.

use ndarray::Array2;

use super::activated::{self, invocation};
use super::arrow::{self, ArrowConfig};
use super::blocks::Blocks;
use super::factors::Stored;
use super::residual::Removed;
use crate::adapter::options::{Factor, Rank};
use crate::adapter::{AdapterError, AdapterTensors, Init};
use crate::json_object::{ConfigError, JsonObject};

/// The options that change inference, but for those of `Targets`.
#[derive(Debug)]
pub struct LoraConfig {
    r: Rank,
    lora_alpha: Factor,
    use_rslora: bool,
    /// Whether `lora_B` has a bias.
    pub lora_bias: bool,
    /// Whether rows are rescaled to a trained magnitude.
    pub use_dora: bool,
    /// Whether a tied pair of embedding and head stays tied.
    pub ensure_weight_tying: bool,
    /// How a fresh adapter starts.
    pub init: LoraInit,
    /// BD-LoRA: which factors are block-diagonal.
    pub blocks: Option<Blocks>,
    /// QALoRA: inputs that share a column of `A`, over GPTQ's weights.
    pub qalora_group: Option<usize>,
    /// KaSA: a diagonal between `B` and `A`, and a base without its smallest components.
    pub kasa: bool,
    /// VeLoRA, which only training differs in.
    pub velora: bool,
    /// MonteCLoRA, which only training differs in: its samples.
    pub monteclora_samples: Option<usize>,
    /// Arrow: routes tokens to other adapters.
    pub arrow: Option<ArrowConfig>,
    /// aLoRA: the tokens from whose last occurrence on the adapter acts.
    pub invocation: Option<Vec<u32>>,
}

/// `init_lora_weights`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoraInit {
    /// `true`: `A` Kaiming uniform, `B = 0`. Also how EVA starts before it has seen data.
    Default,
    /// `gaussian`: `A ~ N(0, 1/r^2)`, `B = 0`.
    Gaussian,
    /// `false`: both as `nn.Linear` starts; not the identity.
    Random,
    /// `orthogonal`: columns of `B` and rows of `A` from disjoint halves of an orthogonal matrix, so
    /// that `B A = 0`.
    Orthogonal,
    /// `pissa`: from the weight's largest components, which are taken out of the weight.
    Pissa,
    /// `olora`: from the weight's QR decomposition, whose part is taken out of the weight.
    Olora,
    /// `mica`: `A = 0`, `B` from the left vectors of the weight's smallest components, and never trained.
    Mica,
}

/// Variants of which PEFT allows one at a time.
const EXCLUSIVE: [&str; 7] = [
    "use_dora",
    arrow::KEY,
    activated::KEY,
    "use_bdlora",
    "velora_config",
    "monteclora_config",
    "kasa_config",
];

/// Whether an option is set to anything.
pub fn is_on(config: &JsonObject, key: &str) -> bool {
    let empty = [serde_json::json!([]), serde_json::json!(false)];
    config.get(key).is_some_and(|value| !empty.contains(value))
}

impl LoraConfig {
    /// Reads the options.
    ///
    /// # Errors
    /// If one is wrong, or isn't implemented.
    pub fn read(config: &JsonObject, vocab_size: usize) -> Result<Self, ConfigError> {
        let init = init(config)?;
        let mut variants = EXCLUSIVE.into_iter().filter(|key| is_on(config, key));
        if let (Some(first), Some(second)) = (variants.next(), variants.next()) {
            let reason = format!("it can't be had together with `{first}`");
            return Err(config.refused(second, &reason));
        }
        let kasa = is_on(config, "kasa_config");
        if kasa && matches!(init, LoraInit::Pissa | LoraInit::Olora | LoraInit::Mica) {
            let reason = "it can't be had together with `init_lora_weights` of another base";
            return Err(config.refused("kasa_config", reason));
        }
        let arrow = ArrowConfig::read(config)?;
        if arrow.is_some() && (init != LoraInit::Default || config.flag("lora_bias", false)?) {
            let reason = "it can't be had together with `lora_bias` or another `init_lora_weights` than the default";
            return Err(config.refused(arrow::KEY, reason));
        }
        let invocation = invocation(config, vocab_size)?;
        if invocation.is_some() && init == LoraInit::Mica {
            let reason = "it can't be had together with `init_lora_weights` `mica`";
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

    /// What's taken out of a linear layer's weight.
    pub fn removed(&self, scaling: f32) -> Option<Removed> {
        match self.init {
            _ if self.kasa => Some(Removed::Smallest),
            LoraInit::Pissa => Some(Removed::Largest),
            LoraInit::Olora => Some(Removed::Orthogonal { scaling }),
            _ => None,
        }
    }
}

fn init(config: &JsonObject) -> Result<LoraInit, ConfigError> {
    const KEY: &str = "init_lora_weights";
    match config.get(KEY).cloned() {
        None | Some(serde_json::Value::Bool(true)) => Ok(LoraInit::Default),
        Some(serde_json::Value::Bool(false)) => Ok(LoraInit::Random),
        Some(serde_json::Value::String(name)) => match name.as_str() {
            "gaussian" => Ok(LoraInit::Gaussian),
            "orthogonal" => Ok(LoraInit::Orthogonal),
            "eva" => Ok(LoraInit::Default),
            "pissa" => Ok(LoraInit::Pissa),
            "olora" => Ok(LoraInit::Olora),
            "mica" => Ok(LoraInit::Mica),
            other => Err(config.refused(
                KEY,
                &format!(
                    "`{other}` belongs to a base that was changed by a random decomposition, by data or by \
                     quantisation, which can't be made again; save the adapter converted to plain LoRA \
                     (`path_initial_model_for_weight_conversion`)"
                ),
            )),
        },
        Some(_) => Err(config.wrong(KEY, "`true`, `false` or a name")),
    }
}

impl LoraInit {
    /// Takes `A` and `B` of a linear layer.
    pub fn linear(
        self,
        tensors: &mut AdapterTensors,
        [key_a, key_b]: [&str; 2],
        stored: Stored,
    ) -> Result<(Array2<f32>, Array2<f32>), AdapterError> {
        let ([r, in_features], [out_features, _]) = (stored.a, stored.b);
        if self == Self::Orthogonal && tensors.is_fresh() {
            return orthogonal(tensors, r, in_features, out_features);
        }
        let [init_a, init_b] = match self {
            _ if stored.blocks_in_a => [
                Init::Uniform((6.0 / in_features as f32).sqrt()),
                Init::Zeros,
            ],
            Self::Gaussian => [Init::Normal(1.0 / r as f32), Init::Zeros],
            Self::Random => [Init::linear_default(in_features), Init::linear_default(r)],
            // Of the last three, fresh factors are made of the weight.
            Self::Default | Self::Orthogonal | Self::Pissa | Self::Olora | Self::Mica => {
                [Init::linear_default(in_features), Init::Zeros]
            }
        };
        let a = tensors.matrix(key_a, stored.a, init_a)?;
        let b = tensors.matrix(key_b, stored.b, init_b)?;
        Ok((a, b))
    }

    /// `lora_B.bias`
    pub fn bias(self, r: usize) -> Init {
        match self {
            Self::Random => Init::linear_default(r),
            _ => Init::Zeros,
        }
    }

    /// `lora_embedding_A`, `lora_embedding_B`
    pub fn embedding(self) -> [Init; 2] {
        match self {
            // `nn.Embedding` and `gaussian` start at random; PEFT zeroes `A` only by default.
            Self::Random => [Init::Normal(1.0), Init::Normal(1.0)],
            _ => [Init::Zeros, Init::Normal(1.0)],
        }
    }
}

/// `Q` orthogonal `[r, r]`: `A = (X · Q[even rows])ᵀ / 10`, `B = Yᵀ · Q[odd rows] / 10`, with normal `X`
/// `[in_features, r/2]` and `Y` `[r/2, out_features]`.
fn orthogonal(
    tensors: &mut AdapterTensors,
    r: usize,
    in_features: usize,
    out_features: usize,
) -> Result<(Array2<f32>, Array2<f32>), AdapterError> {
    if !r.is_multiple_of(2) {
        return Err(AdapterError::Fresh {
            path: tensors.path().to_owned(),
            message: format!("`init_lora_weights` `orthogonal` needs an even rank, not {r}"),
        });
    }
    let half = r / 2;
    let mut draw =
        |rows: usize, columns: usize| tensors.matrix("fresh", [rows, columns], Init::Normal(1.0));
    let q = orthonormal_rows(draw(r, r)?);
    let x = draw(in_features, half)?;
    let y = draw(half, out_features)?;
    let even = q.slice(ndarray::s![0..;2, ..]);
    let odd = q.slice(ndarray::s![1..;2, ..]);
    let a = x.dot(&even).t().mapv(|value| value / 10.0);
    let b = y.t().dot(&odd).mapv(|value| value / 10.0);
    Ok((a, b))
}

/// Gram–Schmidt on the rows.
fn orthonormal_rows(mut q: Array2<f32>) -> Array2<f32> {
    for i in 0..q.nrows() {
        for j in 0..i {
            let overlap = q.row(i).dot(&q.row(j));
            let other = q.row(j).to_owned();
            q.row_mut(i).scaled_add(-overlap, &other);
        }
        let norm = q.row(i).dot(&q.row(i)).sqrt();
        q.row_mut(i).mapv_inplace(|value| value / norm);
    }
    q
}
