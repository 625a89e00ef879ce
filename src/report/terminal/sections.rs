//! Tables of many results.

use std::fmt::Write;

use super::cells::{Marks, aligned, words};
use crate::report::list::{RowsOf, Section, about_estimates, begins_group, have_estimates};

/// A table for each section, and how to read them.
pub fn sections(sections: &[Section], rows: RowsOf) -> String {
    let mut text = String::new();
    for (index, section) in sections.iter().enumerate() {
        if index > 0 {
            text.push('\n');
        }
        if begins_group(sections, index) {
            text.push_str(&title(section));
        }
        if let Some((heading, value)) = &section.part {
            let value = words(value, heading.unit);
            let _ = writeln!(text, "{}: {value}", heading.heading);
        }
        text.push_str(&aligned(&section.table, Marks::Undetected));
    }
    let legend = legend(sections, rows);
    match legend.is_empty() {
        true => text,
        false => format!("{text}\n{legend}"),
    }
}

/// A group, and why it isn't part of the first.
fn title(section: &Section) -> String {
    let Section {
        group,
        groups,
        title,
        differs_by,
        ..
    } = section;
    let mut text = format!("group {group} of {groups}: {title}\n");
    if !differs_by.is_empty() {
        let differs_by = differs_by.join(", ");
        let _ = writeln!(text, "not to be compared with group 1: {differs_by}");
    }
    text
}

fn legend(sections: &[Section], rows: RowsOf) -> String {
    let usual = match rows {
        RowsOf::Results => {
            "\
unmerged, merged: overhead over the base, over all prompts; `~` where none was detected
first token, a token: medians of the unmerged variant over all prompts; merging: seconds to prepare the merged variant
parity: by how much of the largest logit merged and unmerged differ
"
        }
        RowsOf::Variants if have_estimates(sections) => {
            "~: no difference from the base was detected, or there are too few pairs to tell; `--columns help` says what columns mean\n"
        }
        RowsOf::Variants => "",
    };
    let mut text = usual.to_owned();
    for about in about_estimates(sections) {
        let _ = writeln!(text, "{about}");
    }
    text
}
