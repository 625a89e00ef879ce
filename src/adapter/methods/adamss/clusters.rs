//! The clusters of a weight's rows. PEFT computes them whenever it loads an AdaMSS adapter, and
//! doesn't save them.
//!
//! 1. `U, S, V = torch.svd_lowrank([W | b], q, niter=2)` after `manual_seed(random_seed)`: a basis
//!    of the range of the matrix times normal numbers, improved by two power iterations, and the
//!    decomposition within it. The result doesn't depend on the basis' signs and rotation.
//! 2. `KMeans(K, init="random", n_init=1, max_iter=10, random_state=123456789)` of scikit-learn on
//!    the rows of `U`: Lloyd's algorithm on centred rows, starting from rows chosen by NumPy's
//!    generator.
//!
//! On a GPU, PyTorch draws other numbers in the first step, so PEFT may find other clusters there.
//!
//! Sources: PEFT, `tuners/adamss/utils.py`; PyTorch 2.15, `_lowrank.py`; scikit-learn 1.9,
//! `cluster/_kmeans.py`, `cluster/_k_means_lloyd.pyx`.

use ndarray::{Array1, Array2, Axis};

use crate::decomposition::{DecompositionError, qr, svd};
use crate::random::{RandomState, TorchGenerator};

/// A truncated singular value decomposition.
#[derive(Debug)]
pub struct LowRank {
    /// `[rows, q]`
    pub u: Array2<f32>,
    /// `[q, columns]`
    pub vt: Array2<f32>,
}

/// `svd_lowrank(matrix, q, niter=2)` after `manual_seed(seed)`, up to signs.
///
/// # Errors
/// If `matrix` isn't finite.
pub fn low_rank(matrix: &Array2<f32>, q: usize, seed: u64) -> Result<LowRank, DecompositionError> {
    const ROUNDS: usize = 2;
    let (rows, columns) = matrix.dim();
    let wide = rows < columns;
    // Work on the taller of the matrix and its transpose, so that products needn't copy it.
    let tall = if wide { matrix.t() } else { matrix.view() };
    let normal = TorchGenerator::new(seed).normal(tall.ncols() * q, 1.0);
    let normal = Array2::from_shape_vec((tall.ncols(), q), normal).expect("as many were drawn");
    let orthonormal = |product: Array2<f32>| Ok(qr(&product)?.0);
    let mut basis = orthonormal(tall.dot(&normal))?;
    for _ in 0..ROUNDS {
        let other = orthonormal(tall.t().dot(&basis))?;
        basis = orthonormal(tall.dot(&other))?;
    }
    let inner = svd(&basis.t().dot(&tall))?;
    let (left, right) = (basis.dot(&inner.u), inner.vt);
    Ok(match wide {
        true => LowRank {
            u: right.reversed_axes(),
            vt: left.reversed_axes(),
        },
        false => LowRank { u: left, vt: right },
    })
}

/// The rows of each of `count` clusters, in ascending order.
pub fn clusters(points: &Array2<f32>, count: usize) -> Vec<Vec<usize>> {
    let mut clusters = vec![Vec::new(); count];
    for (row, label) in k_means(points, count).into_iter().enumerate() {
        clusters[label].push(row);
    }
    clusters
}

/// The cluster of each row of `points`, by scikit-learn's `KMeans`.
fn k_means(points: &Array2<f32>, count: usize) -> Vec<usize> {
    const ITERATIONS: usize = 10;
    const SEED: u32 = 123_456_789;
    const TOLERANCE: f32 = 1e-4;
    let rows = points.nrows();
    let mean = points.mean_axis(Axis(0)).expect("a weight has rows");
    let points = points - &mean;
    let variances = points.mapv(|value| value * value).mean_axis(Axis(0));
    let variances = variances.expect("a weight has rows");
    let tolerance = variances.mean().expect("a weight has columns") * TOLERANCE;

    let seeds = RandomState::new(SEED).choose(rows, count);
    let mut centers = points.select(Axis(0), &seeds);
    let mut labels = vec![usize::MAX; rows];
    for _ in 0..ITERATIONS {
        let found = nearest(&points, &centers);
        let moved = means(&points, &found, &centers);
        let shift = (&moved - &centers).mapv(|value| value * value).sum();
        centers = moved;
        if found == labels {
            return found;
        }
        labels = found;
        if shift <= tolerance {
            break;
        }
    }
    nearest(&points, &centers)
}

