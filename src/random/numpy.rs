//! `numpy.random.default_rng`: the two calls that Uni-LoRA makes.
//!
//! Both draw bounded integers: `choice` without replacement by Lemire's multiplication, `shuffle`
//! by masking a word and rejecting it until it's small enough.
//!
//! Source: NumPy 2.4, `random/_generator.pyx` (`choice`, `shuffle`), `random/src/distributions/`.

use std::collections::HashSet;

use super::pcg64::Pcg64;

/// The generator that `numpy.random.default_rng(seed)` returns.
#[derive(Debug, Clone)]
pub struct NumpyGenerator {
    bits: Pcg64,
}

impl NumpyGenerator {
    /// `default_rng(seed)`
    pub fn new(seed: u64) -> Self {
        Self {
            bits: Pcg64::new(seed),
        }
    }

    /// `choice(population, size, replace=False)`: `size` different numbers below `population`.
    ///
    /// # Panics
    /// If `size` exceeds `population`.
    pub fn choice(&mut self, population: u32, size: u32) -> Vec<u32> {
        assert!(size <= population, "{size} of {population} numbers");
        if population > 10_000 && size > population / 50 {
            // Shuffle the tail of all numbers.
            let mut numbers: Vec<u32> = (0..population).collect();
            for last in ((population - size).max(1)..population).rev() {
                numbers.swap(last as usize, self.up_to(last) as usize);
            }
            return numbers.split_off((population - size) as usize);
        }
        // Floyd's sampling. Its order isn't uniform, so the numbers are shuffled afterwards.
        let mut taken = HashSet::new();
        let mut numbers = Vec::with_capacity(size as usize);
        for last in population - size..population {
            let drawn = self.up_to(last);
            let number = if taken.contains(&drawn) { last } else { drawn };
            taken.insert(number);
            numbers.push(number);
        }
        for last in (1..size).rev() {
            numbers.swap(last as usize, self.up_to(last) as usize);
        }
        numbers
    }

    /// `shuffle(items)` for fewer than 2^32 items.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let last_index = u32::try_from(last).expect("an adapter has fewer than 2^32 indices");
            items.swap(last, self.masked_up_to(last_index) as usize);
        }
    }

    /// An integer in `0..=largest`, by Lemire's method.
    fn up_to(&mut self, largest: u32) -> u32 {
        if largest == 0 {
            return 0;
        }
        let Some(range) = largest.checked_add(1) else {
            return self.bits.next_u32();
        };
        let mut product = u64::from(self.bits.next_u32()) * u64::from(range);
        if (product as u32) < range {
            let threshold = (u32::MAX - largest) % range;
            while (product as u32) < threshold {
                product = u64::from(self.bits.next_u32()) * u64::from(range);
            }
        }
        (product >> 32) as u32
    }

    /// An integer in `0..=largest`, by rejecting masked words. `largest` must not be 0.
    fn masked_up_to(&mut self, largest: u32) -> u32 {
        let mask = u32::MAX >> largest.leading_zeros();
        loop {
            let word = self.bits.next_u32() & mask;
            if word <= largest {
                return word;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::recorded::{Recorded, as_u64s};
    use super::*;

    #[test]
    fn choices_and_shuffles_are_numpys() {
        for case in Recorded::read().cases("default_rng") {
            let number = |key: &str| case[key].as_u64().unwrap();
            let mut generator = NumpyGenerator::new(number("seed"));
            let size = number("size") as u32;
            let chosen = generator.choice(number("population") as u32, size);
            let chosen: Vec<u64> = chosen.into_iter().map(u64::from).collect();
            let (first, last) = (as_u64s(&case["first"]), as_u64s(&case["last"]));
            assert_eq!(chosen.len(), size as usize);
            assert!(chosen.starts_with(&first), "{case}");
            assert!(chosen.ends_with(&last), "{case}");

            let mut numbers: Vec<u64> = (0..100).collect();
            generator.shuffle(&mut numbers);
            assert_eq!(numbers, as_u64s(&case["shuffled"]), "{case}");
        }
    }
}
