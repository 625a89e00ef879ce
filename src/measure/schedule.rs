//! The order of the subjects in each round.
//!
//! A machine drifts: it warms up, clocks down, and is shared with others. If a subject always ran
//! first, or always after the same one, its times would contain that. A Williams design balances
//! it: within one period of rounds, every subject takes every position equally often and follows
//! every other subject equally often. For `k` subjects a period has `k` rounds if `k` is even, and
//! `2k` if it's odd, for which `k` rounds aren't enough.
//!
//! Source: E. J. Williams, "Experimental designs balanced for the estimation of residual effects of
//! treatments", Australian Journal of Scientific Research A 2, 1949.

use crate::random::SplitMix64;

/// The number of rounds in a period: after it, positions and neighbours are balanced.
///
/// Fewer rounds, or an incomplete last period, are balanced only approximately.
pub fn balanced_period(variants: usize) -> usize {
    match variants {
        0 | 1 => 1,
        even if even.is_multiple_of(2) => even,
        odd => 2 * odd,
    }
}

/// The order of the subjects `0..variants` in each of `rounds` rounds.
///
/// `seed` shuffles the subjects' places in the design, and the order of its rounds. The rounds
/// repeat after [`balanced_period`], so any stretch of that length is balanced, wherever it starts.
/// For an odd number of subjects, each half of a period is balanced in the positions alone.
pub fn balanced_order(variants: usize, rounds: usize, seed: u64) -> Vec<Vec<usize>> {
    let mut random = SplitMix64::new(seed);
    let mut parts: Vec<usize> = (0..variants).collect();
    random.shuffle(&mut parts);
    let mut starts: Vec<usize> = (0..variants).collect();
    random.shuffle(&mut starts);

    let mut period: Vec<Vec<usize>> = starts
        .iter()
        .map(|start| {
            zigzag(variants)
                .map(|step| parts[(start + step) % variants])
                .collect()
        })
        .collect();
    if balanced_period(variants) > variants {
        let mirrored: Vec<Vec<usize>> = period
            .iter()
            .map(|round| round.iter().rev().copied().collect())
            .collect();
        period.extend(mirrored);
    }
    period.into_iter().cycle().take(rounds).collect()
}

/// `0, 1, k-1, 2, k-2, …`: neighbours differ by `1, -2, 3, -4, …`, so for an even `k` each
/// difference modulo `k` occurs once.
fn zigzag(count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |place| {
        if place % 2 == 1 {
            place.div_ceil(2)
        } else {
            (count - place / 2) % count
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `counts[variant][position]`, and `counts[variant][the one before it]`.
    fn counts(rounds: &[Vec<usize>], variants: usize) -> (Vec<Vec<u32>>, Vec<Vec<u32>>) {
        let mut positions = vec![vec![0; variants]; variants];
        let mut followed = vec![vec![0; variants]; variants];
        for round in rounds {
            for (position, &variant) in round.iter().enumerate() {
                positions[variant][position] += 1;
                if position > 0 {
                    followed[variant][round[position - 1]] += 1;
                }
            }
        }
        (positions, followed)
    }

    #[test]
    fn in_any_period_every_variant_takes_every_position_and_follows_every_other_equally_often() {
        for variants in 1..=7 {
            let period = balanced_period(variants);
            for seed in 0..10 {
                let order = balanced_order(variants, 3 * period, seed);
                for first in 0..=2 * period {
                    let (positions, followed) = counts(&order[first..first + period], variants);
                    let times = (period / variants) as u32;
                    for variant in 0..variants {
                        assert_eq!(positions[variant], vec![times; variants]);
                        let mut expected = vec![times; variants];
                        expected[variant] = 0;
                        assert_eq!(
                            followed[variant], expected,
                            "{variants} variants, seed {seed}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn three_rounds_of_three_variants_are_balanced_in_their_positions() {
        for seed in 0..20 {
            let (positions, _) = counts(&balanced_order(3, 3, seed), 3);
            assert_eq!(positions, vec![vec![1; 3]; 3]);
        }
    }

    #[test]
    fn every_round_has_every_variant_once() {
        for variants in 0..=6 {
            let order = balanced_order(variants, 5, 9);
            assert_eq!(order.len(), if variants == 0 { 0 } else { 5 });
            for mut round in order {
                round.sort_unstable();
                assert_eq!(round, (0..variants).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn the_seed_decides_the_order() {
        assert_eq!(balanced_order(4, 4, 1), balanced_order(4, 4, 1));
        let firsts: std::collections::BTreeSet<usize> = (0..50)
            .map(|seed| balanced_order(4, 1, seed)[0][0])
            .collect();
        assert_eq!(firsts.len(), 4);
    }
}
