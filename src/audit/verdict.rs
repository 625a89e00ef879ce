//! What a tensor of a checkpoint is, compared with base and merge.

use serde::Serialize;

use super::fit::Fit;

/// What was found of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// Bit for bit what's expected, rounded once to the tensor's dtype.
    Equal,
    /// What's expected, but for rounding.
    Rounding,
    /// The merge of an adapter that was rounded to 16 bits first, but for rounding.
    AdapterRounded,
    /// The base's tensor, where the adapter changes it.
    NotApplied,
    /// The adapter's change, twice.
    Twice,
    /// The adapter's change, subtracted.
    Subtracted,
    /// The adapter's change, times a factor.
    Scaled {
        /// The factor.
        factor: f64,
    },
    /// DoRA's change without its magnitudes: that of a plain LoRA.
    WithoutMagnitudes,
    /// A change that isn't this adapter's.
    OtherChange,
    /// The adapter's change on weights that were quantized and dequantized, or such weights alone.
    QuantizedBase {
        /// Their bits.
        bits: u8,
    },
    /// Other weights than the base's, with the adapter's change or without it.
    OtherBase,
    /// Right, but for some elements.
    SomeElements {
        /// How many.
        count: usize,
    },
    /// None of the above.
    Different,
    /// A tensor that the adapter doesn't change isn't the base's.
    Changed,
    /// It isn't there.
    Missing,
    /// It's there, and neither base nor adapter have it.
    Extra,
    /// It has another shape.
    Shape,
    /// It holds a NaN or an infinity.
    NotFinite,
}

impl Verdict {
    /// Whether nothing is wrong.
    pub fn is_right(self) -> bool {
        matches!(self, Self::Equal | Self::Rounding | Self::AdapterRounded)
    }

    /// The same kind of verdict, whatever its figures.
    pub fn is_as(self, other: Self) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }
}

/// What a tensor is compared with. Only the right merge is made for every tensor.
pub struct Candidates<'a> {
    /// How the right merge fits.
    pub right: Fit,
    /// The merge of the adapter rounded to 16 bits, the closest of them.
    pub adapter_rounded: &'a dyn Fn() -> Option<Fit>,
    /// The merge into the merged tensor.
    pub twice: &'a dyn Fn() -> Option<Fit>,
    /// The merge without DoRA's magnitudes.
    pub without_magnitudes: &'a dyn Fn() -> Option<Fit>,
    /// The bits of the levels that the weights lie on, under the change or without it.
    pub levels: &'a dyn Fn() -> Option<u8>,
}

/// How much of a rounded merge's own rounding is put down to rounding: 16-bit programs round up to
/// three times, of the weight, of a factor for it, and of the product.
const ROUNDINGS: f64 = 2.5;

/// The largest error of a right merge in units of the change, besides rounding.
const RIGHT: f64 = 1e-3;

/// The same, for an adapter in 16 bits: products and their sum are rounded again.
const RIGHT_IN_16_BITS: f64 = 6e-3;

/// The error up to which a tensor is named after a wrong merge.
const NAMED: f64 = 0.03;

/// A difference of so many times the change is no other adapter's: other weights are underneath.
const FAR: f64 = 4.0;

/// A share of equal elements that wrong merges don't reach.
const MOSTLY_EQUAL: f64 = 0.98;

/// The share of elements that may be out of place in a tensor that's right but for them.
const FEW: f64 = 0.05;

impl Fit {
    fn rounded(&self) -> f64 {
        ROUNDINGS * self.rounding
    }

    /// The uncertainty of the scale.
    fn scale_error(&self) -> f64 {
        3.0 * self.residual.max(self.rounding) / self.effective.sqrt()
    }

    /// Whether it's that merge, but for rounding and an error up to `tolerance`.
    fn fits(&self, tolerance: f64) -> bool {
        let (error, scale) = (self.error, self.scale);
        let largest =
            0.01 + 0.3 * self.rounding.min(0.1) + 3.0 * self.rounding / self.effective.sqrt();
        error <= self.rounded() + tolerance && (scale - 1.0).abs() <= largest
    }

    fn is_right(&self, tolerance: f64) -> bool {
        let mostly_equal = self.equal >= MOSTLY_EQUAL && self.worst_ulps <= 1.0;
        mostly_equal || (self.fits(tolerance) && self.out_of_place == 0)
    }

    fn is_right_but_for_some(&self, elements: usize) -> bool {
        let (error, scale) = self.rest;
        let few = self.out_of_place as f64 <= FEW * elements as f64;
        let rest = Self {
            error,
            scale,
            ..*self
        };
        self.out_of_place > 0 && few && rest.fits(RIGHT_IN_16_BITS)
    }
}

/// Names what was found of a tensor that the adapter changes and that has this number of
/// `elements`.
pub fn judge(candidates: &Candidates, elements: usize) -> Verdict {
    let right = &candidates.right;
    if right.is_right(RIGHT) {
        return Verdict::Rounding;
    }
    // Merges are only made where they may be what was found.
    let scale = right.scale;
    if (scale - 1.0).abs() <= 0.1
        && let Some(rounded) = (candidates.adapter_rounded)()
        && rounded.error < 0.85 * right.error
        && rounded.is_right(RIGHT_IN_16_BITS)
    {
        return Verdict::AdapterRounded;
    }
    // How far off rounding lets a wrong merge of `factor` times the change be.
    let near =
        |fit: &Fit, error: f64, factor: f64| error <= fit.rounded() + NAMED * factor.abs().max(1.0);
    if near(right, right.moved, 0.0) {
        return Verdict::NotApplied;
    }
    if scale > 1.2 && (candidates.twice)().is_some_and(|twice| near(&twice, twice.error, 1.0)) {
        return Verdict::Twice;
    }
    if scale > 0.2
        && let Some(plain) = (candidates.without_magnitudes)()
        && plain.error < right.error
        && near(&plain, plain.error, 1.0)
    {
        return Verdict::WithoutMagnitudes;
    }
    if near(right, right.residual, scale) && (scale - 1.0).abs() > NAMED {
        return named_by(scale);
    }
    if right.is_right_but_for_some(elements) {
        return Verdict::SomeElements {
            count: right.out_of_place,
        };
    }
    if let Some(bits) = (candidates.levels)() {
        return Verdict::QuantizedBase { bits };
    }
    // A change that isn't linear in the adapter's scale, such as DoRA's.
    if right.residual <= 0.6 * (scale - 1.0).abs() {
        return named_by(scale);
    }
    let uncertain = 0.25 + right.scale_error();
    if right.residual >= FAR {
        Verdict::OtherBase
    } else if scale.abs() <= uncertain.min(0.5) {
        Verdict::OtherChange
    } else if (scale - 1.0).abs() <= uncertain {
        Verdict::OtherBase
    } else {
        Verdict::Different
    }
}

fn named_by(factor: f64) -> Verdict {
    match factor {
        factor if factor.abs() <= 0.05 => Verdict::NotApplied,
        factor if (factor + 1.0).abs() <= 0.1 => Verdict::Subtracted,
        factor if (factor - 2.0).abs() <= 0.06 => Verdict::Twice,
        factor => Verdict::Scaled { factor },
    }
}
