//! How far the logits of two engines lie apart, each `[tokens, vocab_size]`.

/// `max |a - b| / max |a|` over all tokens.
pub fn difference(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    let (mut largest, mut difference) = (0.0_f32, 0.0_f32);
    for (a, b) in pairs {
        largest = largest.max(a.abs());
        // A NaN must not pass: `max` would drop it, and so would a quotient of two infinities.
        let step = (a - b).abs();
        if !step.is_finite() {
            return f32::INFINITY;
        }
        difference = difference.max(step);
    }
    difference / largest.max(f32::MIN_POSITIVE)
}

/// `rms(a - b) / rms(a)` over all tokens: what rounding does to most logits, and not to the one that it hits hardest.
pub fn mean_difference(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    let (mut size, mut difference) = (0.0_f64, 0.0_f64);
    for (&a, &b) in pairs {
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
