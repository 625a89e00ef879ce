//! The difference between the logits of two engines, each `[steps, vocab_size]`. Only steps and
//! tokens that both have are compared: an adapter may add tokens that its base doesn't know.

/// Pairs of the logits that both have.
fn pairs<'a>(a: &'a [Vec<f32>], b: &'a [Vec<f32>]) -> impl Iterator<Item = (f32, f32)> + 'a {
    let rows = a.iter().zip(b);
    rows.flat_map(|(a, b)| a.iter().copied().zip(b.iter().copied()))
}

/// `max |a - b| / max |a|` over all steps; infinite if a logit isn't finite.
pub fn difference(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    let (mut largest, mut difference) = (0.0_f32, 0.0_f32);
    for (a, b) in pairs(a, b) {
        largest = largest.max(a.abs());
        // `f32::max` would drop a NaN.
        let step = (a - b).abs();
        if !step.is_finite() {
            return f32::INFINITY;
        }
        difference = difference.max(step);
    }
    difference / largest.max(f32::MIN_POSITIVE)
}

/// `rms(a - b) / rms(a)` over all steps: the effect of rounding on a typical logit, not on the
/// worst one.
pub fn mean_difference(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    let (mut size, mut difference) = (0.0_f64, 0.0_f64);
    for (a, b) in pairs(a, b) {
        size += f64::from(a).powi(2);
        difference += (f64::from(a) - f64::from(b)).powi(2);
    }
    let ratio = (difference / size.max(f64::MIN_POSITIVE)).sqrt();
    if ratio.is_finite() {
        ratio as f32
    } else {
        f32::INFINITY
    }
}
