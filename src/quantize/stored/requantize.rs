//! Rounding merged weights to the checkpoint's scheme again.
//!
//! Of each group, the stored scale and zero point are tried, and those that fit the group's new
//! values; what's nearer to the values in the least squares is taken. A change that's smaller than
//! half a step of the codes is lost.

use rayon::prelude::*;

use super::scales::{Absmax, Nested, Scales, Zeros};
use super::weight::{Parts, StoredWeight, Values};
use crate::weights::{Dtype, round_to};

/// The largest value of e4m3 and e5m2.
const LARGEST: [(usize, f32); 2] = [(0x7e, 448.0), (0x7b, 57344.0)];

/// The scale and zero point of a group, and the codes of its values.
struct Group {
    scale: f32,
    zero: u8,
    codes: Vec<u8>,
}

impl StoredWeight {
    /// Rounds `values`, all of the weight, to its scheme.
    pub fn requantize(&self, values: &[f32]) -> Parts {
        let mut parts = self.parts(0..self.row_count());
        match (&self.values, &self.scales) {
            (Values::Table { values: table, .. }, Scales::Flat(absmax)) => {
                self.round_blocks(values, table, absmax, &mut parts);
            }
            (Values::Float8 { values: table, .. }, _) => {
                self.round_floats(values, &table[..], &mut parts);
            }
            (Values::Table { values: table, .. }, _) => {
                let scales = parts.scales.clone();
                self.round_groups(values, &mut parts, |group, at, _| {
                    let most = largest(group);
                    // The exponent of the largest value, less that of 4, and the next one up.
                    let exponent = most.max(f32::MIN_POSITIVE).log2().floor() - 2.0;
                    let fresh = [exponent, exponent + 1.0].map(f32::exp2);
                    best(
                        [scales[at], fresh[0], fresh[1]].map(|scale| (scale, 0)),
                        group,
                        |value, scale, _| nearest(table, value / scale),
                        |code, scale, _| table[usize::from(code)] * scale,
                    )
                });
            }
            (Values::Integers { bits, zeros }, _) => {
                self.round_integers(values, *bits, zeros, &mut parts);
            }
        }
        parts
    }

    fn round_integers(&self, values: &[f32], bits: usize, zeros: &Zeros, parts: &mut Parts) {
        let (half, most) = (1_u8 << (bits - 1), ((1_u16 << bits) - 1) as f32);
        let dtype = self.scales_dtype();
        let (scales, own_zeros) = (parts.scales.clone(), parts.zeros.clone());
        let is_symmetric = matches!(zeros, Zeros::Middle);
        let one_for_all = self.has_one_scale();
        let one = match one_for_all {
            true => self.covering(
                values,
                scales[0],
                own_zeros.as_ref().map_or(half, |zeros| zeros[0]),
                most,
            ),
            false => 0.0,
        };
        self.round_groups(values, parts, |group, at, _| {
            let zero = own_zeros.as_ref().map_or(half, |zeros| zeros[at]);
            let kept = (if one_for_all { one } else { scales[at] }, zero);
            let mut fresh = kept;
            if !one_for_all && is_symmetric {
                fresh = (
                    round_to(largest(group) / f32::from(half - 1).max(1.0), dtype),
                    half,
                );
            } else if !one_for_all {
                let low = group.iter().fold(0.0_f32, |low, value| low.min(*value));
                let high = group.iter().fold(0.0_f32, |high, value| high.max(*value));
                let scale = round_to((high - low) / most, dtype);
                if scale > 0.0 {
                    // GPTQ's first version can't store a zero point of 0 as anything but 0 − 1.
                    fresh = (scale, (-low / scale).round().clamp(0.0, most) as u8);
                }
            }
            let code = |value: f32, scale: f32, zero: u8| match scale == 0.0 {
                true => zero,
                false => (value / scale + f32::from(zero)).round().clamp(0.0, most) as u8,
            };
            best([kept, fresh], group, code, |code, scale, zero| {
                (f32::from(code) - f32::from(zero)) * scale
            })
        });
    }

    /// The one scale of all values: `scale`, or a larger one if they're beyond its codes.
    fn covering(&self, values: &[f32], scale: f32, zero: u8, most: f32) -> f32 {
        let (below, above) = (f32::from(zero), most - f32::from(zero));
        let needed = values.iter().map(|&value| match value < 0.0 {
            true => -value / below.max(1.0),
            false => value / above.max(1.0),
        });
        let needed = needed.fold(scale, f32::max);
        round_to(needed, self.scales_dtype())
    }

