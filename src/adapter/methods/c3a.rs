//! C3A: the weight gains circulant blocks,
//! `W'[m b + k, n b + j] += w[m, n, (j − k) mod b] / in_features`.
//!
//! | tensor | shape |
//! |---|---|
//! | `c3a_kernel` | `[out_features / b, in_features / b, b]` |
//!
//! `block_size` `b` divides both sizes; `block_size_pattern` sets it by module. PEFT convolves by
//! Fourier transforms in float32; the merge adds the same numbers directly.
//!
//! Sources: Chen et al., arXiv:2407.19342; PEFT, `tuners/c3a/`.

use ndarray::{Array2, Array3};

use super::{Class, Method};
use crate::adapter::form::{Form, FormTensor, Native, NativeForm, NativeSite, TensorRole};
use crate::adapter::targets::ValuePattern;
use crate::adapter::targets::defaults::SPECTRAL;
use crate::adapter::toolbox::dense::changed_weight;
use crate::adapter::toolbox::options::{is_count, rank};
use crate::adapter::toolbox::tuner::{Loading, Tuner};
use crate::adapter::{AdapterError, Effects, Init, ModuleAdapter, ModuleWeights};
use crate::graph::{Attr, GraphBuilder, Value};
use crate::json::{ConfigError, JsonObject};

/// The tensor of one layer.
#[derive(Debug)]
struct C3a {
    key: String,
    /// `[out_features / b, in_features / b, b]`
    kernels: Array3<f32>,
}

/// How a fresh adapter is initialised.
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

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "C3A",
    class: Class::Weight,
    variants: "block_size_pattern",
    refused: "",
    load,
};

/// Reads the adapter.
fn load(loading: Loading) -> Result<Effects, AdapterError> {
    let config = loading.config;
    let block_size = rank(config, "block_size", 256)?;
    let pattern =
        ValuePattern::read_below(config, "block_size_pattern", "a positive integer", |size| {
            is_count(size) && size < 1e9
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
        let key = layer.key("c3a_kernel");
        Ok(C3a {
            kernels: tensors.cube(&key, shape, init)?,
            key: tensors.full_key(&key),
        })
    })
}

impl C3a {
    fn add_to(&self, weight: &mut Array2<f32>) {
        let (_, blocks, size) = self.kernels.dim();
        let scaling = (blocks * size) as f32;
        for ((row, column), value) in weight.indexed_iter_mut() {
            let (k, j) = (row % size, column % size);
            *value += self.kernels[[row / size, column / size, (size + j - k) % size]] / scaling;
        }
    }
}

/// The convolution by Fourier transforms, `fft(ifft(x) · fft(w))`, as PEFT computes it.
fn convolution(site: &mut NativeSite, [rows, columns, size]: [i64; 3]) -> Value {
    let transform = |site: &mut NativeSite, name: &str, x: &Value, axis: i64, inverse: bool| {
        let axis_name = format!("scalar_{axis}");
        let axis = site.graph.constant_i64(&axis_name, &[axis], true);
        let inputs = [x, &GraphBuilder::absent(), &axis];
        let attrs = [("inverse", Attr::Int(i64::from(inverse)))];
        let name = site.name(name);
        site.graph.op("DFT", &name, &inputs, &attrs)
    };
    let (x, kernels) = (site.x.clone(), site.inputs[0].clone());
    // PEFT computes it in float32, whatever the model's dtype is.
    let x = site.to_f32("x/float32", &x);
    let kernels = site.to_f32("kernel/float32", &kernels);
    let x = site.reshape("x/blocks", &x, &[0, 0, columns, size, 1]);
    let x = transform(site, "x/DFT", &x, 3, true);
    let kernels = site.reshape("kernel/blocks", &kernels, &[rows, columns, size, 1]);
    let kernels = transform(site, "kernel/DFT", &kernels, 2, false);

    // [batch, size, sequence, columns] · [size, columns, rows]: one product for each frequency.
    let x = ["real", "imaginary"].map(|part| {
        let values = site.nth(&format!("x/{part}"), &x, 4, i64::from(part != "real"));
        site.transpose(&format!("x/{part}/to_front"), &values, &[0, 3, 1, 2])
    });
    let kernels = ["real", "imaginary"].map(|part| {
        let values = site.nth(
            &format!("kernel/{part}"),
            &kernels,
            3,
            i64::from(part != "real"),
        );
        site.transpose(&format!("kernel/{part}/to_front"), &values, &[2, 1, 0])
    });
    let mut product = |x_part: usize, part: usize| {
        let name = format!("product_{x_part}{part}");
        site.op("MatMul", &name, &[&x[x_part], &kernels[part]])
    };
    let [both_real, both_imaginary] = [product(0, 0), product(1, 1)];
    let [mixed, mixed_2] = [product(0, 1), product(1, 0)];
    let real = site.op("Sub", "real", &[&both_real, &both_imaginary]);
    let imaginary = site.op("Add", "imaginary", &[&mixed, &mixed_2]);
    let [real, imaginary] = [("real", real), ("imaginary", imaginary)].map(|(part, value)| {
        let value = site.transpose(&format!("{part}/to_back"), &value, &[0, 2, 3, 1]);
        site.reshape(&format!("{part}/complex"), &value, &[0, 0, 0, 0, 1])
    });
    let name = site.name("complex");
    let attrs = [("axis", Attr::Int(4))];
    let complex = site.graph.op("Concat", &name, &[&real, &imaginary], &attrs);
    let result = transform(site, "DFT", &complex, 3, false);
    let result = site.nth("DFT/real", &result, 4, 0);
    let joined = site.reshape("join", &result, &[0, 0, rows * size]);
    let name = site.name("cast");
    site.graph.to_compute(&name, &joined)
}

