//! A layer's cache in the graph.

use crate::arch::Attention;
use crate::graph::builder::{Dim, GraphBuilder, Value};

/// `GroupQueryAttention` needs a head width that's a multiple of this. Other heads are padded with
/// zeros, which change neither scores nor sums.
const HEAD_MULTIPLE: usize = 8;

/// The width of an expanded head in the cache, padding included.
pub fn cache_head_dim(attention: &Attention) -> usize {
    attention.head_dim.next_multiple_of(HEAD_MULTIPLE)
}

/// Number and width of the heads in a layer's cache; keys and values have the same.
///
/// A compressed cache has one head. Its key is the first half of what's compressed, its value the
/// other half, so that such a cache has the form of any other.
pub fn cache_size(attention: &Attention) -> (usize, usize) {
    match attention.projections.absorbed() {
        Some(latent) => {
            let half = latent.compressed_width().div_ceil(2);
            (1, half.next_multiple_of(HEAD_MULTIPLE))
        }
        None => (attention.num_key_value_heads, cache_head_dim(attention)),
    }
}

/// One layer's key-value cache.
pub struct Cache {
    /// Keys and values, `[batch, heads, past, width]` each: inputs of the graph, or what an earlier
    /// layer made of its own, with the new ones.
    pub past: [Value; 2],
    /// Names of the graph's outputs that hold `past` and the new keys and values. `None` for the
    /// cache of another layer, to which nothing is added.
    pub present: Option<[String; 2]>,
}

impl Cache {
    /// Adds the inputs and outputs of cache `number`.
    pub fn new(graph: &mut GraphBuilder, attention: &Attention, number: usize) -> Self {
        let (heads, width) = cache_size(attention);
        let shape = |length: &str| {
            [
                Dim::symbol("batch"),
                heads.into(),
                Dim::symbol(length),
                width.into(),
            ]
        };
        let kinds = ["key", "value"];
        let past = kinds.map(|kind| {
            let name = format!("past_key_values.{number}.{kind}");
            graph.input(&name, &shape("past"))
        });
        let present = kinds.map(|kind| format!("present.{number}.{kind}"));
        for name in &present {
            graph.output(name, &shape("present"));
        }
        Self {
            past,
            present: Some(present),
        }
    }
}
