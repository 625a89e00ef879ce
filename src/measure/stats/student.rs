//! Student's t distribution, for whole degrees of freedom.
//!
//! Source: Abramowitz and Stegun, "Handbook of mathematical functions", 26.7.3 and 26.7.4.

use std::f64::consts::FRAC_2_PI;

/// The probability that a value of this distribution is above `t`.
pub fn upper_tail(t: f64, degrees: usize) -> f64 {
    let half = (1.0 - within(t.abs(), degrees)) / 2.0;
    if t < 0.0 { 1.0 - half } else { half }
}

/// The value that 2.5 % of this distribution are above.
pub fn upper_point(degrees: usize) -> f64 {
    // 12.7 with one degree of freedom, and less with more.
    let (mut low, mut high) = (1.0, 20.0);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if upper_tail(middle, degrees) > 0.025 {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

/// The probability of a value between `-t` and `t`.
fn within(t: f64, degrees: usize) -> f64 {
    let angle = (t / (degrees as f64).sqrt()).atan();
    let (sine, cosine) = angle.sin_cos();
    let is_odd = degrees % 2 == 1;
    let mut term = if is_odd { cosine } else { 1.0 };
    let mut sum = 0.0;
    let mut power = if is_odd { 1 } else { 0 };
    while power + 2 <= degrees {
        sum += term;
        term *= cosine * cosine * (power + 1) as f64 / (power + 2) as f64;
        power += 2;
    }
    match is_odd {
        true => FRAC_2_PI * (angle + sine * sum),
        false => sine * sum,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_those_of_the_tables() {
        for (degrees, expected) in [
            (1, 12.7062),
            (2, 4.3027),
            (4, 2.7764),
            (5, 2.5706),
            (8, 2.3060),
            (24, 2.0639),
            (120, 1.9799),
        ] {
            let found = upper_point(degrees);
            assert!((found - expected).abs() < 1e-3, "{degrees}: {found}");
        }
    }

    #[test]
    fn tails_are_those_of_scipy() {
        // scipy.stats.t.sf(t, degrees)
        for (t, degrees, expected) in [
            (0.0, 3, 0.5),
            (2.0, 3, 0.069_662_984),
            (-2.0, 4, 0.941_941_738),
            (3.0, 10, 0.006_671_828),
            (4.5, 7, 0.001_399_165),
        ] {
            let found = upper_tail(t, degrees);
            assert!((found - expected).abs() < 1e-6, "{t}, {degrees}: {found}");
        }
    }
}
