//! `peft-bench models`

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::output::{print, print_json};
use crate::arch::{FAMILIES, Family, Shape, Text, WRAPPERS, Wrapper};

/// `models`
#[derive(Debug, Args)]
pub struct Models {
    /// Print the tables of `docs/models.md`.
    #[arg(long)]
    markdown: bool,

    /// Print an object with the lists `families`, `multimodal` and `synthetic`.
    #[arg(long, conflicts_with = "markdown")]
    json: bool,
}

impl Models {
    /// Runs the command.
    pub fn run(&self) -> Result<()> {
        match (self.json, self.markdown) {
            (true, _) => print_json(&json()),
            (_, true) => print(&markdown()),
            _ => print(&plain()),
        }
    }
}

/// One line a family, one a wrapper and one a shape, in columns.
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
    lines.push("Text towers of multimodal models, for prompts of text alone:".to_owned());
    let types = widest(&mut WRAPPERS.iter().map(|wrapper| wrapper.model_type.len()));
    let names = widest(&mut WRAPPERS.iter().map(|wrapper| wrapper.name.len()));
    for wrapper in WRAPPERS {
        let Wrapper {
            model_type, name, ..
        } = wrapper;
        let (text, refused) = tower(wrapper);
        let refused = match refused {
            refused if refused.is_empty() => refused,
            refused => format!("; refused: {refused}"),
        };
        lines.push(format!(
            "{model_type:<types$}  {name:<names$}  {text}{refused}"
        ));
    }
    lines.push(String::new());
    let shapes: Vec<&Shape> = FAMILIES.iter().flat_map(|family| family.shapes).collect();
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

/// A wrapper's text family, and what is refused.
fn tower(wrapper: &Wrapper) -> (String, String) {
    let text = wrapper.text.model_type();
    let (text, lacking) = match (wrapper.text, wrapper.text.family()) {
        (Text::Always(_), Some(family)) => (family.model_type.to_owned(), None),
        (Text::Usually(_), Some(family)) => {
            (format!("{}, or another family", family.model_type), None)
        }
        (_, None) => (
            "another family".to_owned(),
            Some(format!("with `{text}`, which isn't supported")),
        ),
    };
    (text, lacking.unwrap_or_default())
}

/// Families, wrappers and shapes.
fn json() -> Value {
    let family = |family: &Family| {
        json!({
            "model_type": family.model_type,
            "models": family.name,
            "special": family.special,
            "refused": family.refused,
        })
    };
    let wrapper = |wrapper: &Wrapper| {
        let (text, refused) = tower(wrapper);
        json!({
            "model_type": wrapper.model_type,
            "models": wrapper.name,
            "text_family": text,
            "refused": refused,
        })
    };
    let shape = |family: &Family, shape: &Shape| {
        json!({
            "model": format!("synthetic/{}", shape.name),
            "model_type": family.model_type,
            "parameters": shape.parameters,
            "sizes_of": shape.copies,
        })
    };
    let of_family = |family: &&Family| {
        let shapes = family.shapes.iter();
        shapes
            .map(|found| shape(family, found))
            .collect::<Vec<Value>>()
    };
    json!({
        "families": FAMILIES.iter().map(|found| family(found)).collect::<Vec<Value>>(),
        "multimodal": WRAPPERS.iter().map(wrapper).collect::<Vec<Value>>(),
        "synthetic": FAMILIES.iter().flat_map(of_family).collect::<Vec<Value>>(),
    })
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
    for family in FAMILIES {
        let names = family.shapes.iter();
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
    lines.push(String::new());
    lines.push("| multimodal `model_type` | models | text family | refused |".to_owned());
    lines.push("| --- | --- | --- | --- |".to_owned());
    for wrapper in WRAPPERS {
        let (text, refused) = tower(wrapper);
        lines.push(format!(
            "| `{}` | {} | {text} | {refused} |",
            wrapper.model_type, wrapper.name
        ));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_docs_have_these_tables() {
        let page = include_str!("../../docs/models.md");
        assert!(
            page.contains(&markdown()),
            "put the output of `peft-bench models --markdown` into docs/models.md"
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
            for shape in family.shapes {
                assert!(has(shape.name), "{}", shape.name);
            }
        }
        for wrapper in WRAPPERS {
            assert!(has(wrapper.model_type), "{}", wrapper.model_type);
        }
    }
}
