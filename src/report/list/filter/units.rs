//! Units of numbers in expressions.

use crate::report::table::Unit;

/// Units with what one of them is in the column's own.
type Units = &'static [(&'static str, f64)];

const TIMES: Units = &[
    ("ns", 1e-9),
    ("us", 1e-6),
    ("µs", 1e-6),
    ("ms", 1e-3),
    ("s", 1.0),
    ("min", 60.0),
];
const SIZES: Units = &[
    ("B", 1.0 / 1_048_576.0),
    ("KiB", 1.0 / 1024.0),
    ("MiB", 1.0),
    ("GiB", 1024.0),
];
const COUNTS: Units = &[("k", 1e3), ("M", 1e6), ("G", 1e9)];
const PERCENT: Units = &[("%", 1.0)];
const ENERGIES: Units = &[("mJ", 1e-3), ("J", 1.0)];

fn of(unit: Unit) -> (Units, &'static str) {
    match unit {
        Unit::Time(_) => (TIMES, "`ns`, `us`, `ms`, `s` or `min`"),
        Unit::Mebibytes => (SIZES, "`B`, `KiB`, `MiB` or `GiB`"),
        Unit::Count => (COUNTS, "`k`, `M`, `G`, or none"),
        Unit::Percent | Unit::PercentWithInterval => (PERCENT, "`%`, or none"),
        Unit::Joules => (ENERGIES, "`mJ` or `J`"),
        Unit::Name | Unit::Text | Unit::PerSecond | Unit::Ratio | Unit::Score => (&[], "none"),
    }
}

/// Whether any number can be followed by `word`.
pub(super) fn is_unit(word: &str) -> bool {
    let all = [TIMES, SIZES, COUNTS, PERCENT, ENERGIES];
    all.iter()
        .any(|units| units.iter().any(|(name, _)| *name == word))
}

/// What one `name` is in `unit`; otherwise the units that it takes.
pub(super) fn factor(unit: Unit, name: &str) -> Result<f64, &'static str> {
    let (units, takes) = of(unit);
    let found = units.iter().find(|(other, _)| *other == name);
    found.map(|(_, factor)| *factor).ok_or(takes)
}