    /// Rounds each group of each row; `round` gets its values and its index in the scales.
    fn round_groups(
        &self,
        values: &[f32],
        parts: &mut Parts,
        round: impl Fn(&[f32], usize, usize) -> Group + Sync,
    ) {
        let (columns, groups) = (self.columns(), self.group_count());
        let mut members: Vec<Vec<usize>> = vec![Vec::new(); groups];
        for column in 0..columns {
            members[self.groups.of(column)].push(column);
        }
        let rows: Vec<Vec<Group>> = values
            .par_chunks(columns)
            .enumerate()
            .map(|(row, values)| {
                let of = |(group, members): (usize, &Vec<usize>)| {
                    let own: Vec<f32> = members.iter().map(|&column| values[column]).collect();
                    round(&own, row * groups + group, group)
                };
                members.iter().enumerate().map(of).collect()
            })
            .collect();
        for (row, found) in rows.into_iter().enumerate() {
            for (group, rounded) in found.into_iter().enumerate() {
                let at = row * groups + group;
                parts.scales[at] = rounded.scale;
                if let Some(zeros) = &mut parts.zeros {
                    zeros[at] = rounded.zero;
                }
                for (&column, code) in members[group].iter().zip(rounded.codes) {
                    parts.codes[row * columns + column] = code;
                }
            }
        }
    }

    /// Rounds bitsandbytes' blocks, whose scale is the largest magnitude.
    fn round_blocks(&self, values: &[f32], table: &[f32], absmax: &Absmax, parts: &mut Parts) {
        let most: Vec<f32> = values.chunks(absmax.block).map(largest).collect();
        // Scales that are quantized themselves share a scale, too, which is made larger if need be.
        let own_scale = |nested: &Nested, index: usize| {
            let first = index / nested.block * nested.block;
            let sharing = &most[first..most.len().min(first + nested.block)];
            let beyond = sharing.iter().map(|scale| (scale - nested.offset).abs());
            beyond.fold(nested.absmax[index / nested.block], f32::max)
        };
        for (index, block) in values.chunks(absmax.block).enumerate() {
            let fresh = match &absmax.nested {
                None => most[index],
                Some(nested) => {
                    let own = own_scale(nested, index);
                    let choices = nested.map.iter().map(|value| value * own + nested.offset);
                    let apart = |scale: &f32| (scale - most[index]).abs();
                    let found = choices.min_by(|a, b| apart(a).total_cmp(&apart(b)));
                    found.unwrap_or(most[index])
                }
            };
            let choices = [parts.scales[index], fresh].map(|scale| (scale, 0));
            let code = |value: f32, scale: f32, _| {
                nearest(table, if scale == 0.0 { 0.0 } else { value / scale })
            };
            let found = best(choices, block, code, |code, scale, _| {
                table[usize::from(code)] * scale
            });
            parts.scales[index] = found.scale;
            let first = index * absmax.block;
            parts.codes[first..first + block.len()].copy_from_slice(&found.codes);
        }
    }

    /// Rounds floats of 8 bits: the largest magnitude that shares a scale is the largest float.
    fn round_floats(&self, values: &[f32], table: &[f32], parts: &mut Parts) {
        let (columns, groups) = (self.columns(), self.group_count());
        let largest_float = LARGEST.map(|(code, value)| (table[code] == value).then_some(value));
        let largest_float = largest_float.into_iter().flatten().next().unwrap_or(448.0);
        let cell_of = |row: usize, group: usize| match &self.scales {
            _ if self.has_one_scale() => 0,
            Scales::Tiles { rows, matrix, .. } => {
                let tiles = matrix.div_ceil(*rows);
                (row / matrix * tiles + row % matrix / rows) * groups + group
            }
            _ => row * groups + group,
        };
        let mut most = vec![0.0_f32; self.row_count() * groups];
        for (index, value) in values.iter().enumerate() {
            let cell = cell_of(index / columns, self.groups.of(index % columns));
            most[cell] = most[cell].max(value.abs());
        }
        let dtype = self.scales_dtype();
        for row in 0..self.row_count() {
            for group in 0..groups {
                let most = most[cell_of(row, group)];
                let stored = &mut parts.scales[row * groups + group];
                // Floats are as precise with any scale that's large enough.
                if most <= *stored * largest_float {
                    continue;
                }
                *stored = match self.has_exponents() {
                    true => (most.max(f32::MIN_POSITIVE) / largest_float)
                        .log2()
                        .ceil()
                        .exp2(),
                    false => round_to(most / largest_float, dtype),
                };
            }
        }
        let mut sorted: Vec<(f32, u8)> = (0..=255_u8)
            .map(|code| (table[usize::from(code)], code))
            .filter(|(value, _)| value.is_finite())
            .collect();
        sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
        for (index, &value) in values.iter().enumerate() {
            let group = self.groups.of(index % columns);
            let scale = parts.scales[index / columns * groups + group];
            let unscaled = if scale == 0.0 { 0.0 } else { value / scale };
            let above = sorted.partition_point(|(known, _)| *known < unscaled);
            let near = [above.saturating_sub(1), above.min(sorted.len() - 1)];
            let apart = |at: usize| (sorted[at].0 - unscaled).abs();
            let found = if apart(near[0]) <= apart(near[1]) {
                near[0]
            } else {
                near[1]
            };
            parts.codes[index] = sorted[found].1;
        }
    }

