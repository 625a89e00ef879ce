//! Decompositions of whole weights, up to some thousands of rows and columns.
//!
//! All are computed in float64, and rounded once if the input is float32. If two singular values
//! are close, their vectors are ill-conditioned: they rotate by about the rounding error divided by
//! the gap. So does what a truncation to a rank drops.
//!
//! They run on the calling thread alone, so that results don't depend on the number of threads;
//! callers go through modules in parallel. The signs of singular vectors and eigenvectors are
//! arbitrary, and callers must not depend on them. A 4096 by 4096 weight takes half a minute and
//! about twenty times its own memory.

use faer::linalg::solvers::Solve;
use faer::{Mat, MatRef};
use ndarray::{Array1, Array2};
use thiserror::Error;

/// Why a matrix can't be decomposed.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is its message")]
#[non_exhaustive]
pub enum DecompositionError {
    #[error("the matrix holds a NaN or an infinity")]
    NotFinite,

    #[error("the decomposition doesn't converge")]
    NoConvergence,

    #[error("the matrix is singular")]
    Singular,
}

/// A singular value decomposition `W = U diag(S) Vᵀ`, with `k = min(rows, columns)` components, the
/// largest first.
#[derive(Debug, Clone)]
pub struct Svd {
    /// `[rows, k]`, orthonormal columns.
    pub u: Array2<f32>,
    /// `[k]`
    pub s: Array1<f32>,
    /// `[k, columns]`, orthonormal rows.
    pub vt: Array2<f32>,
}

/// The thin singular value decomposition.
///
/// # Errors
/// If `matrix` isn't finite.
pub fn svd(matrix: &Array2<f32>) -> Result<Svd, DecompositionError> {
    let svd = widened(matrix)?.thin_svd();
    let svd = svd.map_err(|_| DecompositionError::NoConvergence)?;
    let sizes = svd.S().column_vector().iter();
    Ok(Svd {
        u: rounded(svd.U()),
        s: sizes.map(|&size| size as f32).collect(),
        vt: rounded(svd.V().transpose()),
    })
}

/// The QR decomposition `W = Q R`, `k = min(rows, columns)`: `Q` with orthonormal columns,
/// `[rows, k]`, and the upper triangular `R`, `[k, columns]`.
///
/// # Errors
/// If `matrix` isn't finite.
pub fn qr(matrix: &Array2<f32>) -> Result<(Array2<f32>, Array2<f32>), DecompositionError> {
    let qr = widened(matrix)?.qr();
    Ok((rounded(qr.compute_thin_Q().as_ref()), rounded(qr.thin_R())))
}

/// Solves `A X = B` for `X`, with a square `A`.
///
/// # Errors
/// If `A` or `B` isn't finite, or `A` is singular.
pub fn solve(a: &Array2<f64>, b: &Array2<f64>) -> Result<Array2<f64>, DecompositionError> {
    let (a, b) = (finite(a)?, finite(b)?);
    let solution = array(view(&a).partial_piv_lu().solve(view(&b)).as_ref());
    match solution.iter().all(|value| value.is_finite()) {
        true => Ok(solution),
        false => Err(DecompositionError::Singular),
    }
}

/// Eigenvectors of a symmetric matrix, as columns, by ascending eigenvalue.
///
/// # Errors
/// If `matrix` isn't finite.
pub fn symmetric_eigenvectors(matrix: &Array2<f64>) -> Result<Array2<f64>, DecompositionError> {
    let matrix = finite(matrix)?;
    let eigen = view(&matrix).self_adjoint_eigen(faer::Side::Lower);
    let eigen = eigen.map_err(|_| DecompositionError::NoConvergence)?;
    Ok(array(eigen.U()))
}

/// The matrix in float64, if all its elements are finite.
fn widened(matrix: &Array2<f32>) -> Result<Mat<f64>, DecompositionError> {
    let (rows, columns) = matrix.dim();
    match matrix.iter().all(|value| value.is_finite()) {
        true => Ok(Mat::from_fn(rows, columns, |row, column| {
            f64::from(matrix[[row, column]])
        })),
        false => Err(DecompositionError::NotFinite),
    }
}

fn rounded(matrix: MatRef<f64>) -> Array2<f32> {
    Array2::from_shape_fn((matrix.nrows(), matrix.ncols()), |(row, column)| {
        matrix[(row, column)] as f32
    })
}

/// The matrix in row-major order, if all its elements are finite.
fn finite(
    matrix: &Array2<f64>,
) -> Result<ndarray::CowArray<'_, f64, ndarray::Ix2>, DecompositionError> {
    match matrix.iter().all(|value| value.is_finite()) {
        true => Ok(matrix.as_standard_layout()),
        false => Err(DecompositionError::NotFinite),
    }
}

fn view<'a>(matrix: &'a ndarray::CowArray<'_, f64, ndarray::Ix2>) -> MatRef<'a, f64> {
    let (rows, columns) = matrix.dim();
    let values = matrix.as_slice().expect("`finite` gives row-major order");
    MatRef::from_row_major_slice(values, rows, columns)
}

