//! The starts of a side: its results are starts of the same measurement, and each may itself hold
//! several (`measure --restarts`).

use super::Source;
use crate::measure::stats::{MIN_STARTS, OfStart, Start, by_start};
use crate::report::model::Report;

/// Values of a side, by start and stratum.
pub(super) type Side = Vec<Start>;

/// The starts of `side`; `values` has those of a result by stratum, `None` if a result has none.
pub(super) fn of_side(
    side: &[Source],
    values: impl Fn(&Report) -> Option<Vec<Vec<OfStart>>>,
) -> Option<Side> {
    let all = side.iter().map(|source| values(&source.report));
    Some(of_results(all.collect::<Option<_>>()?))
}

/// The starts of results.
///
/// Results of several sessions differ by more than starts within one do. So where there are enough
/// results, each is drawn as a whole, with all of its starts; of fewer, their starts are drawn.
fn of_results(results: Vec<Vec<Vec<OfStart>>>) -> Side {
    let are_drawn = results.len() >= MIN_STARTS;
    let starts = results.into_iter().flat_map(|mut strata| {
        if are_drawn {
            for one in strata.iter_mut().flatten() {
                one.start = 0;
            }
        }
        by_start(&strata)
    });
    starts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_drawn_within_few_results_and_results_where_there_are_enough() {
        let of = |start, value| OfStart { start, value };
        let result = vec![vec![of(0, 1.0), of(1, 2.0), of(1, 3.0)]];
        let within = of_results(vec![result.clone(); 2]);
        let one = [vec![vec![1.0]], vec![vec![2.0, 3.0]]];
        assert_eq!(within, [&one[..], &one[..]].concat());
        let whole = of_results(vec![result; 3]);
        assert_eq!(whole, vec![vec![vec![1.0, 2.0, 3.0]]; 3]);
    }
}
