//! How far a tensor of a checkpoint is from what a merge gives.
//!
//! Write `W` for the base's tensor, `M` for the merge in float32, `D = M − W` for its change, and
//! `T` for the tensor that was found. A 16-bit `T` is rounded, and where the weight is large, the
//! rounding is as large as the whole change. So elements count by the inverse of their rounding's
//! variance: near-zero weights, which 16 bits hold finely, say most. All norms below are weighted
//! so.
//!
//! The rounding that remains is known: it's what rounding `M` itself gives.

use super::grid::ulp;
use crate::weights::{Dtype, round_to};

/// The part of the change's root mean square below which an element's rounding no longer raises its
/// weight, so that a few elements near zero don't outweigh all others.
const FLOOR: f64 = 0.02;

/// An element is out of place if it's further from the merge than this many units in the last
/// place, and than [`SPREAD`] as well: 16-bit programs round two or three times.
const MOST_ULPS: f64 = 3.0;

/// The part of the change, as its row and column suggest it, that an adapter in 16 bits may be off
/// by in an element. Sums of many terms cancel, so it's more than the rounding of one number.
const SPREAD: f64 = 0.05;

/// A merge in float32, and what it started from; all are in row-major order.
#[derive(Debug, Clone, Copy)]
pub struct Merge<'a> {
    /// The base's values.
    pub base: &'a [f32],
    /// The merged values.
    pub merged: &'a [f32],
    /// The length of a row.
    pub columns: usize,
}

/// What was found, in units of the change's norm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fit {
    /// The found change's component along the expected one, relative to that of a merge that's
    /// rounded to the same grid: 1 for a right merge, 0 for the base.
    pub scale: f64,
    /// `‖T − M‖`
    pub error: f64,
    /// `‖T − W‖`
    pub moved: f64,
    /// What's left of `T − W` when its component along `D` is taken out.
    pub residual: f64,
    /// `‖R − M‖`, with `R` the rounded merge.
    pub rounding: f64,
    /// The number of elements that the weights leave.
    pub effective: f64,
    /// The share of elements that are equal to the rounded merge.
    pub equal: f64,
    /// The largest distance from the rounded merge, in units in the last place.
    pub worst_ulps: f64,
    /// Number of elements that no rounding explains.
    pub out_of_place: usize,
    /// `error` and `scale` without the elements that are out of place.
    pub rest: (f64, f64),
}

impl Merge<'_> {
    /// Whether the merge changes nothing.
    pub fn changes_nothing(&self) -> bool {
        self.base == self.merged
    }

    /// Whether `found` is this merge, rounded once to `grid`.
    pub fn is(&self, found: &[f32], grid: Dtype) -> bool {
        let mut pairs = self.merged.iter().zip(found);
        pairs.all(|(&merged, &found)| round_to(merged, grid) == found)
    }

    /// Compares `found`, whose values lie on `grid`.
    pub fn fit(&self, found: &[f32], grid: Dtype) -> Fit {
        let change = |index: usize| f64::from(self.merged[index]) - f64::from(self.base[index]);
        let columns = self.columns.max(1);
        let rows = self.merged.len() / columns;
        let (mut row_squares, mut column_squares) = (vec![0.0; rows], vec![0.0; columns]);
        for index in 0..self.merged.len() {
            let square = change(index).powi(2);
            row_squares[index / columns] += square;
            column_squares[index % columns] += square;
        }
        let total: f64 = row_squares.iter().sum();
        let mean = (total / self.merged.len() as f64).sqrt();
        // The size that an element's change would have by its row and its column.
        let expected = |index: usize| {
            let row = (row_squares[index / columns] / columns as f64).sqrt();
            let column = (column_squares[index % columns] / rows as f64).sqrt();
            row * column / mean.max(f64::MIN_POSITIVE)
        };

        let mut all = Sums::default();
        let mut rest = Sums::default();
        let (mut equal, mut worst, mut out_of_place) = (0, 0.0_f64, 0);
        for (index, &value) in found.iter().enumerate() {
            let (base, merged) = (self.base[index], self.merged[index]);
            let unit = f64::from(ulp(merged, grid).max(ulp(base, grid)));
            let rounded = round_to(merged, grid);
            let weight = 1.0 / (unit.powi(2) + (FLOOR * mean).powi(2));
            let change = change(index);
            let moved = f64::from(value) - f64::from(base);
            let rounding = f64::from(rounded) - f64::from(merged);
            all.add(weight, change, moved, rounding);
            let own_unit = f64::from(ulp(value, grid)).max(unit);
            let off = (moved - change).abs();
            let allowed = MOST_ULPS * own_unit + SPREAD * change.abs().max(expected(index));
            if off <= allowed {
                rest.add(weight, change, moved, rounding);
            } else {
                out_of_place += 1;
            }
            equal += usize::from(value == rounded);
            let ulps = (f64::from(value) - f64::from(rounded)).abs() / own_unit;
            worst = worst.max(ulps);
        }
        Fit {
            scale: all.scale(),
            error: all.error(),
            moved: (all.moved / all.change).sqrt(),
            residual: all.residual(),
            rounding: (all.rounding / all.change).sqrt(),
            effective: all.change.powi(2) / all.fourth,
            equal: equal as f64 / found.len().max(1) as f64,
            worst_ulps: worst,
            out_of_place,
            rest: (rest.error(), rest.scale()),
        }
    }
}

/// Weighted sums of products.
#[derive(Debug, Default)]
struct Sums {
    /// `Σ v D²`
    change: f64,
    /// `Σ v² D⁴`
    fourth: f64,
    /// `Σ v (T − W)²`
    moved: f64,
    /// `Σ v D (T − W)`
    along: f64,
    /// `Σ v D (R − W)`
    own_along: f64,
    /// `Σ v (T − M)²`
    error: f64,
    /// `Σ v (R − M)²`
    rounding: f64,
}

impl Sums {
    fn add(&mut self, weight: f64, change: f64, moved: f64, rounding: f64) {
        self.change += weight * change * change;
        self.fourth += (weight * change * change).powi(2);
        self.moved += weight * moved * moved;
        self.along += weight * change * moved;
        self.own_along += weight * change * (change + rounding);
        self.error += weight * (moved - change).powi(2);
        self.rounding += weight * rounding * rounding;
    }

    fn scale(&self) -> f64 {
        self.along / self.own_along
    }

    fn error(&self) -> f64 {
        (self.error / self.change).sqrt()
    }

    fn residual(&self) -> f64 {
        let left = self.moved - self.along.powi(2) / self.change;
        (left.max(0.0) / self.change).sqrt()
    }
}
