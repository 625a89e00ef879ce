//! What serving costs.

use std::fmt::Write;

use super::cells::{interval, milliseconds, named, none, percent, size, too_few};
use crate::measure::serving::shared_prefix::CacheOf;
use crate::report::model::{
    ColdStarts, Mixed, MixedBatch, Outcome, Over, Overhead, Reuse, Serving, SharedPrefix,
};

/// What lines below the first begin with.
const INDENT: &str = "          ";

/// What serving costs. `title` names the experiment, where there are several.
pub(super) fn serving(title: &str, found: &Serving) -> String {
    let mut text = String::new();
    if let Some(found) = &found.mixed {
        text.push_str(&outcome(&named(title, "mixed"), found, mixed));
    }
    if let Some(found) = &found.cold_start {
        text.push_str(&outcome(&named(title, "cold"), found, cold));
    }
    if let Some(found) = &found.shared_prefix {
        text.push_str(&outcome(&named(title, "prefix"), found, shared_prefix));
    }
    text
}

fn outcome<T>(name: &str, found: &Outcome<T>, measured: impl Fn(&T) -> String) -> String {
    match found {
        Outcome::Absent { absent } => format!("{name:<9} not available: {absent}\n"),
        Outcome::Failed { error } => format!("{name:<9} failed: {error}\n"),
        Outcome::Measured(found) => format!("{name:<9} {}", measured(found)),
    }
}

/// An overhead with its interval, in one cell.
fn cell(over: Option<&Overhead>) -> String {
    over.map_or_else(none, |over| {
        format!("{} ({})", percent(over.pct), interval(over.interval_pct))
    })
}

/// Rows of cells in columns, the first of them set to the left.
fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = INDENT.to_owned();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let missing = " ".repeat(width - cell.chars().count());
            match column {
                0 => line.extend([cell.as_str(), missing.as_str()]),
                _ => line.extend(["  ", missing.as_str(), cell.as_str()]),
            }
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

fn mixed(found: &Mixed) -> String {
    let mut text = format!(
        "{} rows after {} tokens, {} new ones each; what they take more: over one adapter for all rows, \
         and over the base\n",
        found.rows, found.prompt_tokens, found.new_tokens
    );
    let headings = [
        "adapters",
        "first token",
        "a step",
        "over one",
        "a step",
        "over the base",
    ];
    let mut rows = vec![headings.map(str::to_owned).to_vec()];
    rows.extend(found.batches.iter().map(batch));
    text.push_str(&columns(&rows));
    let overs = found.batches.iter().map(|batch| {
        let over = batch.over_one.as_ref();
        over.and_then(|over| over.generation.as_ref())
    });
    text.push_str(&too_few_line(overs));
    for refused in &found.refused {
        let _ = writeln!(
            text,
            "{INDENT}{} isn't available: {}",
            refused.form.name(),
            refused.reason
        );
    }
    let memory = &found.memory;
    let grown = memory
        .resident_bytes_per_adapter
        .filter(|bytes| *bytes >= 0.0);
    let grown = grown.map_or_else(String::new, |bytes| {
        format!("; the resident set grows by {}", size(bytes as u64))
    });
    let _ = writeln!(
        text,
        "{INDENT}each further adapter: {} of tensors{grown}",
        size(memory.adapter_bytes)
    );
    let tokens = &found.tokens;
    let same = match (tokens.same, tokens.parted) {
        (false, _) => "rows generate something else than their adapters by themselves".to_owned(),
        (true, 0) => format!(
            "all {} rows generate what their adapters do by themselves",
            tokens.sequences
        ),
        (true, parted) => format!(
            "all {} rows generate what their adapters do by themselves, {parted} of them up to a tie",
            tokens.sequences
        ),
    };
    let logits = tokens.logits_difference.map_or_else(String::new, |found| {
        let nearest = tokens
            .nearest_adapters
            .map_or_else(none, |near| format!("{near:.0e}"));
        format!("; logits within {found:.0e}, where those of two adapters are {nearest} apart")
    });
    let _ = writeln!(
        text,
        "{INDENT}{same}: {} different sequences{logits}",
        tokens.distinct
    );
    text
}

fn batch(batch: &MixedBatch) -> Vec<String> {
    let name = match (batch.adapters, batch.form) {
        (0, _) => "base".to_owned(),
        (count, None) => count.to_string(),
        (count, Some(form)) => format!("{count}, {}", form.name()),
    };
    let over = |found: &Option<Over>, part: fn(&Over) -> Option<&Overhead>| {
        cell(found.as_ref().and_then(part))
    };
    vec![
        name,
        milliseconds(batch.time_to_first_token),
        milliseconds(batch.decode_step),
        over(&batch.over_one, |over| over.generation.as_ref()),
        over(&batch.over_one, |over| over.decode_step.as_ref()),
        over(&batch.over_base, |over| over.generation.as_ref()),
    ]
}

