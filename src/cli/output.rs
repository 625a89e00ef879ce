//! What goes to stdout: results, and nothing else.

use std::borrow::Cow;
use std::io::{IsTerminal, Write, stdout};

use anyhow::{Context, Result};
use serde_json::Value;

/// Writes `text`: as it is, but to a terminal without what would control it.
pub fn print(text: &str) -> Result<()> {
    let shown = match stdout().is_terminal() {
        true => harmless(text),
        false => text.into(),
    };
    stdout()
        .write_all(shown.as_bytes())
        .context("cannot write to stdout")
}

/// `text` without characters that control a terminal, or that turn its direction: names and errors
/// out of others' files may hold any.
pub fn harmless(text: &str) -> Cow<'_, str> {
    let controls = |one: char| {
        let turns = matches!(one, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        turns || one.is_control() && !matches!(one, '\n' | '\t' | '\r')
    };
    match text.contains(controls) {
        true => text.replace(controls, "\u{fffd}").into(),
        false => text.into(),
    }
}

/// Writes JSON for a person and for programs.
pub fn print_json(value: &Value) -> Result<()> {
    print(&format!("{value:#}\n"))
}

/// Writes `text` as a line.
pub fn line(text: &str) -> Result<()> {
    print(&format!("{text}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_controls_a_terminal_is_not_shown() {
        assert_eq!(
            harmless("\u{1b}[2Ja\u{202e}b\u{9b}é\n"),
            "\u{fffd}[2Ja\u{fffd}b\u{fffd}é\n"
        );
        assert!(matches!(harmless("a\tb\r\n"), Cow::Borrowed(_)));
    }
}