fn array(matrix: MatRef<f64>) -> Array2<f64> {
    Array2::from_shape_fn((matrix.nrows(), matrix.ncols()), |(row, column)| {
        matrix[(row, column)]
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;
    use rand::SeedableRng;
    use rand::distr::Distribution;
    use rand::rngs::ChaCha12Rng;

    fn random(rows: usize, columns: usize) -> Array2<f32> {
        let mut rng = ChaCha12Rng::seed_from_u64(5);
        let normal = rand_distr::StandardNormal;
        let values = (0..rows * columns)
            .map(|_| normal.sample(&mut rng))
            .collect();
        Array2::from_shape_vec((rows, columns), values).unwrap()
    }

    fn largest(matrix: &Array2<f32>) -> f32 {
        matrix
            .iter()
            .fold(0.0, |largest, value| largest.max(value.abs()))
    }

    const SHAPES: [(usize, usize); 4] = [(40, 40), (70, 33), (20, 90), (1, 5)];

    #[test]
    fn singular_values_and_vectors_make_the_matrix_again() {
        for (rows, columns) in SHAPES {
            let matrix = random(rows, columns);
            let Svd { u, s, vt } = svd(&matrix).unwrap();
            let k = rows.min(columns);
            assert_eq!((u.dim(), s.len(), vt.dim()), ((rows, k), k, (k, columns)));
            assert!(s.windows(2).into_iter().all(|pair| pair[0] >= pair[1]));
            assert!(largest(&((&u * &s).dot(&vt) - &matrix)) < 2e-5);
            assert!(largest(&(u.t().dot(&u) - Array2::<f32>::eye(k))) < 1e-5);
            assert!(largest(&(vt.dot(&vt.t()) - Array2::<f32>::eye(k))) < 1e-5);
        }
    }

    #[test]
    fn close_singular_values_keep_their_own_vectors() {
        // `H diag(S) H` with a reflection `H`, all of whose elements are exact in float32.
        let n = 16;
        let sign = |i: usize| if i.is_multiple_of(3) { -1.0 } else { 1.0 };
        let reflection = Array2::from_shape_fn((n, n), |(i, j)| {
            f64::from(u8::from(i == j)) - sign(i) * sign(j) / 8.0
        });
        let first = [2.0, 1.0 + 2.0_f64.powi(-15), 1.0];
        let rest = (first.len()..n).map(|i| (n - i) as f64 / 32.0);
        let sizes: Array1<f64> = first.into_iter().chain(rest).collect();
        let matrix = (&reflection * &sizes).dot(&reflection);
        let narrow = matrix.mapv(|value| value as f32);
        assert_eq!(narrow.mapv(f64::from), matrix);

        let leading = |u: &Array2<f64>| {
            let u = u.slice(ndarray::s![.., ..2]);
            u.dot(&u.t())
        };
        let found = svd(&narrow).unwrap().u.mapv(f64::from);
        let difference = leading(&found) - leading(&reflection);
        assert!(largest(&difference.mapv(|value| value as f32)) < 1e-6);
    }

    #[test]
    fn q_and_r_make_the_matrix_again() {
        for (rows, columns) in SHAPES {
            let matrix = random(rows, columns);
            let (q, r) = qr(&matrix).unwrap();
            let k = rows.min(columns);
            assert_eq!((q.dim(), r.dim()), ((rows, k), (k, columns)));
            assert!(largest(&(q.dot(&r) - &matrix)) < 2e-5);
            assert!(largest(&(q.t().dot(&q) - Array2::<f32>::eye(k))) < 1e-5);
            assert!(
                r.indexed_iter()
                    .all(|((i, j), value)| i <= j || *value == 0.0)
            );
        }
    }

    #[test]
    fn a_system_is_solved_and_a_singular_one_is_refused() {
        let a = array![[0.0, 2.0], [1.0, 3.0]];
        let x = array![[1.0, -1.0, 0.5], [2.0, 4.0, 0.25]];
        let solved = solve(&a, &a.dot(&x)).unwrap();
        assert!((solved - x).iter().all(|error: &f64| error.abs() < 1e-12));
        let singular = array![[1.0, 2.0], [2.0, 4.0]];
        assert_eq!(solve(&singular, &a), Err(DecompositionError::Singular));
    }

    #[test]
    fn eigenvectors_come_from_the_smallest_up() {
        let matrix = array![[2.0, 1.0], [1.0, 2.0]];
        let vectors = symmetric_eigenvectors(&matrix).unwrap();
        let values: Array2<f64> = vectors.t().dot(&matrix.dot(&vectors));
        let expected = array![[1.0, 0.0], [0.0, 3.0]];
        assert!((values - expected).iter().all(|error| error.abs() < 1e-12));
    }

    #[test]
    fn the_same_matrix_gives_the_same_factors() {
        let matrix = random(60, 50);
        let (first, second) = (svd(&matrix).unwrap(), svd(&matrix).unwrap());
        assert_eq!((first.u, first.vt), (second.u, second.vt));
    }

    #[test]
    fn what_is_not_finite_is_refused() {
        let matrix = array![[1.0, f32::NAN], [0.0, 1.0]];
        assert_eq!(svd(&matrix).unwrap_err(), DecompositionError::NotFinite);
        assert_eq!(qr(&matrix).unwrap_err(), DecompositionError::NotFinite);
    }

    #[test]
    fn an_inverse_needs_its_pivots() {
        let matrix = array![[0.0, 2.0, 1.0], [1.0, 0.0, 3.0], [4.0, 1.0, 0.0]];
        let identity = Array2::<f64>::eye(3);
        let product = matrix.dot(&solve(&matrix, &identity).unwrap());
        assert!((product - identity).iter().all(|d| d.abs() < 1e-12));
        let singular = array![[1.0, 2.0], [2.0, 4.0]];
        assert!(solve(&singular, &Array2::eye(2)).is_err());
    }
}
