//! The best pair of a given rank for the change of a matrix: its truncated singular value
//! decomposition.
//!
//! Only the leading singular vectors are needed, of one side: with `U` these of the shorter side,
//! `U (Uᵀ D)` is the best approximation of `D`. They're eigenvectors of `D Dᵀ`. Where even the
//! shorter side is long, the space that they span is found by subspace iteration from random
//! vectors.

use ndarray::{Array1, Array2, Axis, concatenate, s};
use rand::SeedableRng;
use rand::distr::Distribution;
use rand::rngs::ChaCha12Rng;
use rand_distr::StandardNormal;

use super::Rank;
use crate::decomposition::{DecompositionError, qr, svd, symmetric_eigenvectors};

/// Sides up to this length are decomposed exactly: the time grows with the cube.
const EXACT: usize = 1024;

/// Vectors that the iteration has more than it's asked for, and how often it multiplies by `D Dᵀ`.
const SPARE: usize = 16;
const ITERATIONS: usize = 4;

/// The rank that the search for a share of the energy begins with.
const FIRST: usize = 64;

/// The change of a matrix `[out_features, in_features]`.
#[derive(Debug, Clone)]
pub enum Change {
    /// All of it.
    Matrix(Array2<f32>),
    /// A product `B A`.
    Product {
        /// `[out_features, r]`
        b: Array2<f32>,
        /// `[r, in_features]`
        a: Array2<f32>,
    },
}

/// A pair in place of a change, and what it loses.
#[derive(Debug, Clone)]
pub struct Pair {
    /// `[r, in_features]`, orthonormal rows; or the change's own.
    pub a: Array2<f32>,
    /// `[out_features, r]`
    pub b: Array2<f32>,
    /// The norm of the change.
    pub norm: f64,
    /// The share of the change's energy that's kept.
    pub energy: f64,
    /// The norm of what's lost, relative to that of the change.
    pub error: f64,
}

impl Change {
    /// The best pair of `rank`. Of a rank that's larger than the change's own, the rest is zeros.
    ///
    /// # Errors
    /// If the change isn't finite.
    pub fn approximated(self, rank: Rank) -> Result<Pair, DecompositionError> {
        let (whole, (b, a)) = match self {
            Self::Matrix(matrix) => {
                let pair = of_matrix(&matrix, rank)?;
                (matrix, pair)
            }
            Self::Product { b, a } => {
                let whole = b.dot(&a);
                let fits = matches!(rank, Rank::Count(count) if count >= a.nrows());
                let pair = match fits {
                    true => (b, a),
                    false => of_product(&b, &a, rank)?,
                };
                (whole, pair)
            }
        };
        let (b, a) = match rank {
            Rank::Count(count) if count > a.nrows() => {
                let more = count - a.nrows();
                let (rows, columns) = (b.nrows(), a.ncols());
                let b = concatenate(Axis(1), &[b.view(), Array2::zeros((rows, more)).view()]);
                let a = concatenate(Axis(0), &[a.view(), Array2::zeros((more, columns)).view()]);
                (
                    b.expect("the rows are as many"),
                    a.expect("the columns are as many"),
                )
            }
            _ => (b, a),
        };
        let norm = energy(&whole);
        let lost = energy(&(whole - b.dot(&a)));
        let share = if norm > 0.0 { lost / norm } else { 0.0 };
        Ok(Pair {
            a,
            b,
            norm: norm.sqrt(),
            energy: 1.0 - share,
            error: share.sqrt(),
        })
    }
}

fn energy(matrix: &Array2<f32>) -> f64 {
    matrix.iter().map(|value| f64::from(*value).powi(2)).sum()
}

/// The best pair for `matrix`, with orthonormal rows of `A`, as in PEFT.
fn of_matrix(
    matrix: &Array2<f32>,
    rank: Rank,
) -> Result<(Array2<f32>, Array2<f32>), DecompositionError> {
    let (rows, columns) = matrix.dim();
    if rows > columns {
        let turned = matrix.t().as_standard_layout().into_owned();
        let (b, a) = of_wide(&turned, rank)?;
        // `Dᵀ = U (Uᵀ Dᵀ)`, so `D` is the transposed second factor times `Uᵀ`.
        return Ok((a.reversed_axes(), b.reversed_axes()));
    }
    let (b, a) = of_wide(matrix, rank)?;
    let norms: Array1<f32> = a.outer_iter().map(|row| row.dot(&row).sqrt()).collect();
    let a = normalised(a, &norms);
    Ok((b * &norms, a))
}

