//! Quality as a plain table: `experiment,metric,value`.

use thiserror::Error;

/// A table that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PlainError {
    /// Its first line isn't the headings.
    #[error("line 1 is `{0}`, expected `experiment,metric,value`")]
    Headings(String),
    /// A line hasn't three fields.
    #[error("line {line} has {count} fields, expected 3")]
    Fields {
        /// The line, from 1.
        line: usize,
        /// How many it has.
        count: usize,
    },
    /// A value is no number.
    #[error("line {line}: `{text}` is not a number")]
    Number {
        /// The line, from 1.
        line: usize,
        /// The value.
        text: String,
    },
}

/// A line: the experiment, the metric, and its value.
pub(super) type Line = (String, String, f64);

/// The lines of `text`.
pub(super) fn lines(text: &str) -> Result<Vec<Line>, PlainError> {
    let text = text.trim_start_matches('\u{feff}');
    let mut lines = text.lines().enumerate();
    let first = lines.next().map_or("", |(_, line)| line.trim_end());
    if first.to_lowercase() != "experiment,metric,value" {
        return Err(PlainError::Headings(first.to_owned()));
    }
    let mut found = Vec::new();
    for (index, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        let line_number = index + 1;
        let fields = fields(line);
        let [experiment, metric, value] = fields.as_slice() else {
            let count = fields.len();
            return Err(PlainError::Fields {
                line: line_number,
                count,
            });
        };
        let number = value.parse::<f64>().ok().filter(|of| of.is_finite());
        let number = number.ok_or_else(|| PlainError::Number {
            line: line_number,
            text: value.clone(),
        })?;
        found.push((experiment.clone(), metric.clone(), number));
    }
    Ok(found)
}

/// Fields between commas, which may be in quotes (RFC 4180, but for line ends in them).
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut is_quoted = false;
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if is_quoted && characters.peek() == Some(&'"') => {
                characters.next();
                push(&mut fields, '"');
            }
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => fields.push(String::new()),
            other => push(&mut fields, other),
        }
    }
    fields.iter().map(|field| field.trim().to_owned()).collect()
}

fn push(fields: &mut [String], character: char) {
    if let Some(last) = fields.last_mut() {
        last.push(character);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_wrong_ones_named() {
        let text =
            "experiment,metric,value\r\nlora/a,accuracy,0.5\r\n\"b, \"\"c\"\"\",x,-1e-3\r\n\r\n";
        assert_eq!(
            lines(text).unwrap(),
            [
                ("lora/a".to_owned(), "accuracy".to_owned(), 0.5),
                ("b, \"c\"".to_owned(), "x".to_owned(), -1e-3)
            ]
        );
        let wrong = |text: &str| lines(text).unwrap_err().to_string();
        assert_eq!(
            wrong("a,b"),
            "line 1 is `a,b`, expected `experiment,metric,value`"
        );
        assert_eq!(
            wrong("experiment,metric,value\na,b"),
            "line 2 has 2 fields, expected 3"
        );
        assert_eq!(
            wrong("experiment,metric,value\n\na,b,high"),
            "line 3: `high` is not a number"
        );
    }
}
