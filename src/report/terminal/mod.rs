//! Text for a terminal: tables in columns, and a line for whatever else there is to say. Everything
//! comes from reports.

mod break_even;
mod caveats;
pub(crate) mod cells;
mod header;
mod notes;
mod overall;
mod sections;
mod serving;
mod swap;
#[cfg(test)]
mod tests;

use std::fmt::Write;

pub use sections::sections;

use super::measured::{Labelled, batch_sizes, in_order, main_table, measured, sweep_table, swept};
use super::model::Report;
use cells::{Marks, aligned};

/// What's printed of results that were measured together, against one base. `verbose` adds what
/// could run faster in another form.
pub fn measurement(results: &[Labelled], verbose: bool) -> String {
    let (title, tokens) = (header::header(results), prompt_tokens(results));
    let mut text = format!("{title}\n{tokens}\n{}", figures(results));
    text.push_str(&sweep(results));
    for result in results {
        let title = if results.len() > 1 { result.label } else { "" };
        text.push_str(&of_target(title, result.report, verbose));
    }
    // All have these in common.
    if let Some(Labelled { report, .. }) = results.first() {
        let precision = report.run_info.target_precision.value();
        text.push_str(&precision.map_or(String::new(), notes::precision));
        text.push_str(&caveats::caveats(&measured(results), report));
    }
    text
}

/// PromptGroup × variant, then each variant over all prompts.
fn figures(results: &[Labelled]) -> String {
    let all = measured(results);
    let mut text = aligned(&main_table(results), Marks::None);
    overall::overall(&mut text, &all);
    for one in &all {
        if let Some(error) = &one.found.error {
            let _ = writeln!(text, "{}  failed: {error}", one.label());
        }
    }
    text
}

/// Batch size × group × variant, if that was asked for.
fn sweep(results: &[Labelled]) -> String {
    let Some(table) = sweep_table(results) else {
        return String::new();
    };
    let mut text = format!("\n{}", aligned(&table, Marks::None));
    for size in batch_sizes(results) {
        for one in swept(results, size, None) {
            if let Some(error) = &one.found.error {
                let label = one.label();
                let _ = writeln!(text, "{label}  failed with batches of {size}: {error}");
            }
        }
    }
    text.push_str("(a step makes a token of every sequence of the batch; a token is a step over the batch's size)\n\n");
    text
}

/// The lines of one target. `title` names it, if there are several.
fn of_target(title: &str, report: &Report, verbose: bool) -> String {
    let info = &report.generation_info;
    let mut text = notes::absent(title, info);
    text.push_str(&notes::graph(title, info));
    if let Some(found) = info.break_even.value() {
        text.push_str(&break_even::break_even(title, found));
    }
    text.push_str(&notes::executed(title, info));
    if verbose {
        text.push_str(&notes::not_lowered(title, info));
    }
    text.push_str(&notes::step_graphs(title, info));
    if let Some(swap) = &info.swap {
        text.push_str(&swap::swap(title, swap));
    }
    if let Some(found) = &info.serving {
        text.push_str(&serving::serving(title, found));
    }
    if let Some(parity) = info.parity.value() {
        text.push_str(&notes::parity(title, parity));
    }
    if let Some(tokens) = info.timed_tokens.value() {
        text.push_str(&notes::timed_tokens(title, tokens));
    }
    text
}

/// How many tokens the prompts of each group have: those of the shortest and of the longest.
fn prompt_tokens(results: &[Labelled]) -> String {
    let all = measured(results);
    let groups = in_order(
        all.iter()
            .flat_map(|one| one.found.by_category.iter())
            .map(|(name, _)| name),
    );
    let said = |group: &str| {
        let categories = all
            .iter()
            .filter_map(|one| one.found.by_category.get(group));
        let samples = categories.flat_map(|category| &category.samples);
        let counts: Vec<usize> = samples.filter_map(|sample| sample.prompt_tokens).collect();
        let (least, most) = (counts.iter().min()?, counts.iter().max()?);
        Some(match least == most {
            true => format!("{group} {least}"),
            false => format!("{group} {least}–{most}"),
        })
    };
    let said: Vec<String> = groups.into_iter().filter_map(said).collect();
    match said.is_empty() {
        true => String::new(),
        false => format!("tokens of the prompts: {}\n", said.join(", ")),
    }
}
