//! `peft-bench models`

use anyhow::Result;
use clap::Args;

use super::output::print;
use crate::arch::{FAMILIES, Family};
use crate::model::synthetic::{self, SyntheticModel};

/// `models`
#[derive(Debug, Args)]
pub struct Models {
    /// The table of the README.
    #[arg(long)]
    markdown: bool,
}

impl Models {
    /// Runs the command.
    pub fn run(&self) -> Result<()> {
        let text = if self.markdown { markdown() } else { plain() };
        print(&text)
    }
}

/// One line a family and one a shape, in columns.
fn plain() -> String {
    let widest = |texts: &mut dyn Iterator<Item = usize>| texts.max().unwrap_or(0);
    let types = widest(&mut FAMILIES.iter().map(|family| family.model_type.len()));
    let names = widest(&mut FAMILIES.iter().map(|family| family.name.len()));
    let mut lines = vec![format!(
        "{:<types$}  {:<names$}  what is special",
        "model_type", "models"
    )];
    for family in FAMILIES {
        let Family {
            model_type,
            name,
            special,
            refused,
            ..
        } = family;
        let refused = match *refused {
            "" => String::new(),
            refused => format!("; refused: {refused}"),
        };
        lines.push(format!(
            "{model_type:<types$}  {name:<names$}  {special}{refused}"
        ));
    }
    lines.push(String::new());
    let shapes: Vec<SyntheticModel> = synthetic::models().collect();
    let names = widest(&mut shapes.iter().map(|shape| shape.name.len()));
    lines.push("--model synthetic/<shape>, with random weights:".to_owned());
    for shape in &shapes {
        let copied = shape.copies.unwrap_or("");
        let millions = millions(shape.parameters);
        lines.push(
            format!("{:<names$}  {millions:>6} M  {copied}", shape.name)
                .trim_end()
                .to_owned(),
        );
    }
    lines.join("\n") + "\n"
}

fn millions(parameters: u64) -> u64 {
    (parameters + 500_000) / 1_000_000
}

/// The families as a Markdown table.
fn markdown() -> String {
    let mut lines = vec![
        "| `model_type` | models | what is special | refused | `synthetic/` |".to_owned(),
        "| --- | --- | --- | --- | --- |".to_owned(),
    ];
    let shapes: Vec<SyntheticModel> = synthetic::models().collect();
    for family in FAMILIES {
        let of_family = |shape: &&SyntheticModel| shape.model_type == family.model_type;
        let names = shapes.iter().filter(of_family);
        let names: Vec<String> = names.map(|shape| format!("`{}`", shape.name)).collect();
        lines.push(format!(
            "| `{}` | {} | {} | {} | {} |",
            family.model_type,
            family.name,
            family.special,
            family.refused,
            names.join(", ")
        ));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_has_this_table() {
        let readme = include_str!("../../README.md");
        assert!(
            readme.contains(&markdown()),
            "put the output of `peft-bench models --markdown` into README.md"
        );
    }

    #[test]
    fn every_family_and_every_shape_has_a_line() {
        let text = plain();
        let has = |start: &str| {
            text.lines()
                .any(|line| line.split(' ').next() == Some(start))
        };
        for family in FAMILIES {
            assert!(has(family.model_type), "{}", family.model_type);
        }
        for shape in synthetic::models() {
            assert!(has(shape.name), "{}", shape.name);
        }
    }
}
