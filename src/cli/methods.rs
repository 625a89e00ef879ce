//! `peft-bench methods`

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::output::{print, print_json};
use crate::adapter::{METHODS, Method, options_of};

/// `methods`
#[derive(Debug, Args)]
pub struct Methods {
    /// Print the table of `docs/methods.md`.
    #[arg(long)]
    markdown: bool,

    /// Print a list of objects, with every method's options and PEFT's defaults.
    #[arg(long, conflicts_with = "markdown")]
    json: bool,
}

impl Methods {
    /// Runs the command.
    pub fn run(&self) -> Result<()> {
        match (self.json, self.markdown) {
            (true, _) => print_json(&json()),
            (_, true) => print(&markdown()),
            _ => print(&plain()),
        }
    }
}

/// One line a method, in columns.
fn plain() -> String {
    let width = METHODS.iter().map(|m| m.peft_type.len()).max().unwrap_or(0);
    let variants = METHODS.iter().map(|m| m.variants.chars().count()).max();
    let variants = variants.unwrap_or(0).min(44);
    let mut lines = vec![format!(
        "{:<width$}  class  merged  {:<variants$}  refused",
        "method", "also supported"
    )];
    for method in METHODS {
        let Method { peft_type, .. } = method;
        let merged = if method.class.merges() { "yes" } else { "no" };
        lines.push(
            format!(
                "{peft_type:<width$}  {:<5}  {merged:<6}  {:<variants$}  {}",
                method.class.letter(),
                method.variants,
                method.refused
            )
            .trim_end()
            .to_owned(),
        );
    }
    lines.push(String::new());
    lines.push(
        "class A is folded into the weights of its targets, B replaces other parameters, C adds something that no weight can hold."
            .to_owned(),
    );
    lines.join("\n") + "\n"
}

/// An object for each method.
fn json() -> Value {
    let of = |method: &&Method| {
        json!({
            "peft_type": method.peft_type,
            "class": method.class.letter().to_string(),
            "merged": method.class.merges(),
            "also_supported": method.variants,
            "refused": method.refused,
            "options": options_of(method.peft_type),
        })
    };
    METHODS.iter().map(of).collect()
}

/// The table in Markdown.
fn markdown() -> String {
    let mut lines = vec![
        "| `peft_type` | class | merged | also supported | refused |".to_owned(),
        "| --- | --- | --- | --- | --- |".to_owned(),
    ];
    for method in METHODS {
        let merged = if method.class.merges() { "yes" } else { "no" };
        lines.push(format!(
            "| {} | {} | {merged} | {} | {} |",
            method.peft_type,
            method.class.letter(),
            method.variants,
            method.refused
        ));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_docs_have_this_table() {
        let page = include_str!("../../docs/methods.md");
        assert!(
            page.contains(&markdown()),
            "put the output of `peft-bench methods --markdown` into docs/methods.md"
        );
    }

    #[test]
    fn methods_are_listed_once_in_the_order_of_their_names() {
        let names = METHODS.iter().map(|method| method.peft_type);
        let letters: Vec<String> = names.map(|name| name.replace('_', " ")).collect();
        assert!(letters.is_sorted_by(|one, next| one < next), "{letters:?}");
    }

    #[test]
    fn every_method_has_a_line() {
        let text = plain();
        for method in METHODS {
            let starts = |line: &str| line.starts_with(method.peft_type);
            assert!(text.lines().any(starts), "{}", method.peft_type);
        }
    }
}