/// The index of the center nearest to each point; the first, if several are equally near.
fn nearest(points: &Array2<f32>, centers: &Array2<f32>) -> Vec<usize> {
    let norms: Array1<f32> = centers.rows().into_iter().map(|c| c.dot(&c)).collect();
    let products = points.dot(&centers.t());
    let distances = norms - 2.0 * products;
    let least = |row: ndarray::ArrayView1<f32>| {
        let first = (0, f32::INFINITY);
        let pick = |best: (usize, f32), (index, &value): (usize, &f32)| match value < best.1 {
            true => (index, value),
            false => best,
        };
        row.iter().enumerate().fold(first, pick).0
    };
    distances.rows().into_iter().map(least).collect()
}

/// The mean of each center's points. A center without points gets the point that's farthest from
/// its own center, as in scikit-learn.
fn means(points: &Array2<f32>, labels: &[usize], centers: &Array2<f32>) -> Array2<f32> {
    let mut sums = Array2::<f32>::zeros(centers.raw_dim());
    let mut counts = vec![0_usize; centers.nrows()];
    for (point, &label) in points.rows().into_iter().zip(labels) {
        sums.row_mut(label).scaled_add(1.0, &point);
        counts[label] += 1;
    }
    let empty: Vec<usize> = (0..counts.len())
        .filter(|&center| counts[center] == 0)
        .collect();
    if !empty.is_empty() {
        let distance = |row: usize| {
            let apart = &points.row(row) - &centers.row(labels[row]);
            apart.dot(&apart)
        };
        let mut far: Vec<(f32, usize)> =
            (0..labels.len()).map(|row| (distance(row), row)).collect();
        far.sort_by(|a, b| b.0.total_cmp(&a.0));
        for (center, (_, row)) in empty.into_iter().zip(far) {
            let from = labels[row];
            sums.row_mut(from).scaled_add(-1.0, &points.row(row));
            counts[from] -= 1;
            sums.row_mut(center).assign(&points.row(row));
            counts[center] = 1;
        }
    }
    for (mut sum, &count) in sums.rows_mut().into_iter().zip(&counts) {
        if count > 0 {
            sum /= count as f32;
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn rows_that_lie_together_are_one_cluster() {
        let points = array![
            [0.0, 0.1],
            [5.0, 5.0],
            [0.1, 0.0],
            [5.1, 5.0],
            [0.0, 0.0],
            [5.0, 5.1]
        ];
        let mut found = clusters(&points, 2);
        found.sort();
        assert_eq!(found, [vec![0, 2, 4], vec![1, 3, 5]]);
    }

    #[test]
    fn a_matrix_of_low_rank_is_found_whole_lying_or_standing() {
        let left = Array2::from_shape_fn((9, 2), |(i, j)| ((i * 7 + j * 3) % 5) as f32 - 2.0);
        let right = Array2::from_shape_fn((2, 4), |(i, j)| ((i * 3 + j * 2) % 7) as f32 - 3.0);
        let tall = left.dot(&right);
        for matrix in [tall.clone(), tall.reversed_axes()] {
            let found = low_rank(&matrix, 2, 0).unwrap();
            // Projecting onto the span of `vt` doesn't change the matrix.
            let projected = matrix.dot(&found.vt.t()).dot(&found.vt);
            assert!((&projected - &matrix).iter().all(|d| d.abs() < 1e-4));
            let identity = found.u.t().dot(&found.u);
            assert!(
                (identity - Array2::<f32>::eye(2))
                    .iter()
                    .all(|d| d.abs() < 1e-5)
            );
        }
    }
}
