//! What goes to stdout: results, and nothing else.

use std::io::{Write, stdout};

use anyhow::{Context, Result};
use serde_json::Value;

/// Writes `text` as it is.
pub fn print(text: &str) -> Result<()> {
    stdout()
        .write_all(text.as_bytes())
        .context("cannot write to stdout")
}

/// Writes JSON for a person and for programs.
pub fn print_json(value: &Value) -> Result<()> {
    print(&format!("{value:#}\n"))
}

/// Writes `text` as a line.
pub fn line(text: &str) -> Result<()> {
    writeln!(stdout(), "{text}").context("cannot write to stdout")
}
