//! Small dense linear algebra, in float64: rotations from skew matrices.

use ndarray::{Array2, Array3, ArrayView2, Axis};

/// The inverse of a square matrix, by elimination with partial pivoting; `None` if it's singular.
pub fn inverse(matrix: &Array2<f64>) -> Option<Array2<f64>> {
    let n = matrix.nrows();
    let (mut left, mut right) = (matrix.clone(), Array2::eye(n));
    for column in 0..n {
        let larger = |a: &usize, b: &usize| {
            let size = |row: usize| left[[row, column]].abs();
            size(*a).total_cmp(&size(*b))
        };
        let pivot = (column..n).max_by(larger)?;
        let value = left[[pivot, column]];
        if value == 0.0 || !value.is_finite() {
            return None;
        }
        for place in 0..n {
            left.swap([pivot, place], [column, place]);
            right.swap([pivot, place], [column, place]);
        }
        left.row_mut(column).mapv_inplace(|v| v / value);
        right.row_mut(column).mapv_inplace(|v| v / value);
        let (pivot_left, pivot_right) = (left.row(column).to_owned(), right.row(column).to_owned());
        for row in (0..n).filter(|row| *row != column) {
            let factor = left[[row, column]];
            if factor != 0.0 {
                left.row_mut(row).scaled_add(-factor, &pivot_left);
                right.row_mut(row).scaled_add(-factor, &pivot_right);
            }
        }
    }
    Some(right)
}

/// The rotation `(I − S)(I + S)⁻¹` of a skew matrix, which always exists.
pub fn cayley(skew: &Array2<f64>) -> Array2<f64> {
    let identity = Array2::eye(skew.nrows());
    let inverse = inverse(&(&identity + skew)).expect("I + S of a skew S is regular");
    (identity - skew).dot(&inverse)
}

/// The skew matrix with `upper` row by row above its diagonal.
pub fn skew(upper: &[f32], size: usize) -> Array2<f64> {
    let mut skew = Array2::zeros((size, size));
    let places = (0..size).flat_map(|row| (row + 1..size).map(move |column| (row, column)));
    for ((row, column), &value) in places.zip(upper) {
        skew[[row, column]] = f64::from(value);
        skew[[column, row]] = -f64::from(value);
    }
    skew
}

/// `(R − Rᵀ) / 2`
pub fn skew_part(matrix: ArrayView2<f32>) -> Array2<f64> {
    let matrix = matrix.mapv(f64::from);
    (&matrix - &matrix.t()) / 2.0
}

/// Square blocks, one behind the other, rounded to float32.
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
    fn an_inverse_needs_its_pivots() {
        let matrix = array![[0.0, 2.0, 1.0], [1.0, 0.0, 3.0], [4.0, 1.0, 0.0]];
        assert!(is_identity(&matrix.dot(&inverse(&matrix).unwrap())));
        assert!(inverse(&array![[1.0, 2.0], [2.0, 4.0]]).is_none());
    }

    #[test]
    fn a_cayley_transform_is_a_rotation() {
        let skew = skew(&[0.5, -1.0, 2.0], 3);
        assert_eq!((skew[[0, 2]], skew[[2, 1]]), (-1.0, -2.0));
        let rotation = cayley(&skew);
        assert!(is_identity(&rotation.dot(&rotation.t())));
        // In the plane: tan of half the angle.
        let plane = cayley(&super::skew(&[1.0], 2));
        assert!(
            (plane - array![[0.0, -1.0], [1.0, 0.0]])
                .iter()
                .all(|d| d.abs() < 1e-12)
        );
    }
}
