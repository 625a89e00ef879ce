//! WaveFT: `W' = W + scaling * idwt(S)`, with sparse wavelet coefficients `S`.
//!
//! | tensor | shape |
//! |---|---|
//! | `waveft_spectrum` | `[n_frequency]` |
//!
//! The coefficients' indices are the first `n_frequency` numbers of a permutation of the weight's
//! elements, drawn from `random_loc_seed` and never saved. The weight's shape, padded by the
//! filter's length minus 2 (and to an even size), is cut into quadrants: approximation, and
//! horizontal, vertical and diagonal detail. One step of the inverse transform gives the delta: a
//! coefficient at `(p, q)` of its quadrant adds `row[a] * column[b]` at `(2 p + a, 2 q + b)`,
//! shifted back by the padding. Without `use_idwt` the coefficients are added at their indices.
//! Sums are taken in float32.
//!
//! Source: PEFT, `tuners/waveft/`.

mod filters;

use std::sync::Arc;

use ndarray::{Array1, Array2};

use self::filters::reconstruction_low_pass;
use super::{Class, Method};
use crate::adapter::form::Form;
use crate::adapter::targets::ValuePattern;
use crate::adapter::targets::defaults::SPECTRAL;
use crate::adapter::toolbox::dense::changed_weight;
use crate::adapter::toolbox::options::{factor, is_count, seed};
use crate::adapter::toolbox::seeded_indices::SeededIndices;
use crate::adapter::toolbox::tuner::{Loading, TargetLinear, Tuner};
use crate::adapter::{AdapterError, Effects, Init, ModuleAdapter};
use crate::json::JsonObject;

/// The tensors of one layer.
#[derive(Debug)]
struct WaveFt {
    /// `[n_frequency]`
    spectrum: Array1<f32>,
    /// Flat indices into a matrix of the weight's shape.
    indices: Arc<[usize]>,
    wavelet: Option<Wavelet>,
    out_features: usize,
    in_features: usize,
    scaling: f32,
}

/// The low-pass and high-pass filters of the reconstruction.
#[derive(Debug, Clone)]
struct Wavelet {
    low: Vec<f32>,
    high: Vec<f32>,
}

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "WAVEFT",
    class: Class::Weight,
    variants: "",
    refused: "wavelets without coefficients in PEFT",
    load,
};

/// Reads the adapter.
fn load(loading: Loading) -> Result<Effects, AdapterError> {
    let config = loading.config;
    let scaling = factor(config, "scaling", 25.0)? as f32;
    let mut indices = SeededIndices::new(seed(config, "random_loc_seed", 777)?);
    let init = match config.flag("init_weights", true)? {
        true => Init::Zeros,
        false => Init::Normal(0.01),
    };
    let wavelet = match config.flag("use_idwt", true)? {
        true => Some(Wavelet::read(config)?),
        false => None,
    };
    let tuner = Tuner::open(loading, SPECTRAL, Some("waveft_only"))?;
    let counts = Counts::read(config, &tuner.layers()?)?;
    tuner.adapt(|tensors, layer| {
        let count = counts.of(config, layer)?;
        Ok(WaveFt {
            spectrum: tensors.vector(&layer.key("waveft_spectrum"), count, init)?,
            indices: indices.of(layer, count),
            wavelet: wavelet.clone(),
            out_features: layer.out_features,
            in_features: layer.in_features,
            scaling,
        })
    })
}

/// The number of coefficients of each layer.
#[derive(Debug)]
struct Counts {
    default: usize,
    pattern: ValuePattern,
    /// With `proportional_parameters`: the number of elements of all adapted weights, and of all
    /// coefficients.
    proportional: Option<[f64; 2]>,
}

impl Counts {
    fn read(config: &JsonObject, layers: &[TargetLinear]) -> Result<Self, AdapterError> {
        let default = config.optional_size("n_frequency")?.unwrap_or(2592);
        let elements: usize = layers.iter().map(TargetLinear::elements).sum();
        let proportional = config.flag("proportional_parameters", false)?;
        Ok(Self {
            default,
            pattern: ValuePattern::read(
                config,
                "n_frequency_pattern",
                "a positive integer",
                is_count,
            )?,
            proportional: proportional
                .then_some([elements as f64, (default * layers.len()) as f64]),
        })
    }

    fn of(&self, config: &JsonObject, layer: &TargetLinear) -> Result<usize, AdapterError> {
        let count = match self.proportional {
            Some([elements, budget]) => {
                let share = layer.elements() as f64 / elements * budget;
                (share.round_ties_even() as usize).max(1)
            }
            None => {
                let own = self.pattern.get(config, layer.path())?;
                own.map_or(self.default, |count| count as usize)
            }
        };
        if count > layer.elements() {
            let expected = format!(
                "at most the {} elements of `{}` (it gets {count})",
                layer.elements(),
                layer.path()
            );
            return Err(config.wrong("n_frequency", &expected).into());
        }
        Ok(count)
    }
}

