//! Sizes in bytes, as they're given and shown.

/// Units, and bytes of each.
const UNITS: [(&str, u64); 4] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
];

/// Parses `80G`, `80GiB` or a number of bytes.
pub fn parse(text: &str) -> Result<u64, String> {
    let wrong = || "expected a size such as `80G` or `512MiB`".to_owned();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text[digits.len()..]
        .trim_end_matches(['b', 'B'])
        .trim_end_matches('i');
    let bytes = match unit {
        "" => 1,
        unit => {
            let named = UNITS
                .iter()
                .find(|(name, _)| name[..1].eq_ignore_ascii_case(unit));
            named.ok_or_else(wrong)?.1
        }
    };
    let number: f64 = digits.trim().parse().map_err(|_| wrong())?;
    match number.is_finite() && number > 0.0 {
        true => Ok((number * bytes as f64) as u64),
        false => Err(wrong()),
    }
}

/// A size in the unit that suits it.
pub fn shown(bytes: u64) -> String {
    let unit = UNITS.iter().find(|(_, size)| bytes >= *size);
    match unit {
        Some((name, size)) => format!("{:.1} {name}", bytes as f64 / *size as f64),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units_and_shown_in_one() {
        assert_eq!(parse("80G"), Ok(80 << 30));
        assert_eq!(parse("1.5MiB"), Ok(3 << 19));
        assert_eq!(parse("4096"), Ok(4096));
        assert!(parse("G").is_err() && parse("8 apples").is_err() && parse("-1G").is_err());
        assert_eq!(shown(3 << 29), "1.5 GiB");
        assert_eq!(shown(12), "12 bytes");
    }
}
