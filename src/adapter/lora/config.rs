//! LoRA's configuration.

use ndarray::Array2;

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
}

/// Options whose arithmetic isn't implemented.
const REFUSED: [&str; 8] = [
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "target_parameters",
    "use_bdlora",
    "use_qalora",
    "velora_config",
];

impl LoraConfig {
    /// Reads the options; `fresh` where there are no trained tensors.
    pub fn read(config: &JsonObject, fresh: bool) -> Result<Self, ConfigError> {
        for key in REFUSED {
            let off = matches!(config.get(key), None | Some(serde_json::Value::Bool(false)))
                || config.get(key).is_some_and(|v| *v == serde_json::json!([]));
            if !off {
                return Err(config.refused(key, "this variant of LoRA is not implemented"));
            }
        }
        Ok(Self {
            r: Rank::read(config, 8)?,
            lora_alpha: Factor::read(config, "lora_alpha", 8.0, "alpha_pattern")?,
            use_rslora: config.flag("use_rslora", false)?,
            lora_bias: config.flag("lora_bias", false)?,
            use_dora: config.flag("use_dora", false)?,
            ensure_weight_tying: config.flag("ensure_weight_tying", false)?,
            init: init(config, fresh)?,
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
}

fn init(config: &JsonObject, fresh: bool) -> Result<LoraInit, ConfigError> {
    const KEY: &str = "init_lora_weights";
    match config.get(KEY).cloned() {
        None | Some(serde_json::Value::Bool(true)) => Ok(LoraInit::Default),
        Some(serde_json::Value::Bool(false)) => Ok(LoraInit::Random),
        Some(serde_json::Value::String(name)) => match name.as_str() {
            "gaussian" => Ok(LoraInit::Gaussian),
            "orthogonal" => Ok(LoraInit::Orthogonal),
            "eva" => Ok(LoraInit::Default),
            // Trained, it's plain LoRA; fresh, `B` comes from the base's singular vectors.
            "mica" if !fresh => Ok(LoraInit::Default),
            other => Err(config.refused(
                KEY,
                &format!(
                    "`{other}` changes the base's weights or needs its decomposition, which is not \
                     implemented; save the adapter converted to plain LoRA \
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
        r: usize,
        in_features: usize,
        out_features: usize,
    ) -> Result<(Array2<f32>, Array2<f32>), AdapterError> {
        let shapes = [[r, in_features], [out_features, r]];
        if self == Self::Orthogonal && tensors.is_fresh() {
            return orthogonal(tensors, r, in_features, out_features);
        }
        let [init_a, init_b] = match self {
            Self::Default | Self::Orthogonal => [Init::linear_default(in_features), Init::Zeros],
            Self::Gaussian => [Init::Normal(1.0 / r as f32), Init::Zeros],
            Self::Random => [Init::linear_default(in_features), Init::linear_default(r)],
        };
        let a = tensors.matrix(key_a, shapes[0], init_a)?;
        let b = tensors.matrix(key_b, shapes[1], init_b)?;
        Ok((a, b))
    }

    /// `lora_B.bias`
    pub fn bias(self, r: usize) -> Init {
        match self {
            Self::Random => Init::linear_default(r),
            Self::Default | Self::Gaussian | Self::Orthogonal => Init::Zeros,
        }
    }

    /// `lora_embedding_A`, `lora_embedding_B`
    pub fn embedding(self) -> [Init; 2] {
        match self {
            // `nn.Embedding` and `gaussian` start at random; PEFT zeroes `A` only by default.
            Self::Random => [Init::Normal(1.0), Init::Normal(1.0)],
            Self::Default | Self::Gaussian | Self::Orthogonal => [Init::Zeros, Init::Normal(1.0)],
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