impl Wavelet {
    fn read(config: &JsonObject) -> Result<Self, AdapterError> {
        const KEY: &str = "wavelet_family";
        let family = config.optional_text(KEY)?.unwrap_or("db1");
        let low = reconstruction_low_pass(family).ok_or_else(|| {
            let reason = "supported are `db1` to `db10`, `sym2` to `sym10` and `coif1` to `coif3`: \
                          PEFT has no coefficients for others, or wrong ones (`coif4`, `coif5`)";
            config.refused(KEY, reason)
        })?;
        Ok(Self::new(low))
    }

    fn new(low: &[f64]) -> Self {
        let sign = |place: usize| if place.is_multiple_of(2) { 1.0 } else { -1.0 };
        let reversed = low.iter().rev().enumerate();
        Self {
            low: low.iter().map(|&value| value as f32).collect(),
            high: reversed
                .map(|(place, value)| (sign(place) * value) as f32)
                .collect(),
        }
    }

    /// Along one axis: the position of the first element of the filter for a coefficient at `place`
    /// of the weight's `size` (it may be outside), and whether the coefficient is in the second
    /// half of the quadrants.
    fn along(&self, place: usize, size: usize) -> (isize, bool) {
        let padding = self.low.len() - 2;
        let padded = (size + padding).next_multiple_of(2);
        let place = place + (padded - size) / 2;
        let half = padded / 2;
        let start = 2 * (place % half) as isize - padding as isize;
        (start, place >= half)
    }

    fn filter(&self, high: bool) -> &[f32] {
        if high { &self.high } else { &self.low }
    }
}

impl WaveFt {
    fn add_to(&self, weight: &mut Array2<f32>) {
        let (rows, columns) = weight.dim();
        for (&place, value) in self.indices.iter().zip(&self.spectrum) {
            let (row, column) = (place / columns, place % columns);
            let value = value * self.scaling;
            let Some(wavelet) = &self.wavelet else {
                weight[[row, column]] += value;
                continue;
            };
            let (top, lower) = wavelet.along(row, rows);
            let (left, right) = wavelet.along(column, columns);
            // The right quadrants hold detail along the rows, the lower ones along the columns.
            let (by_rows, by_columns) = (wavelet.filter(right), wavelet.filter(lower));
            for (row, by_row) in (top..).zip(by_rows) {
                for (column, by_column) in (left..).zip(by_columns) {
                    // Elements outside the weight are cut off with the padding.
                    let inside = [row as usize, column as usize];
                    if let Some(element) = weight.get_mut(inside) {
                        *element += value * by_row * by_column;
                    }
                }
            }
        }
    }
}

impl ModuleAdapter for WaveFt {
    fn form(&self) -> Form<'_> {
        let shape = [self.out_features, self.in_features];
        Form::Linear(changed_weight(shape, |weight| {
            self.add_to(weight);
            Ok(())
        }))
    }

    fn trainable_params(&self) -> usize {
        self.spectrum.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    fn adapter(family: Option<&str>, shape: [usize; 2], place: usize) -> WaveFt {
        WaveFt {
            spectrum: array![2.0],
            indices: Arc::new([place]),
            wavelet: family.map(|name| Wavelet::new(reconstruction_low_pass(name).unwrap())),
            out_features: shape[0],
            in_features: shape[1],
            scaling: 3.0,
        }
    }

    #[test]
    fn a_haar_coefficient_fills_one_tile() {
        let mut weight = Array2::zeros((4, 4));
        // Row 1 and column 3: horizontal detail of the tile at (1, 1).
        adapter(Some("db1"), [4, 4], 7).add_to(&mut weight);
        let mut expected = Array2::zeros((4, 4));
        for (row, column, value) in [(2, 2, 3.0), (2, 3, 3.0), (3, 2, -3.0), (3, 3, -3.0)] {
            expected[[row, column]] = value;
        }
        let difference: Array2<f32> = weight - expected;
        assert!(
            difference.iter().all(|value| value.abs() < 1e-6),
            "{difference}"
        );
    }

    #[test]
    fn a_longer_filter_is_cut_at_the_border() {
        let mut weight = Array2::zeros((5, 5));
        adapter(Some("db2"), [5, 5], 0).add_to(&mut weight);
        // 5 + 2 is padded to 8, so the first element is element 1, at row 0.
        let filter = reconstruction_low_pass("db2").unwrap();
        let expected = 6.0 * filter[0] * filter[0];
        assert!((f64::from(weight[[0, 0]]) - expected).abs() < 1e-6);
        assert_eq!(weight[[4, 4]], 0.0);
    }

    #[test]
    fn without_the_transform_a_coefficient_stays_where_it_is() {
        let mut weight = Array2::ones((2, 3));
        adapter(None, [2, 3], 4).add_to(&mut weight);
        assert_eq!(weight, array![[1.0, 1.0, 1.0], [1.0, 7.0, 1.0]]);
    }
}
