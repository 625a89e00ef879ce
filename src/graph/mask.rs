//! Attention masks over the whole cache, for
//! [`AttentionOperator::Standard`](super::AttentionOperator): a number that's added to the score of
//! each query and key.

use super::alibi::alibi_row;
use super::builder::{GraphBuilder, Value};
use super::lengths::Lengths;
use crate::arch::{Attention, Position};

/// The mask of a hidden position; no score comes near it. It isn't minus infinity, since kernels
/// that process positions in blocks compute `-inf - (-inf)`, a NaN, if a whole block is hidden.
const HIDDEN: f32 = -1e30;

/// The masks that layers share. Each is added to the graph on its first use.
#[derive(Debug, Default)]
pub struct Masks {
    places: Option<Places>,
    /// The masks by attention window.
    made: Vec<(Option<usize>, Value)>,
    alibi: Option<Value>,
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
        let window = attention.window;
        let mask = match self.made.iter().find(|(of, _)| *of == window) {
            Some((_, mask)) => mask.clone(),
            None => {
                let mask = visible(graph, window, places);
                self.made.push((window, mask.clone()));
                mask
            }
        };
        let Position::Alibi(slopes) = &attention.position else {
            return mask;
        };
        let made = self.alibi.get_or_insert_with(|| {
            let row = alibi_row(graph, slopes, &places.keys);
            graph.add("/alibi/Add", &row, &mask)
        });
        made.clone()
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
/// all.
fn visible(graph: &mut GraphBuilder, window: Option<usize>, places: &Places) -> Value {
    let Places { keys, queries } = places;
    let name = match window {
        None => "/mask".to_owned(),
        Some(window) => format!("/mask/{window}"),
    };
    let at = |part: &str| format!("{name}/{part}");
    let mut seen = graph.op("LessOrEqual", &at("LessOrEqual"), &[keys, queries], &[]);
    if let Some(window) = window {
        let width = graph.constant_i64(&at("width"), &[window as i64], false);
        let ends = graph.add(&at("keys/Add"), keys, &width);
        let near = graph.op("Greater", &at("Greater"), &[&ends, queries], &[]);
        seen = graph.op("And", &at("And"), &[&seen, &near], &[]);
    }
    let zero = graph.filled("mask.seen", &[], 0.0);
    let hidden = graph.filled("mask.hidden", &[], HIDDEN);
    graph.op("Where", &name, &[&seen, &zero, &hidden], &[])
}
