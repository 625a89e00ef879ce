//! `init_lora_weights`: how a fresh adapter is initialised.

use ndarray::Array2;
use serde_json::Value;

use crate::adapter::{AdapterError, AdapterTensors, Init};
use crate::json::{ConfigError, JsonObject};

/// `init_lora_weights`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoraInit {
    /// `true`: `A` Kaiming uniform, `B = 0`. EVA starts like this before it has seen data.
    Default,
    /// `gaussian`: `A ~ N(0, 1/r^2)`, `B = 0`.
    Gaussian,
    /// `false`: both as in `nn.Linear`, so the adapter changes the base.
    Random,
    /// `orthogonal`: the columns of `B` and the rows of `A` come from disjoint halves of an
    /// orthogonal matrix, so `B A = 0`.
    Orthogonal,
    /// `pissa`: from the weight's largest singular components, which are taken out of the weight.
    Pissa,
    /// `olora`: from the weight's QR decomposition; this part is taken out of the weight.
    Olora,
    /// `mica`: `A = 0`, and `B`, never trained, from the left singular vectors of the weight's
    /// smallest components.
    Mica,
}

/// The stored shapes of `A` and `B`.
#[derive(Debug, Clone, Copy)]
pub struct StoredShapes {
    /// `[r, in_features]`, or fewer columns.
    pub a: [usize; 2],
    /// `[out_features, r]`, or fewer columns.
    pub b: [usize; 2],
    /// Whether `A` holds blocks, which are drawn from another range.
    pub blocks_in_a: bool,
}

impl LoraInit {
    /// Reads the option.
    ///
    /// # Errors
    /// If it's none of these.
    pub fn read(config: &JsonObject) -> Result<Self, ConfigError> {
        const KEY: &str = "init_lora_weights";
        let name = match config.get(KEY) {
            None | Some(Value::Bool(true)) => return Ok(Self::Default),
            Some(Value::Bool(false)) => return Ok(Self::Random),
            Some(Value::String(name)) => name.as_str(),
            Some(_) => return Err(config.wrong(KEY, "`true`, `false` or a name")),
        };
        Ok(match name {
            "gaussian" => Self::Gaussian,
            "orthogonal" => Self::Orthogonal,
            "eva" => Self::Default,
            "pissa" => Self::Pissa,
            "olora" => Self::Olora,
            "mica" => Self::Mica,
            other => {
                let reason = format!(
                    "`{other}` belongs to a base that was changed by a random decomposition, by data or by \
                     quantisation, which can't be made again; save the adapter converted to plain LoRA \
                     (`path_initial_model_for_weight_conversion`)"
                );
                return Err(config.refused(KEY, &reason));
            }
        })
    }

    /// Reads `A` and `B` of a linear layer, or draws them.
    pub fn linear(
        self,
        tensors: &mut AdapterTensors,
        [key_a, key_b]: [&str; 2],
        stored: StoredShapes,
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
            // Fresh factors of the last three are computed from the weight.
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
            // PEFT leaves both as they were drawn here; otherwise it zeroes `A`. Fresh factors of
            // MiCA are computed from the weight.
            Self::Random => [Init::Normal(1.0), Init::Normal(1.0)],
            _ => [Init::Zeros, Init::Normal(1.0)],
        }
    }
}

/// With an orthogonal `Q`, `[r, r]`: `A = (X · Q[even rows])ᵀ / 10`, `B = Yᵀ · Q[odd rows] / 10`,
/// with normal `X`, `[in_features, r/2]`, and `Y`, `[r/2, out_features]`.
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

/// Gram–Schmidt orthogonalisation of the rows.
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
