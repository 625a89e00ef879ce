//! Which cached positions a new one sees, as a number that's added to its score: for attention over the whole cache, filled
//! or not.

use super::alibi::alibi_row;
use super::builder::{GraphBuilder, Value};
use super::lengths::Lengths;
use crate::arch::{Attention, Position};

/// Hides a position: no score comes near it. Minus infinity isn't used, as kernels that go through the positions block by
/// block subtract it from itself where a whole block is hidden.
const HIDDEN: f32 = -1e30;

/// Masks that layers share, each made when it's first asked for.
#[derive(Debug, Default)]
pub struct Masks {
    places: Option<Places>,
    /// By window.
    made: Vec<(Option<usize>, Value)>,
    alibi: Option<Value>,
}

/// Positions, i64.
#[derive(Debug, Clone)]
struct Places {
    /// Of the cache, `[length]`.
    keys: Value,
    /// Of the new tokens, `[sequence, 1]`.
    queries: Value,
}

impl Masks {
    /// The mask of `attention` over a cache as long as `cache`, `[batch, heads, length, width]`: `[sequence, length]`, or
    /// with ALiBi in it `[1, heads, sequence, length]`.
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

/// The mask without ALiBi: a query sees `window` positions, its own among them, or all up to it.
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