    fn scales_tensor(&self) -> &crate::weights::TensorHandle {
        match &self.scales {
            Scales::ByGroup(tensor)
            | Scales::ByRow { tensor, .. }
            | Scales::Tiles { tensor, .. } => tensor,
            Scales::Flat(absmax) => &absmax.tensor,
        }
    }

    /// The type that scales are stored in; float32 for those that are no floats.
    fn scales_dtype(&self) -> Dtype {
        let found = self.scales_tensor().view().dtype();
        found.unwrap_or(Dtype::Float32)
    }

    fn has_exponents(&self) -> bool {
        self.scales_tensor().view().dtype().is_err()
    }

    fn has_one_scale(&self) -> bool {
        self.scales_tensor().view().elements() == 1
    }
}

/// The largest magnitude.
fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most, value| most.max(value.abs()))
}

/// The code of the nearest value.
fn nearest(table: &[f32], value: f32) -> u8 {
    let apart = |code: &usize| (table[*code] - value).abs();
    let codes = 0..table.len();
    let found = codes.min_by(|a, b| apart(a).total_cmp(&apart(b)));
    found.unwrap_or(0) as u8
}

/// The codes of `group` with the scale and zero point whose values are nearest.
fn best<const N: usize>(
    choices: [(f32, u8); N],
    group: &[f32],
    code: impl Fn(f32, f32, u8) -> u8,
    value: impl Fn(u8, f32, u8) -> f32,
) -> Group {
    let rounded = choices.map(|(scale, zero)| {
        let codes: Vec<u8> = group.iter().map(|&own| code(own, scale, zero)).collect();
        let errors = codes.iter().zip(group).map(|(&code, own)| {
            let off = f64::from(value(code, scale, zero) - own);
            off * off
        });
        let error: f64 = errors.sum();
        (error, Group { scale, zero, codes })
    });
    let found = rounded.into_iter().min_by(|a, b| a.0.total_cmp(&b.0));
    found.expect("there is at least one choice").1
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::BaseModel;

    #[test]
    fn what_is_in_a_scheme_already_stays_as_it_is() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/stored");
        let mut count = 0;
        for folder in std::fs::read_dir(fixtures).unwrap() {
            let path = folder.unwrap().path();
            let base = BaseModel::open_folder(&path).unwrap();
            for (name, weight) in &base.stored.as_ref().unwrap().weights {
                let values = weight.values(&weight.parts(0..weight.row_count()));
                let again = weight.values(&weight.requantize(&values));
                let most = largest(&values);
                for (a, b) in values.iter().zip(&again) {
                    let place = format!("{} {name}: {a} {b}", path.display());
                    // A stored value may have been rounded to 16 bits.
                    assert!((a - b).abs() <= 4e-3 * most, "{place}");
                }
                count += 1;
            }
        }
        assert!(count > 200, "{count}");
    }

    #[test]
    fn a_large_change_is_followed_within_a_step_of_the_codes() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/stored");
        // The largest error of a value, relative to the largest value of the weight.
        for (name, allowed) in [
            ("gptq-8-act", 0.01),
            ("gptq-mixed", 0.15),
            ("awq-experts", 0.15),
            ("nf4-double", 0.35),
            ("ct-int8", 0.02),
            ("ct-mxfp4", 0.3),
            ("ct-float8", 0.08),
        ] {
            let base = BaseModel::open_folder(&fixtures.join(name)).unwrap();
            for (path, weight) in &base.stored.as_ref().unwrap().weights {
                let mut values = weight.values(&weight.parts(0..weight.row_count()));
                for (index, value) in values.iter_mut().enumerate() {
                    *value = 3.0 * *value + ((index * 37 % 101) as f32 - 50.0) / 100.0;
                }
                let again = weight.values(&weight.requantize(&values));
                let most = largest(&values);
                for (a, b) in values.iter().zip(&again) {
                    assert!(
                        (a - b).abs() <= allowed * most,
                        "{name} {path}: {a} {b} {most}"
                    );
                }
            }
        }
    }
}
