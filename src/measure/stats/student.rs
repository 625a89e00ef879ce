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

/// The probability that an estimate is so far above `margin` if the truth were `margin`. `low` is
/// the low end of the estimate's 95 % interval, and the probability is below 2.5 % just where `low`
/// is above `margin`.
///
/// Draws give an interval, but not probabilities as small as those that many comparisons need.
pub fn p_above(estimate: f64, low: f64, margin: f64, degrees: usize) -> f64 {
    let error = (estimate - low) / upper_point(degrees);
    let beyond = estimate - margin;
    match error > 0.0 {
        true => upper_tail(beyond / error, degrees),
        false if beyond > 0.0 => 0.0,
        false => 1.0,
    }
}

/// The probability that an estimate with this 95 % interval is so far from zero, to either side, if
/// the truth were zero. Below 5 %, the interval excludes zero.
///
/// The deviation is taken from the interval's nearer end or from half of its width, whichever gives
/// more: drawn intervals are lopsided by chance, and their shorter side alone would make
/// probabilities below a percent several times too small (4.8 times at 0.125 %, in a simulation of
/// five starts with five runs; so it's 1.1 times).
pub fn p_of_zero(estimate: f64, [low, high]: [f64; 2], degrees: usize) -> f64 {
    let half = (high - low) / 2.0;
    let nearer = match estimate < 0.0 {
        true => high - estimate,
        false => estimate - low,
    };
    let estimate = estimate.abs();
    let one_side = p_above(estimate, estimate - nearer.max(half), 0.0, degrees);
    (2.0 * one_side).min(1.0)
}

/// The probability that a normally distributed value is above `z`. With a thousand degrees of
/// freedom, this distribution is the normal one to three digits.
pub fn normal_upper_tail(z: f64) -> f64 {
    upper_tail(z, 1000)
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

    #[test]
    fn the_probability_of_zero_agrees_with_the_interval() {
        for degrees in [4, 12] {
            for (estimate, ends, is_told) in [
                (0.1, [0.001, 0.2], true),
                (0.1, [-0.001, 0.2], false),
                (-0.1, [-0.2, -0.001], true),
                (-0.1, [-0.2, 0.001], false),
            ] {
                assert_eq!(p_of_zero(estimate, ends, degrees) < 0.05, is_told);
            }
        }
        assert_eq!(p_of_zero(0.0, [0.0, 0.0], 4), 1.0);
        assert_eq!(p_of_zero(0.1, [0.1, 0.1], 4), 0.0);
        assert!((normal_upper_tail(1.96) - 0.025).abs() < 3e-4);
    }
}
