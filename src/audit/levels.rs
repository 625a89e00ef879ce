//! Whether weights lie on few levels, as those of a dequantized model do.
//!
//! Formats differ in their blocks, scales and tables of levels, so none is assumed: with 4 bits,
//! values of a block coincide that wouldn't otherwise; with 8 bits, they're multiples of a step
//! that follows from the block's largest. What counts as the same is said by each weight's
//! rounding, not by the block's range: large models have blocks with a few weights far from all
//! others.
//!
//! A base may be a dequantized model itself. Then levels say nothing about a checkpoint.

use super::grid::ulp;
use crate::weights::Dtype;

/// Elements of a run within which 4-bit weights coincide: the smallest block in use.
const RUN: usize = 32;

/// The share of neighbours that coincide, at least, in runs with 16 levels. In bfloat16, 12 % of
/// normally distributed ones do.
const COINCIDE: f64 = 0.45;

/// Rows or columns that are looked at.
const SAMPLES: usize = 256;

/// Sizes of blocks that share a step, besides whole rows.
const BLOCKS: [usize; 4] = [32, 64, 128, 256];

/// How the step follows from a block: from its range or from its largest, and how many there are.
const STEPS: [(bool, f32); 4] = [(false, 127.0), (false, 128.0), (true, 255.0), (true, 254.0)];

/// A value is on a step if it's closer than this part of the step; 40 % of all values are by
/// chance.
const ON_STEP: f32 = 0.2;

/// A value is looked at if its rounding is smaller than this part of the step.
const EXACT: f32 = 0.27;

/// Values beyond this many steps aren't looked at: the step is known only as exactly as the
/// largest.
const MOST_STEPS: f32 = 40.0;

/// Values of a block that are looked at, at least.
const ENOUGH: usize = 12;

/// Blocks that must be on their steps, and values of such a block.
const MOST_BLOCKS: f64 = 0.7;
const MOST_VALUES: f64 = 0.85;

/// A weight, and the unit in the last place of what was stored of it.
type Weight = (f32, f32);

/// The bits of the levels that the values `found` lie on, where the base's don't lie on any.
/// `stored` are the values that were rounded to `grid`, from which `found` follows. Vectors, such as
/// the weight of a norm, aren't quantized; in 16 bits, those of a norm lie on few levels anyway.
pub fn new_levels(
    found: &[f32],
    stored: &[f32],
    base: &[f32],
    columns: usize,
    grid: Dtype,
) -> Option<u8> {
    if found.len() <= columns {
        return None;
    }
    let own = units(base, grid);
    // The change that was taken off is as exact as the merge that it's from.
    let stored = units(stored, grid).into_iter().zip(&own);
    let exact: Vec<f32> = stored.map(|(unit, own)| unit.max(*own)).collect();
    let bits = levels(found, &exact, columns)?;
    levels(base, &own, columns).is_none().then_some(bits)
}

fn units(values: &[f32], grid: Dtype) -> Vec<f32> {
    values.iter().map(|value| ulp(*value, grid)).collect()
}

/// The bits of the levels that `values`, which are exact to `units`, lie on: 4 or 8; `None` if they
/// don't.
fn levels(values: &[f32], units: &[f32], columns: usize) -> Option<u8> {
    let columns = columns.max(1);
    let rows = values.len() / columns;
    let at = |row: usize, column: usize| {
        let index = row * columns + column;
        (values[index], units[index])
    };
    let along_rows = sampled(rows).map(|row| (0..columns).map(|column| at(row, column)).collect());
    let along_columns =
        sampled(columns).map(|column| (0..rows).map(|row| at(row, column)).collect());
    let both: [Vec<Vec<Weight>>; 2] = [along_rows.collect(), along_columns.collect()];
    both.iter().find_map(|lines| {
        if coincide(lines) {
            return Some(4);
        }
        on_steps(lines).then_some(8)
    })
}

/// At most [`SAMPLES`] of `count` lines.
fn sampled(count: usize) -> impl Iterator<Item = usize> {
    (0..count).step_by(count.div_ceil(SAMPLES).max(1))
}

