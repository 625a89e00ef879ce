//! The part that variants take out of the base's weight before they add their pair. PEFT does this
//! whenever it loads an adapter, a trained one, too, and rounds the rest to the dtype of the weight
//! in memory.
//!
//! Products of singular vectors, and of `Q` and `R`, don't depend on the signs of the factors, so
//! any decomposition gives the same residual.
//!
//! For a quantized base, the rest of the full-precision weight is quantized: PEFT asks for that
//! with PiSSA (`pissa_init`), and it's the only way with KaSA. With OLoRA, PEFT decomposes the
//! dequantized weight, if the base is quantized when the adapter is loaded; here all three, and
//! merges, follow one rule.

use std::sync::OnceLock;

use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, s};

use crate::adapter::AdapterError;
use crate::adapter::toolbox::components::{
    components, failed, leading, rounded, scaled_columns, scaled_rows, trailing,
};
use crate::decomposition::{Svd, qr};
use crate::weights::Dtype;

/// A part to be taken out of a module's weight.
#[derive(Debug)]
pub struct Residual {
    /// The module.
    pub path: String,
    /// The rank.
    pub r: usize,
    /// Which part.
    pub part: Removed,
    /// The dtype of the base's weight in memory.
    pub dtype: Dtype,
    /// Whether the base is quantized, so that the layer's weight is already without the part.
    pub quantized: bool,
    /// The part as `B A`, once it's computed.
    pub pair: OnceLock<FreshFactors>,
}

/// `A` and `B`.
pub type FreshFactors = (Array2<f32>, Array2<f32>);

/// A part of a weight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Removed {
    /// PiSSA: the `r` largest singular components.
    Largest,
    /// KaSA: the `r` smallest singular components.
    Smallest,
    /// OLoRA: `scaling * Q_r R_r` of the weight's QR decomposition.
    Orthogonal {
        /// LoRA's scaling.
        scaling: f32,
    },
}

impl Residual {
    /// `weight` without the part, rounded to `dtype`.
    ///
    /// # Errors
    /// If `weight` isn't finite.
    pub fn of(&self, weight: &Array2<f32>) -> Result<Array2<f32>, AdapterError> {
        let (a, b) = match self.pair.get() {
            Some(pair) => pair,
            None => {
                let made = self.pair_of(weight)?;
                self.pair.get_or_init(|| made)
            }
        };
        let mut left = weight.clone();
        general_mat_mul(-1.0, b, a, 1.0, &mut left);
        left.mapv_inplace(|value| rounded(value, self.dtype));
        Ok(left)
    }

    fn pair_of(&self, weight: &Array2<f32>) -> Result<FreshFactors, AdapterError> {
        let part = match self.part {
            Removed::Largest => leading(&components(weight, &self.path)?, self.r),
            Removed::Smallest => trailing(&components(weight, &self.path)?, self.r),
            Removed::Orthogonal { scaling } => {
                let (a, b) = orthogonal(weight, &self.path, self.r)?;
                return Ok((a, b * scaling));
            }
        };
        let b = scaled_columns(&part.u, &part.s);
        Ok((part.vt, b))
    }
}

/// PiSSA's fresh `A = sqrt(S / scaling) Vᵀ` and `B = U sqrt(S / scaling)`.
///
/// # Errors
/// If the weight isn't finite.
pub fn principal(
    weight: &Array2<f32>,
    path: &str,
    r: usize,
    scaling: f32,
) -> Result<FreshFactors, AdapterError> {
    let Svd { u, s, vt } = leading(&components(weight, path)?, r);
    let roots = s.mapv(|size| (size / scaling).sqrt());
    Ok((scaled_rows(&vt, &roots), scaled_columns(&u, &roots)))
}

/// OLoRA's fresh `A = R_r` and `B = Q_r`.
///
/// # Errors
/// If the weight isn't finite.
pub fn orthogonal(
    weight: &Array2<f32>,
    path: &str,
    r: usize,
) -> Result<FreshFactors, AdapterError> {
    let (q, triangle) = qr(weight).map_err(failed(path))?;
    Ok((
        triangle.slice(s![..r, ..]).to_owned(),
        q.slice(s![.., ..r]).to_owned(),
    ))
}

/// MiCA's fresh `B`: the left singular vectors of the `r` smallest components.
///
/// # Errors
/// If the weight isn't finite.
pub fn minor(weight: &Array2<f32>, path: &str, r: usize) -> Result<Array2<f32>, AdapterError> {
    Ok(trailing(&components(weight, path)?, r).u)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    fn left(part: Removed, weight: &Array2<f32>) -> Array2<f32> {
        let residual = Residual {
            path: "x".to_owned(),
            r: 1,
            part,
            dtype: Dtype::Float32,
            quantized: false,
            pair: OnceLock::new(),
        };
        residual.of(weight).unwrap()
    }

    fn is_close(a: &Array2<f32>, b: &Array2<f32>) -> bool {
        (a - b).iter().all(|difference| difference.abs() < 1e-5)
    }

    #[test]
    fn the_largest_or_the_smallest_component_goes() {
        let weight = array![[0.0, 3.0], [2.0, 0.0]];
        let largest = left(Removed::Largest, &weight);
        assert!(is_close(&largest, &array![[0.0, 0.0], [2.0, 0.0]]));
        let smallest = left(Removed::Smallest, &weight);
        assert!(is_close(&smallest, &array![[0.0, 3.0], [0.0, 0.0]]));
    }

    #[test]
    fn fresh_factors_make_up_for_what_was_taken_out() {
        let weight = array![[1.0, 2.0, 0.5], [3.0, -1.0, 2.0]];
        let scaling = 1.75;
        let (a, b) = principal(&weight, "x", 1, scaling).unwrap();
        let back = left(Removed::Largest, &weight) + b.dot(&a) * scaling;
        assert!(is_close(&back, &weight));
        let (a, b) = orthogonal(&weight, "x", 1).unwrap();
        let back = left(Removed::Orthogonal { scaling }, &weight) + b.dot(&a) * scaling;
        assert!(is_close(&back, &weight));
    }

    #[test]
    fn what_is_left_is_rounded_to_the_weights_dtype() {
        let residual = Residual {
            path: "x".to_owned(),
            r: 1,
            part: Removed::Largest,
            dtype: Dtype::BFloat16,
            quantized: false,
            pair: OnceLock::new(),
        };
        let left = residual.of(&array![[1.0, 2.0], [3.0, -1.0]]).unwrap();
        assert!(
            left.iter()
                .all(|&value| rounded(value, Dtype::BFloat16) == value)
        );
    }
}