/// Rows divided by their norms.
fn normalised(mut matrix: Array2<f32>, norms: &Array1<f32>) -> Array2<f32> {
    for (mut row, norm) in matrix.outer_iter_mut().zip(norms) {
        if *norm > 0.0 {
            row /= *norm;
        }
    }
    matrix
}

/// `U` with orthonormal columns and `Uᵀ D`, for `D` with no more rows than columns.
fn of_wide(
    matrix: &Array2<f32>,
    rank: Rank,
) -> Result<(Array2<f32>, Array2<f32>), DecompositionError> {
    let rows = matrix.nrows();
    if rows <= EXACT {
        return leading(&Array2::eye(rows), matrix, rank, energy(matrix));
    }
    let total = energy(matrix);
    let mut count = match rank {
        Rank::Count(count) => count,
        Rank::Share(_) => FIRST,
    };
    loop {
        if 2 * (count + SPARE) > rows {
            return leading(&Array2::eye(rows), matrix, rank, total);
        }
        let basis = subspace(matrix, count + SPARE)?;
        let inside = basis.t().dot(matrix);
        if let Rank::Share(share) = rank
            && energy(&inside) < share * total
        {
            count *= 2;
            continue;
        }
        return leading(&basis, &inside, rank, total);
    }
}

/// An orthonormal basis of a space that nearly holds the `count` leading left singular vectors.
fn subspace(matrix: &Array2<f32>, count: usize) -> Result<Array2<f32>, DecompositionError> {
    let mut rng = ChaCha12Rng::seed_from_u64(0);
    let start =
        Array2::from_shape_simple_fn((matrix.ncols(), count), || StandardNormal.sample(&mut rng));
    let (mut basis, _) = qr(&matrix.dot(&start))?;
    for _ in 0..ITERATIONS {
        let (across, _) = qr(&matrix.t().dot(&basis))?;
        (basis, _) = qr(&matrix.dot(&across))?;
    }
    Ok(basis)
}

/// The leading left singular vectors of `basis · inside`, and their products with it. `total` is
/// the energy of the matrix that `inside` is the projection of.
fn leading(
    basis: &Array2<f32>,
    inside: &Array2<f32>,
    rank: Rank,
    total: f64,
) -> Result<(Array2<f32>, Array2<f32>), DecompositionError> {
    let wide = inside.mapv(f64::from);
    let gram = wide.dot(&wide.t());
    let mut vectors = symmetric_eigenvectors(&gram)?;
    vectors.invert_axis(Axis(1));
    let count = match rank {
        Rank::Count(count) => count.min(vectors.ncols()),
        Rank::Share(share) => {
            let along = gram.dot(&vectors);
            let squares = vectors.axis_iter(Axis(1)).zip(along.axis_iter(Axis(1)));
            let squares = squares.map(|(vector, along)| vector.dot(&along).max(0.0));
            reaching(squares, share * total).min(vectors.ncols())
        }
    };
    let vectors = vectors.slice(s![.., ..count]);
    let along = vectors.t().dot(&wide).mapv(|value| value as f32);
    let vectors = vectors.mapv(|value| value as f32);
    Ok((basis.dot(&vectors), along))
}

/// How many of `squares` reach `goal` together; at least one.
fn reaching(squares: impl Iterator<Item = f64>, goal: f64) -> usize {
    // Rounding mustn't ask for one more.
    let goal = goal * (1.0 - 1e-9);
    let mut sum = 0.0;
    let mut count = 0;
    for square in squares {
        count += 1;
        sum += square;
        if sum >= goal {
            break;
        }
    }
    count.max(1)
}

