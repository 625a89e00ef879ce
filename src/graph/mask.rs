//! Attention masks over the whole cache, for
//! [`AttentionOperator::Standard`](super::AttentionOperator): a number that's added to the score of
//! each query and key.

use super::alibi::alibi_row;
use super::builder::{GraphBuilder, Value};
use super::lengths::Lengths;
use crate::arch::{Attention, Position, PromptAttention};

/// The mask of a hidden position; no score comes near it. It isn't minus infinity, since kernels
/// that process positions in blocks compute `-inf - (-inf)`, a NaN, if a whole block is hidden.
const HIDDEN: f32 = -1e30;

/// The beginning of the name of [`Masks::after_prompt`] in a graph.
pub const AFTER_PROMPT: &str = "/mask/after_prompt/";

/// The beginning of the name of [`Masks::chunks`] in a graph.
pub const CHUNKS: &str = "/mask/chunks/";

/// The masks that layers share. Each is added to the graph on its first use.
#[derive(Debug, Default)]
pub struct Masks {
    places: Option<Places>,
    made: Vec<(Kind, Value)>,
    /// The masks for `GroupQueryAttention`, by window.
    after_prompt: Vec<(usize, Value)>,
    /// The masks for `GroupQueryAttention`, by size of the chunks.
    chunks: Vec<(usize, Value)>,
    alibi: Option<Value>,
}

/// What distinguishes masks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kind {
    window: Option<usize>,
    chunk: Option<usize>,
    prompt: PromptAttention,
}

/// Positions, i64.
#[derive(Debug, Clone)]
struct Places {
    /// The cache's positions, `[length]`.
    keys: Value,
    /// The new tokens' positions, `[sequence, 1]`.
    queries: Value,
}

impl Masks {
    /// The mask of `attention` over `cache`, `[batch, heads, length, width]`. The mask is
    /// `[sequence, length]` or, with ALiBi, `[1, heads, sequence, length]`.
    pub fn of(
        &mut self,
        graph: &mut GraphBuilder,
        attention: &Attention,
        lengths: &Lengths,
        cache: &Value,
    ) -> Value {
        let made = &mut self.places;
        let places = made.get_or_insert_with(|| places(graph, lengths, cache));
        let kind = Kind {
            window: attention.window,
            chunk: attention.chunk,
            prompt: attention.prompt,
        };
        let mask = match self.made.iter().find(|(of, _)| *of == kind) {
            Some((_, mask)) => mask.clone(),
            None => {
                let mask = visible(graph, kind, places, lengths);
                self.made.push((kind, mask.clone()));
                mask
            }
        };
        let Position::Alibi(alibi) = &attention.position else {
            return mask;
        };
        let made = self.alibi.get_or_insert_with(|| {
            let row = alibi_row(graph, alibi, &places.keys);
            graph.add("/alibi/Add", &row, &mask)
        });
        made.clone()
    }
}

impl Masks {
    /// A bias for `GroupQueryAttention` that isn't causal, `[1, 1, sequence, total]`: it hides what
    /// is outside of the window, except in the run of a prompt.
    pub fn after_prompt(
        &mut self,
        graph: &mut GraphBuilder,
        window: usize,
        lengths: &Lengths,
    ) -> Value {
        if let Some((_, mask)) = self.after_prompt.iter().find(|(of, _)| *of == window) {
            return mask.clone();
        }
        let name = format!("{AFTER_PROMPT}{window}");
        let zero = graph.constant_i64("zero", &[0], false);
        let keys = graph.range(&format!("{name}/keys"), &zero, &lengths.total);
        let queries = graph.range(&format!("{name}/queries"), &lengths.past, &lengths.total);
        let queries = graph.reshape(&format!("{name}/queries/column"), &queries, &[-1, 1]);
        let near = near(graph, &name, window, &Places { keys, queries });
        let seen = or_in_prompt(graph, &name, &near, lengths);
        let made = mask(graph, &format!("{name}/Where"), &seen);
        let axes = graph.constant_i64(&format!("{name}/axes"), &[0, 1], false);
        let made = graph.op("Unsqueeze", &name, &[&made, &axes], &[]);
        self.after_prompt.push((window, made.clone()));
        made
    }

    /// A bias for `GroupQueryAttention`, `[1, 1, sequence, total]`, that hides keys of other chunks.
    pub fn chunks(&mut self, graph: &mut GraphBuilder, size: usize, lengths: &Lengths) -> Value {
        if let Some((_, mask)) = self.chunks.iter().find(|(of, _)| *of == size) {
            return mask.clone();
        }
        let name = format!("{CHUNKS}{size}");
        let zero = graph.constant_i64("zero", &[0], false);
        let keys = graph.range(&format!("{name}/keys"), &zero, &lengths.total);
        let queries = graph.range(&format!("{name}/queries"), &lengths.past, &lengths.total);
        let queries = graph.reshape(&format!("{name}/queries/column"), &queries, &[-1, 1]);
        let seen = same_chunk(graph, &name, size, &Places { keys, queries });
        let made = mask(graph, &format!("{name}/Where"), &seen);
        let axes = graph.constant_i64(&format!("{name}/axes"), &[0, 1], false);
        let made = graph.op("Unsqueeze", &name, &[&made, &axes], &[]);
        self.chunks.push((size, made.clone()));
        made
    }
}

