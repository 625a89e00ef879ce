//! C3A: the weight gains circulant blocks, `W'[m b + k, n b + j] += w[m, n, (j − k) mod b] / in_features`.
//!
//! | tensor | shape |
//! |---|---|
//! | `c3a_kernel` | `[out_features / b, in_features / b, b]` |
//!
//! `block_size` `b` divides both sizes; `block_size_pattern` changes it by module. PEFT convolves with the
//! Fourier transform in float32; the same numbers are added here directly.
//!
//! Sources: Chen et al., arXiv:2407.19342; PEFT, `tuners/c3a/`.

use ndarray::{Array2, Array3};

use super::default_targets::SPECTRAL;
use super::dense::changed_weight;
use super::form::Form;
use super::options::rank;
use super::targets::ValuePattern;
use super::tuner::{Loading, Tuner};
use super::{AdapterError, Effects, Init, ModuleAdapter, ModuleWeights};
use crate::json_object::{ConfigError, JsonObject};

/// The kernels of one layer, `[out_features / b, in_features / b, b]`.
#[derive(Debug)]
struct C3a(Array3<f32>);

/// How a fresh adapter starts.
#[derive(Debug, Clone, Copy)]
enum Start {
    Zeros,
    Gaussian,
    Kaiming,
    Xavier,
}

impl Start {
    fn read(config: &JsonObject) -> Result<Self, ConfigError> {
        match config.get("init_weights") {
            None | Some(serde_json::Value::Bool(false)) => Ok(Self::Xavier),
            Some(serde_json::Value::Bool(true)) => Ok(Self::Zeros),
            Some(serde_json::Value::String(name)) if name == "xavier_uniform" => Ok(Self::Xavier),
            Some(serde_json::Value::String(name)) if name == "gaussian" => Ok(Self::Gaussian),
            Some(serde_json::Value::String(name)) if name == "kaiming_uniform" => Ok(Self::Kaiming),
            Some(_) => {
                let expected = "`true`, `false`, `gaussian`, `kaiming_uniform` or `xavier_uniform`";
                Err(config.wrong("init_weights", expected))
            }
        }
    }

    fn init(self, out_features: usize, in_features: usize) -> Init {
        match self {
            Self::Zeros => Init::Zeros,
            Self::Gaussian => Init::Normal(1.0),
            Self::Kaiming => Init::linear_default(in_features),
            Self::Xavier => Init::Uniform((6.0 / (in_features + out_features) as f32).sqrt()),
        }
    }
}

/// Reads the adapter.
pub fn load(loading: Loading) -> Result<Effects, AdapterError> {
    let config = loading.config;
    let block_size = rank(config, "block_size", 256)?;
    let pattern =
        ValuePattern::read_below(config, "block_size_pattern", "a positive integer", |size| {
            size.fract() == 0.0 && size < 1e9
        })?;
    let start = Start::read(config)?;
    Tuner::open(loading, SPECTRAL, Some("c3a_only"))?.adapt(|tensors, layer| {
        let (rows, columns) = (layer.out_features, layer.in_features);
        let own = pattern.get(config, layer.path())?;
        let size = own.map_or(block_size, |size| size as usize);
        if !rows.is_multiple_of(size) || !columns.is_multiple_of(size) {
            let key = if own.is_some() {
                "block_size_pattern"
            } else {
                "block_size"
            };
            let path = layer.path();
            let expected = format!("a divisor of {rows} and {columns}, the sizes of `{path}`");
            return Err(config.wrong(key, &expected).into());
        }
        let shape = [rows / size, columns / size, size];
        let init = start.init(rows, columns);
        Ok(C3a(tensors.cube(&layer.key("c3a_kernel"), shape, init)?))
    })
}

impl C3a {
    fn add_to(&self, weight: &mut Array2<f32>) {
        let (_, blocks, size) = self.0.dim();
        let scaling = (blocks * size) as f32;
        for ((row, column), value) in weight.indexed_iter_mut() {
            let (k, j) = (row % size, column % size);
            *value += self.0[[row / size, column / size, (size + j - k) % size]] / scaling;
        }
    }
}

impl ModuleAdapter for C3a {
    fn form(&self) -> Form<'_> {
        let (rows, columns, size) = self.0.dim();
        Form::Linear(changed_weight([rows * size, columns * size], |weight| {
            self.add_to(weight);
            Ok(())
        }))
    }

    fn merge_into(&self, module: &mut ModuleWeights) -> Result<(), AdapterError> {
        self.add_to(&mut module.weight);
        Ok(())
    }

    fn trainable_params(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn each_row_of_a_block_is_the_one_above_moved_on() {
        let mut module = ModuleWeights {
            weight: Array2::zeros((3, 6)),
            bias: None,
        };
        let kernels = array![[[6.0, 12.0, 18.0], [0.0, 0.0, 60.0]]];
        C3a(kernels).merge_into(&mut module).unwrap();
        let expected = array![
            [1.0, 2.0, 3.0, 0.0, 0.0, 10.0],
            [3.0, 1.0, 2.0, 10.0, 0.0, 0.0],
            [2.0, 3.0, 1.0, 0.0, 10.0, 0.0]
        ];
        assert_eq!(module.weight, expected);
    }
}