/// The best pair for `B A`, by the singular values of a matrix with as many rows as the product has
/// rank.
fn of_product(
    b: &Array2<f32>,
    a: &Array2<f32>,
    rank: Rank,
) -> Result<(Array2<f32>, Array2<f32>), DecompositionError> {
    let (left, left_core) = qr(b)?;
    let (right, right_core) = qr(&a.t().as_standard_layout().into_owned())?;
    let core = svd(&left_core.dot(&right_core.t()))?;
    let squares = core.s.iter().map(|value| f64::from(*value).powi(2));
    let count = match rank {
        Rank::Count(count) => count.min(core.s.len()),
        Rank::Share(share) => {
            let total: f64 = squares.clone().sum();
            reaching(squares, share * total)
        }
    };
    let kept = &core.u.slice(s![.., ..count]) * &core.s.slice(s![..count]);
    Ok((
        left.dot(&kept),
        core.vt.slice(s![..count, ..]).dot(&right.t()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(rows: usize, columns: usize, seed: u64) -> Array2<f32> {
        let mut rng = ChaCha12Rng::seed_from_u64(seed);
        Array2::from_shape_simple_fn((rows, columns), || StandardNormal.sample(&mut rng))
    }

    /// A matrix whose singular values fall.
    fn falling(rows: usize, columns: usize) -> Array2<f32> {
        let rank = rows.min(columns).min(40);
        let sizes = Array1::from_shape_fn(rank, |k| 0.7_f32.powi(k as i32));
        let left = qr(&random(rows, rank, 1)).unwrap().0;
        let right = qr(&random(columns, rank, 2)).unwrap().0;
        (left * &sizes).dot(&right.t())
    }

    #[test]
    fn a_pair_keeps_what_the_singular_values_say() {
        // The largest is found by iteration, the others exactly.
        for (rows, columns) in [(30, 50), (50, 30), (1, 7), (1100, 1200), (1200, 1100)] {
            let matrix = falling(rows, columns);
            for rank in [1, 3] {
                let change = Change::Matrix(matrix.clone());
                let pair = change.approximated(Rank::Count(rank)).unwrap();
                assert_eq!(
                    (pair.b.dim(), pair.a.dim()),
                    ((rows, rank), (rank, columns))
                );
                let squares = (0..rows.min(columns).min(40)).map(|k| 0.49_f64.powi(k as i32));
                let total: f64 = squares.clone().sum();
                let kept = squares.take(rank).sum::<f64>() / total;
                assert!(
                    (pair.energy - kept).abs() < 1e-5,
                    "{rows} x {columns}: {pair:?}"
                );
                assert!((pair.error.powi(2) - (1.0 - kept)).abs() < 1e-5);
                let own = pair.a.dot(&pair.a.t());
                assert!((0..rank.min(rows)).all(|k| (own[[k, k]] - 1.0).abs() < 1e-4));
            }
        }
    }

    #[test]
    fn a_share_takes_the_smallest_rank_that_reaches_it() {
        for (rows, columns) in [(30, 50), (1100, 1200)] {
            // 1 − 0.49^k of the energy is in the first k.
            let change = Change::Matrix(falling(rows, columns));
            let pair = change.approximated(Rank::Share(0.8)).unwrap();
            assert_eq!(pair.a.nrows(), 3, "{rows}");
            assert!(pair.energy >= 0.8);
        }
        let change = Change::Matrix(falling(30, 50));
        let all = change.approximated(Rank::Share(1.0)).unwrap();
        assert!(all.error < 1e-3, "{}", all.error);
    }

    #[test]
    fn a_product_of_no_higher_rank_stays_as_it_is() {
        let (b, a) = (random(20, 4, 3), random(4, 30, 4));
        let change = || Change::Product {
            b: b.clone(),
            a: a.clone(),
        };
        let same = change().approximated(Rank::Count(6)).unwrap();
        assert_eq!(same.error, 0.0);
        assert_eq!(same.a.slice(s![..4, ..]), a);
        assert_eq!((same.b.dim(), same.a.dim()), ((20, 6), (6, 30)));
        let whole = Change::Matrix(b.dot(&a));
        for rank in [Rank::Count(2), Rank::Share(0.9)] {
            let cut = change().approximated(rank).unwrap();
            let expected = whole.clone().approximated(rank).unwrap();
            assert_eq!(cut.a.nrows(), expected.a.nrows());
            assert!((cut.error - expected.error).abs() < 1e-4);
        }
    }

    #[test]
    fn nothing_is_lost_of_no_change() {
        let pair = Change::Matrix(Array2::zeros((6, 8)));
        let pair = pair.approximated(Rank::Share(0.5)).unwrap();
        assert_eq!((pair.norm, pair.energy, pair.error), (0.0, 1.0, 0.0));
        assert_eq!(pair.a.nrows(), 1);
    }
}
