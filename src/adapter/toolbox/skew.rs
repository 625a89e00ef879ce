//! Rotations from skew-symmetric matrices, in float64.

use ndarray::{Array2, Array3, ArrayView2, Axis};

use crate::decomposition::solve;

/// The Cayley transform `(I − S)(I + S)⁻¹` of a skew-symmetric matrix: a rotation, which always
/// exists. If `skew` isn't finite, the result is all NaN; the error comes with the tensor's name
/// when that is written.
pub fn cayley(skew: &Array2<f64>) -> Array2<f64> {
    let identity = Array2::eye(skew.nrows());
    // The two factors commute.
    solve(&(&identity + skew), &(&identity - skew))
        .unwrap_or_else(|_| Array2::from_elem(skew.dim(), f64::NAN))
}

/// The skew-symmetric matrix with `upper`, row by row, above its diagonal.
pub fn skew(upper: &[f32], size: usize) -> Array2<f64> {
    let mut skew = Array2::zeros((size, size));
    let places = (0..size).flat_map(|row| (row + 1..size).map(move |column| (row, column)));
    for ((row, column), &value) in places.zip(upper) {
        skew[[row, column]] = f64::from(value);
        skew[[column, row]] = -f64::from(value);
    }
    skew
}

/// The skew-symmetric part of a matrix, `(R − Rᵀ) / 2`.
pub fn skew_part(matrix: ArrayView2<f32>) -> Array2<f64> {
    let matrix = matrix.mapv(f64::from);
    (&matrix - &matrix.t()) / 2.0
}

/// Stacks square blocks, `[n, size, size]`, rounded to float32.
pub fn stack(blocks: &[Array2<f64>], size: usize) -> Array3<f32> {
    let mut stacked = Array3::zeros((blocks.len(), size, size));
    for (mut place, block) in stacked.axis_iter_mut(Axis(0)).zip(blocks) {
        place.assign(&block.mapv(|value| value as f32));
    }
    stacked
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    fn is_identity(matrix: &Array2<f64>) -> bool {
        let difference = matrix - &Array2::<f64>::eye(matrix.nrows());
        difference.iter().all(|value| value.abs() < 1e-12)
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        let rotation = cayley(&skew(&[0.5, f32::NAN, 2.0], 3));
        assert!(rotation.iter().all(|value| value.is_nan()));
    }

    #[test]
    fn a_cayley_transform_is_a_rotation() {
        let skew = skew(&[0.5, -1.0, 2.0], 3);
        assert_eq!((skew[[0, 2]], skew[[2, 1]]), (-1.0, -2.0));
        let rotation = cayley(&skew);
        assert!(is_identity(&rotation.dot(&rotation.t())));
        // In two dimensions the entry is the tangent of half the angle.
        let plane = cayley(&super::skew(&[1.0], 2));
        assert!(
            (plane - array![[0.0, -1.0], [1.0, 0.0]])
                .iter()
                .all(|d| d.abs() < 1e-12)
        );
    }
}
