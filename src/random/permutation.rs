//! The first numbers of `torch.randperm(n)`, without keeping all `n`: an adapter needs a few
//! thousand indices into a weight with hundreds of millions of elements.
//!
//! - Short permutations are shuffled from the front: `p = 0..n`, and for each `k`, elements `k` and
//!   `k + u32 mod (n - k)` are swapped. The first `count` numbers need `count` draws.
//! - Long ones are built inside out: for each `k`, with `z = u64 mod (k + 1)`, `p[k] = p[z]` and
//!   `p[z] = k`. All `n` draws are needed, but only the first `count` elements of `p`: nothing
//!   moves to the front from behind them.
//!
//! Source: PyTorch 2.15, `aten/src/ATen/native/TensorFactories.cpp`, `randperm_cpu`.

use std::collections::HashMap;

use super::TorchGenerator;

/// The length from which a permutation is long: a 32-bit word would favour some elements by more
/// than 1 in 20.
const LONG: u64 = u32::MAX as u64 / 20;

/// Draws a permutation of `0..n` and returns its first `count` numbers. The generator's state is
/// then the one after the whole permutation.
///
/// # Panics
/// If `count` exceeds `n`.
pub fn first_of(generator: &mut TorchGenerator, n: u64, count: usize) -> Vec<u64> {
    assert!(count as u64 <= n, "{count} numbers of a permutation of {n}");
    if n < LONG {
        shuffled(generator, n, count)
    } else {
        inside_out(generator, n, count)
    }
}

fn shuffled(generator: &mut TorchGenerator, n: u64, count: usize) -> Vec<u64> {
    // Positions whose number was changed. A position that was passed isn't read again.
    let mut moved: HashMap<u64, u64> = HashMap::new();
    let mut first = Vec::with_capacity(count);
    for place in 0..count as u64 {
        let here = moved.remove(&place).unwrap_or(place);
        // The last position needs no draw.
        if place + 1 == n {
            first.push(here);
            break;
        }
        let other = place + u64::from(generator.next_u32()) % (n - place);
        if other == place {
            first.push(here);
        } else {
            first.push(moved.insert(other, here).unwrap_or(other));
        }
    }
    for _ in count as u64..n.saturating_sub(1) {
        generator.next_u32();
    }
    first
}

fn inside_out(generator: &mut TorchGenerator, n: u64, count: usize) -> Vec<u64> {
    let mut first: Vec<u64> = Vec::with_capacity(count);
    for place in 0..n {
        let other = (generator.next_u64() % (place + 1)) as usize;
        if first.len() < count {
            first.push(place);
            first.swap(place as usize, other);
        } else if let Some(number) = first.get_mut(other) {
            *number = place;
        }
    }
    first
}

#[cfg(test)]
mod tests {
    use super::super::recorded::{Recorded, as_u64s};
    use super::*;

    fn check(cases: impl Iterator<Item = serde_json::Value>) {
        let mut checked = 0;
        for case in cases {
            let mut generator = TorchGenerator::new(case["seed"].as_u64().unwrap());
            let expected = as_u64s(&case["first"]);
            let n = case["n"].as_u64().unwrap();
            assert_eq!(first_of(&mut generator, n, expected.len()), expected);
            checked += 1;
        }
        assert!(checked > 0);
    }

    fn is_long(case: &serde_json::Value) -> bool {
        case["n"].as_u64().unwrap() >= LONG
    }

    #[test]
    fn short_permutations_are_pytorchs() {
        let cases = Recorded::read().cases("randperm").into_iter();
        check(cases.filter(|case| !is_long(case)));
    }

    #[test]
    #[ignore = "takes hundreds of millions of draws: run it with --release"]
    fn long_permutations_are_pytorchs() {
        check(
            Recorded::read()
                .cases("randperm")
                .into_iter()
                .filter(is_long),
        );
    }

    #[test]
    fn one_permutation_follows_another_as_in_pytorch() {
        for case in Recorded::read().cases("randperm_calls") {
            let mut generator = TorchGenerator::new(case["seed"].as_u64().unwrap());
            for call in case["calls"].as_array().unwrap() {
                let expected = as_u64s(&call["first"]);
                let n = call["n"].as_u64().unwrap();
                assert_eq!(first_of(&mut generator, n, expected.len()), expected);
            }
        }
    }

    #[test]
    fn a_part_of_a_permutation_is_its_beginning() {
        for draw in [shuffled, inside_out] {
            let all = draw(&mut TorchGenerator::new(3), 50, 50);
            let mut sorted = all.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..50).collect::<Vec<u64>>());
            for count in [0, 1, 7, 49] {
                let part = draw(&mut TorchGenerator::new(3), 50, count);
                assert_eq!(part, all[..count]);
            }
        }
    }
}
