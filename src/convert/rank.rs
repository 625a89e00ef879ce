//! The rank of a conversion.

use std::fmt;
use std::str::FromStr;

/// The rank of every module's pair, or what decides it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rank {
    /// This rank, in every module.
    Count(usize),
    /// For each module, the smallest rank with which this share of its change's energy (the sum of
    /// its squared singular values) is kept.
    Share(f64),
}

/// The largest number that's accepted.
const LARGEST: usize = 1 << 16;

impl FromStr for Rank {
    type Err = String;

    /// As PEFT's `convert_to_lora` does, a whole number is a rank, and one with a decimal point is
    /// a share: `1` is rank 1, and `1.0` is all of the energy.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "expected a rank from 1 to {LARGEST}, such as `16`, or the share of energy to keep, above 0 and at most 1, \
                 such as `0.95`"
            )
        };
        if let Ok(count) = text.parse::<usize>() {
            return match (1..=LARGEST).contains(&count) {
                true => Ok(Self::Count(count)),
                false => Err(wrong()),
            };
        }
        match text.parse::<f64>() {
            Ok(share) if share > 0.0 && share <= 1.0 => Ok(Self::Share(share)),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "r{count}"),
            Self::Share(share) => write!(f, "e{share}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_number_is_a_rank_and_a_decimal_a_share() {
        assert_eq!("1".parse(), Ok(Rank::Count(1)));
        assert_eq!("1.0".parse(), Ok(Rank::Share(1.0)));
        assert_eq!("0.95".parse(), Ok(Rank::Share(0.95)));
        for wrong in ["0", "0.0", "-1", "1.5", "65537", "nan", "x", ""] {
            assert!(wrong.parse::<Rank>().is_err(), "{wrong}");
        }
    }
}
