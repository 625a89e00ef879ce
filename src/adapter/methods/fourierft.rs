//! FourierFT: `W' = W + scaling * Re(ifft2(F))`, with sparse `F`.
//!
//! | tensor | shape |
//! |---|---|
//! | `fourierft_spectrum` | `[n_frequency]` |
//!
//! The nonzero elements of `F` are at the first `n_frequency` numbers of a permutation of the
//! weight's elements, drawn from `random_loc_seed` and never saved. Coefficient `c` at `(j, k)`
//! adds `c cos(2 pi (j u / rows + k v / columns)) scaling / (rows columns)` to element `(u, v)`.
//! Since `cos(a + b) = cos a cos b - sin a sin b`, all of them together are a pair of rank
//! `2 n_frequency`. Angles are computed in float64, sums in float32.
//!
//! Sources: Gao et al., arXiv:2405.03003; PEFT, `tuners/fourierft/`.

use std::f64::consts::TAU;
use std::sync::Arc;

use ndarray::linalg::general_mat_mul;
use ndarray::{Array1, Array2};

use super::{Class, Method};
use crate::adapter::form::{Form, FormTensor, LinearForm, TensorRole, elements};
use crate::adapter::targets::ValuePattern;
use crate::adapter::targets::defaults::SPECTRAL;
use crate::adapter::toolbox::dense::changed_tensor;
use crate::adapter::toolbox::options::{factor, is_count, seed};
use crate::adapter::toolbox::seeded_indices::SeededIndices;
use crate::adapter::toolbox::tuner::{Loading, Tuner};
use crate::adapter::{AdapterError, Effects, Init, ModuleAdapter, ModuleWeights};

/// The tensors of one layer.
#[derive(Debug)]
struct FourierFt {
    /// `[n_frequency]`
    spectrum: Array1<f32>,
    /// Flat indices into a matrix of the weight's shape.
    indices: Arc<[usize]>,
    out_features: usize,
    in_features: usize,
    scaling: f64,
}

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "FOURIERFT",
    class: Class::Weight,
    variants: "",
    refused: "",
    load,
};

/// Reads the adapter.
fn load(loading: Loading) -> Result<Effects, AdapterError> {
    let config = loading.config;
    let default = config.optional_size("n_frequency")?.unwrap_or(1000);
    let pattern = "n_frequency_pattern";
    let pattern = ValuePattern::read_below(config, pattern, "a positive integer", is_count)?;
    let scaling = factor(config, "scaling", 150.0)?;
    let mut indices = SeededIndices::new(seed(config, "random_loc_seed", 777)?);
    let init = match config.flag("init_weights", false)? {
        true => Init::Zeros,
        false => Init::Normal(1.0),
    };
    Tuner::open(loading, SPECTRAL, Some("fourier_only"))?.adapt(|tensors, layer| {
        let own = pattern.get(config, layer.path())?;
        let count = own.map_or(default, |count| count as usize);
        if count > layer.elements() {
            let expected = format!(
                "at most the {} elements of `{}`",
                layer.elements(),
                layer.path()
            );
            return Err(config.wrong("n_frequency", &expected).into());
        }
        Ok(FourierFt {
            spectrum: tensors.vector(&layer.key("fourierft_spectrum"), count, init)?,
            indices: indices.of(layer, count),
            out_features: layer.out_features,
            in_features: layer.in_features,
            scaling,
        })
    })
}

impl FourierFt {
    /// `A`, `[2 n, columns]`: cosines, then sines, of the columns' frequencies.
    fn a(&self) -> Array2<f32> {
        let columns = self.in_features;
        let wave = |place: &usize| place % columns;
        waves(self.indices.iter().map(wave), columns, |_| [1.0, 1.0])
    }

    /// `Bᵀ`, `[2 n, rows]`: cosines and negative sines of the rows' frequencies, times the
    /// coefficients.
    fn b_transposed(&self) -> Array2<f32> {
        let (rows, columns) = (self.out_features, self.in_features);
        let scaling = self.scaling / (rows as f64 * columns as f64);
        let wave = |place: &usize| place / columns;
        waves(self.indices.iter().map(wave), rows, |index| {
            let factor = scaling * f64::from(self.spectrum[index]);
            [factor, -factor]
        })
    }

    fn add_to(&self, weight: &mut Array2<f32>) {
        general_mat_mul(1.0, &self.b_transposed().t(), &self.a(), 1.0, weight);
    }
}

/// A row of cosines for each frequency, then a row of sines for each, over `size` samples.
fn waves(
    frequencies: impl ExactSizeIterator<Item = usize>,
    size: usize,
    factors: impl Fn(usize) -> [f64; 2],
) -> Array2<f32> {
    let count = frequencies.len();
    let circle: Vec<(f64, f64)> = (0..size)
        .map(|step| (TAU * step as f64 / size as f64).sin_cos())
        .collect();
    let mut waves = Array2::zeros((2 * count, size));
    for (index, frequency) in frequencies.enumerate() {
        let [by_cosine, by_sine] = factors(index);
        for sample in 0..size {
            let (sine, cosine) = circle[frequency * sample % size];
            waves[[index, sample]] = (by_cosine * cosine) as f32;
            waves[[count + index, sample]] = (by_sine * sine) as f32;
        }
    }
    waves
}

impl ModuleAdapter for FourierFt {
    fn form(&self) -> Form<'_> {
        let (rows, columns) = (self.out_features, self.in_features);
        let rank = 2 * self.spectrum.len();
        let a = FormTensor::derived("A", &[rank, columns], TensorRole::Term, |_| {
            Ok(elements(&self.a()))
        });
        let b = FormTensor::derived("B", &[rows, rank], TensorRole::Term, |_| {
            Ok(elements(&self.b_transposed().reversed_axes()))
        });
        let weight = changed_tensor([rows, columns], |weight| {
            self.add_to(weight);
            Ok(())
        });
        Form::Linear(LinearForm::low_rank_or_weight(a, b, weight))
    }

    fn merge_into(&self, module: &mut ModuleWeights) -> Result<(), AdapterError> {
        self.add_to(&mut module.weight);
        Ok(())
    }

    fn trainable_params(&self) -> usize {
        self.spectrum.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn the_pair_is_the_inverse_transform() {
        let adapter = FourierFt {
            spectrum: array![2.0, -1.0],
            // (0, 0) and (1, 2) of a 3 by 4 matrix
            indices: Arc::new([0, 6]),
            out_features: 3,
            in_features: 4,
            scaling: 12.0,
        };
        let mut weight = Array2::zeros((3, 4));
        adapter.add_to(&mut weight);
        for ((u, v), value) in weight.indexed_iter() {
            let angle = TAU * (u as f64 / 3.0 + 2.0 * v as f64 / 4.0);
            let expected = 2.0 - angle.cos();
            assert!((f64::from(*value) - expected).abs() < 1e-6, "{u} {v}");
        }
    }
}