/// Whether neighbours in sorted runs coincide, on average.
fn coincide(lines: &[Vec<Weight>]) -> bool {
    let (mut close, mut all) = (0.0, 0.0);
    for run in lines.iter().flat_map(|line| line.chunks_exact(RUN)) {
        let mut sorted = run.to_vec();
        sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
        // A run of equal values says nothing.
        if sorted[0].0 == sorted[RUN - 1].0 {
            continue;
        }
        for pair in sorted.windows(2) {
            let [(lower, unit), (upper, other_unit)] = [pair[0], pair[1]];
            close += f64::from(u8::from(upper - lower <= unit + other_unit));
            all += 1.0;
        }
    }
    all > 0.0 && close >= COINCIDE * all
}

/// Whether the values of most blocks are multiples of a step, for one size of blocks and one way to
/// find the step.
fn on_steps(lines: &[Vec<Weight>]) -> bool {
    let whole = lines.first().map(Vec::len);
    let sizes = BLOCKS.into_iter().chain(whole).filter(|size| *size > 0);
    sizes.into_iter().any(|size| {
        STEPS.iter().any(|&(of_range, steps)| {
            let blocks = lines.iter().flat_map(|line| line.chunks_exact(size));
            let found = blocks.filter_map(|block| block_is_on_steps(block, of_range, steps));
            let (mut on, mut all) = (0.0, 0.0);
            for is_on in found {
                on += f64::from(u8::from(is_on));
                all += 1.0;
            }
            all > 0.0 && on >= MOST_BLOCKS * all
        })
    })
}

/// Whether a block's values are multiples of its step; `None` if too few are exact enough to tell.
fn block_is_on_steps(block: &[Weight], of_range: bool, steps: f32) -> Option<bool> {
    let values = || block.iter().map(|(value, _)| *value);
    let largest = values().fold(0.0, |a: f32, b| a.max(b.abs()));
    let lowest = values().fold(f32::INFINITY, f32::min);
    let highest = values().fold(f32::NEG_INFINITY, f32::max);
    let range = if of_range { highest - lowest } else { largest };
    let step = range / steps;
    if !step.is_normal() {
        return None;
    }
    let exact = block.iter().filter(|(value, unit)| {
        let in_reach = value.abs() > 0.5 * step && value.abs() < MOST_STEPS * step;
        in_reach && *unit < EXACT * step
    });
    let (mut on, mut all) = (0.0, 0.0);
    for (value, _) in exact {
        let position = value / step;
        on += f64::from(u8::from((position - position.round()).abs() < ON_STEP));
        all += 1.0;
    }
    (all >= ENOUGH as f64).then_some(on >= MOST_VALUES * all)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::distr::Distribution;
    use rand::rngs::ChaCha12Rng;

    use super::*;
    use crate::weights::round_to;

    fn normal(count: usize) -> Vec<f32> {
        let mut rng = ChaCha12Rng::seed_from_u64(3);
        let normal = rand_distr::StandardNormal;
        (0..count).map(|_| normal.sample(&mut rng)).collect()
    }

    fn quantized(weights: &[f32], block: usize, steps: f32) -> Vec<f32> {
        let of_block = |block: &[f32]| {
            let largest = block.iter().fold(0.0, |a: f32, b| a.max(b.abs()));
            let step = largest / steps;
            block
                .iter()
                .map(|value| (value / step).round() * step)
                .collect::<Vec<f32>>()
        };
        weights.chunks(block).flat_map(of_block).collect()
    }

    #[test]
    fn levels_are_found_in_every_dtype_and_nothing_is_found_in_plain_weights() {
        let (rows, columns) = (96, 192);
        let mut weights = normal(rows * columns);
        // Trained models have some weights that are far from all others.
        for weight in weights.iter_mut().step_by(29) {
            *weight *= 12.0;
        }
        for dtype in [Dtype::Float32, Dtype::Float16, Dtype::BFloat16] {
            let found = |weights: Vec<f32>| {
                let rounded: Vec<f32> = weights.iter().map(|w| round_to(*w, dtype)).collect();
                levels(&rounded, &units(&rounded, dtype), columns)
            };
            assert_eq!(found(weights.clone()), None, "{dtype}");
            for block in [32, 64, 192] {
                assert_eq!(
                    found(quantized(&weights, block, 7.0)),
                    Some(4),
                    "{dtype}, {block}"
                );
                assert_eq!(
                    found(quantized(&weights, block, 127.0)),
                    Some(8),
                    "{dtype}, {block}"
                );
            }
        }
    }
}