/// That intervals come from too few pairs, if those of `over` do.
fn too_few_line<'a>(overs: impl IntoIterator<Item = Option<&'a Overhead>>) -> String {
    let mut overs = overs.into_iter().flatten();
    let few = overs.find(|over| !over.enough()).map(too_few);
    few.map_or_else(String::new, |few| format!("{INDENT}{few}\n"))
}

fn cold(found: &ColdStarts) -> String {
    let mut text = format!(
        "from its file to the first token after {} tokens, an adapter of {}\n",
        found.prompt_tokens,
        size(found.adapter_bytes)
    );
    let headings = [
        "adapter in",
        "of it cached",
        "load",
        "bind",
        "first token",
        "all",
        "over memory",
    ];
    let mut rows = vec![headings.map(str::to_owned).to_vec()];
    rows.extend(found.sources.iter().map(|of| {
        let share = of
            .cached_share
            .map(|share| format!("{:.0} %", share * 100.0));
        vec![
            of.source.name().to_owned(),
            share.unwrap_or_else(none),
            of.load
                .filter(|load| *load > 0.0)
                .map_or_else(none, |load| milliseconds(Some(load))),
            milliseconds(of.bind),
            milliseconds(of.first_token),
            milliseconds(of.total),
            cell(of.over_memory.as_ref()),
        ]
    }));
    text.push_str(&columns(&rows));
    text.push_str(&too_few_line(
        found.sources.iter().map(|of| of.over_memory.as_ref()),
    ));
    text
}

fn shared_prefix(found: &SharedPrefix) -> String {
    let whose = match found.cache_of {
        CacheOf::Base => "the adapter's prompts reuse the base's cache",
        CacheOf::Adapter => {
            "the adapter changes the prefix's cache, so its prompts reuse one that was computed with it"
        }
    };
    let mut text = format!(
        "first tokens of {} prompts with a common prefix: whole, and from its kept cache\n{INDENT}{whose}\n",
        found.prompts
    );
    let headings = [
        "prefix",
        "of",
        "own tokens",
        "kept",
        "whole",
        "reused",
        "over whole",
    ];
    let mut rows = vec![headings.map(str::to_owned).to_vec()];
    for of in &found.lengths {
        let row = |name: &str, reuse: &Reuse| {
            vec![
                of.prefix_tokens.to_string(),
                name.to_owned(),
                reuse.own_tokens.to_string(),
                size(reuse.kept_bytes),
                milliseconds(Some(reuse.whole)),
                milliseconds(Some(reuse.reused)),
                cell(reuse.over_whole.as_ref()),
            ]
        };
        rows.extend(of.base.as_ref().map(|reuse| row("base", reuse)));
        rows.extend(of.unmerged.as_ref().map(|reuse| row("unmerged", reuse)));
    }
    text.push_str(&columns(&rows));
    let reuses = found
        .lengths
        .iter()
        .flat_map(|of| [&of.base, &of.unmerged])
        .flatten();
    text.push_str(&too_few_line(reuses.map(|reuse| reuse.over_whole.as_ref())));
    let from = |tokens: Option<usize>| match tokens {
        Some(tokens) => format!("pays from {tokens} tokens on"),
        None => "isn't shown to pay".to_owned(),
    };
    let base = found.lengths.iter().any(|of| of.base.is_some());
    let base = base.then(|| format!("for the base, reusing {}; ", from(found.pays_from.base)));
    let _ = writeln!(
        text,
        "{INDENT}{}for the adapter, it {}",
        base.unwrap_or_default(),
        from(found.pays_from.unmerged)
    );
    if !found.left_out.is_empty() {
        let lengths: Vec<String> = found.left_out.iter().map(usize::to_string).collect();
        let _ = writeln!(
            text,
            "{INDENT}prefixes of {} tokens don't fit the model's positions",
            lengths.join(", ")
        );
    }
    let tokens = &found.tokens;
    let said = match (tokens.same, tokens.parted) {
        (false, _) => "prompts go on differently from a kept cache".to_owned(),
        (true, 0) => format!("all {} generations go on the same way", tokens.sequences),
        (true, parted) => format!(
            "all {} generations go on the same way, {parted} of them up to a tie",
            tokens.sequences
        ),
    };
    let _ = writeln!(text, "{INDENT}{said}");
    text
}