/// The product with the circulant blocks, written out as a matrix.
fn circulant(site: &mut NativeSite, [rows, columns, size]: [i64; 3]) -> Value {
    let kernels = site.inputs[0].clone();
    let side = size as usize;
    let moved = (0..side).flat_map(|k| (0..side).map(move |j| (side + j - k) % side));
    let written = site.select("blocks", &kernels, 2, &moved.collect::<Vec<_>>());
    let written = site.reshape("blocks/split", &written, &[rows, columns, size, size]);
    let written = site.transpose("blocks/to_front", &written, &[0, 2, 1, 3]);
    let weight = site.reshape("circulant", &written, &[rows * size, columns * size]);
    let x = site.x.clone();
    site.matmul_transposed("circulant/MatMul", &x, &weight)
}

impl ModuleAdapter for C3a {
    fn form(&self) -> Form<'_> {
        let (rows, columns, size) = self.kernels.dim();
        Form::Linear(changed_weight([rows * size, columns * size], |weight| {
            self.add_to(weight);
            Ok(())
        }))
    }

    fn merge_into(&self, module: &mut ModuleWeights) -> Result<(), AdapterError> {
        self.add_to(&mut module.weight);
        Ok(())
    }

    /// The circulant product. If the block size is a power of two, by Fourier transforms. For other
    /// sizes ONNX Runtime's algorithm (Bluestein's) loses precision, 1e-4 of the largest value at
    /// 576, so the blocks are written out.
    fn native(&self) -> Native<'_> {
        let (rows, columns, size) = self.kernels.dim();
        let sizes = [rows as i64, columns as i64, size as i64];
        let tensors = vec![FormTensor::stored(
            &self.key,
            &self.kernels,
            TensorRole::Term,
        )];
        Native::Own(NativeForm::new(tensors, move |site| {
            let product = match size.is_power_of_two() {
                true => convolution(site, sizes),
                false => circulant(site, sizes),
            };
            let scaling = site.scalar("scaling", 1.0 / (columns * size) as f32);
            let delta = site.op("Mul", "scaled", &[&product, &scaling]);
            site.base_plus(&delta)
        }))
    }

    fn trainable_params(&self) -> usize {
        self.kernels.len()
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
        let adapter = C3a {
            key: "kernel".to_owned(),
            kernels,
        };
        adapter.merge_into(&mut module).unwrap();
        let expected = array![
            [1.0, 2.0, 3.0, 0.0, 0.0, 10.0],
            [3.0, 1.0, 2.0, 10.0, 0.0, 0.0],
            [2.0, 3.0, 1.0, 0.0, 10.0, 0.0]
        ];
        assert_eq!(module.weight, expected);
    }
}