fn places(graph: &mut GraphBuilder, lengths: &Lengths, cache: &Value) -> Places {
    let length = graph.size_of_axis("/cache/length", cache, 2);
    let zero = graph.constant_i64("zero", &[0], false);
    let keys = graph.range("/mask/keys", &zero, &length);
    let queries = graph.range("/mask/queries", &lengths.past, &lengths.total);
    let queries = graph.reshape("/mask/queries/column", &queries, &[-1, 1]);
    Places { keys, queries }
}

/// The mask without ALiBi. A query sees its own position and those before it, at most `window` in
/// all; or the whole prompt.
fn visible(graph: &mut GraphBuilder, kind: Kind, places: &Places, lengths: &Lengths) -> Value {
    let Places { keys, queries } = places;
    let mut name = match (kind.window, kind.prompt) {
        (None, PromptAttention::Causal) => "/mask".to_owned(),
        (None, PromptAttention::Whole) => "/mask/whole".to_owned(),
        (Some(window), PromptAttention::Causal) => format!("/mask/{window}"),
        (Some(window), PromptAttention::Whole) => format!("/mask/whole/{window}"),
    };
    if let Some(size) = kind.chunk {
        name = format!("{name}/chunks/{size}");
    }
    let at = |part: &str| format!("{name}/{part}");
    let mut seen = match kind.prompt {
        PromptAttention::Causal => {
            graph.op("LessOrEqual", &at("LessOrEqual"), &[keys, queries], &[])
        }
        PromptAttention::Whole => {
            // The operator's masks have an axis of queries.
            let zero = graph.constant_i64("zero", &[0], false);
            let nothing = graph.mul(&at("queries/nothing"), queries, &zero);
            let keys = graph.add(&at("keys/spread"), keys, &nothing);
            graph.op("Less", &at("Less"), &[&keys, &lengths.total], &[])
        }
    };
    if let Some(window) = kind.window {
        let mut near = near(graph, &name, window, places);
        if kind.prompt == PromptAttention::Whole {
            near = or_in_prompt(graph, &name, &near, lengths);
        }
        seen = graph.op("And", &at("And"), &[&seen, &near], &[]);
    }
    if let Some(size) = kind.chunk {
        let same = same_chunk(graph, &name, size, places);
        seen = graph.op("And", &at("chunk/And"), &[&seen, &same], &[]);
    }
    mask(graph, &name, &seen)
}

/// Whether a key is in the chunk of a query.
fn same_chunk(graph: &mut GraphBuilder, name: &str, size: usize, places: &Places) -> Value {
    let at = |part: &str| format!("{name}/{part}");
    let size = graph.constant_i64(&at("size"), &[size as i64], false);
    // A quotient of integers is rounded down.
    let mut chunk = |part: &str, x: &Value| graph.op("Div", &at(part), &[x, &size], &[]);
    let [keys, queries] = [
        chunk("keys/Div", &places.keys),
        chunk("queries/Div", &places.queries),
    ];
    graph.op("Equal", &at("Equal"), &[&keys, &queries], &[])
}

/// Whether a key is in the window of a query, or after it.
fn near(graph: &mut GraphBuilder, name: &str, window: usize, places: &Places) -> Value {
    let at = |part: &str| format!("{name}/{part}");
    let width = graph.constant_i64(&at("width"), &[window as i64], false);
    let ends = graph.add(&at("keys/Add"), &places.keys, &width);
    graph.op("Greater", &at("Greater"), &[&ends, &places.queries], &[])
}

/// `seen`, or everything in the run of a prompt, before which nothing is cached.
fn or_in_prompt(graph: &mut GraphBuilder, name: &str, seen: &Value, lengths: &Lengths) -> Value {
    let zero = graph.constant_i64("zero", &[0], false);
    let inputs = [&lengths.past, &zero];
    let first = graph.op("Equal", &format!("{name}/is_prompt"), &inputs, &[]);
    graph.op("Or", &format!("{name}/Or"), &[seen, &first], &[])
}

/// Adds to scores: 0 where `seen`.
fn mask(graph: &mut GraphBuilder, name: &str, seen: &Value) -> Value {
    let zero = graph.filled("mask.seen", &[], 0.0);
    let hidden = graph.filled("mask.hidden", &[], HIDDEN);
    graph.op("Where", name, &[seen, &zero, &hidden], &[])
}
