//! `numpy.random.RandomState(seed)`, NumPy's legacy generator: a Mersenne twister and two of the
//! distributions.
//!
//! - `rand` takes two words: the high 27 bits of the first, the high 26 of the second.
//! - `choice(n, size, replace=False, p=…)` looks uniform numbers up in the cumulative
//!   probabilities, drops the ones that were drawn before, and repeats with the rest until there
//!   are enough.
//!
//! Source: NumPy 2.4, `random/mtrand.pyx`, `random/src/mt19937/mt19937.h`.

use super::mt19937::Mt19937;

/// The generator `RandomState(seed)`.
#[derive(Debug, Clone)]
pub struct RandomState(Mt19937);

impl RandomState {
    /// Seeds the generator.
    pub fn new(seed: u32) -> Self {
        Self(Mt19937::new(seed))
    }

    /// A value of `rand`, in `[0, 1)`.
    pub fn rand(&mut self) -> f64 {
        let high = f64::from(self.0.next_u32() >> 5);
        let low = f64::from(self.0.next_u32() >> 6);
        (high * 67_108_864.0 + low) / 9_007_199_254_740_992.0
    }

    /// `choice(n, size, replace=False, p)` with equal probabilities, `1 / n` rounded to float32.
    ///
    /// # Panics
    /// If `size` exceeds `n`.
    pub fn choose(&mut self, n: usize, size: usize) -> Vec<usize> {
        assert!(size <= n);
        let mut probabilities = vec![f64::from(1.0 / n as f32); n];
        let mut found: Vec<usize> = Vec::with_capacity(size);
        while found.len() < size {
            let drawn: Vec<f64> = (found.len()..size).map(|_| self.rand()).collect();
            for &index in &found {
                probabilities[index] = 0.0;
            }
            let mut sum = 0.0;
            let cumulated: Vec<f64> = probabilities
                .iter()
                .map(|probability| {
                    sum += probability;
                    sum
                })
                .collect();
            for value in drawn {
                let place = cumulated.partition_point(|&limit| limit / sum <= value);
                if !found.contains(&place) {
                    found.push(place);
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `RandomState(s).choice(n, size=k, replace=False, p=numpy.full(n, 1, "float32") / n)`
    #[test]
    fn choices_are_numpys() {
        for (seed, n, expected) in CHOICES {
            let mut state = RandomState::new(*seed);
            assert_eq!(state.choose(*n, expected.len()), *expected);
        }
    }

    const CHOICES: &[(u32, usize, &[usize])] = &[
        (123456789, 64, &[34, 32, 46]),
        (123456789, 5, &[2, 3, 1, 4, 0]),
        (7, 12, &[0, 9, 5, 8, 11, 6, 3, 10, 2, 1, 7]),
        (4294967295, 1000, &[97, 912, 789, 780]),
        (0, 3, &[1]),
    ];
}
