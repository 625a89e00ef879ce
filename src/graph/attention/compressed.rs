//! Latent attention over a compressed cache. Keys and values are never expanded: the projection that
//! would do so is applied to queries and outputs instead ([`super::absorbed`]), so that all heads
//! attend to one row for each token.
//!
//! A row is the compressed vector after its norm, then the rotated key, then zeros up to the cache's
//! width. The cache's key is its first half, the cache's value the second one. Scores are the sum of
//! the products with both halves; the weighted sums of both halves are joined, and what follows the
//! compressed vector is dropped.
//!
//! The heads' queries are rows of one matrix. So each product reads the cache once for all heads,
//! where an attention operator would read it once for each.

use super::absorbed::Absorbed;
use super::cache::{Cache, cache_size};
use super::latent::{Nodes, queries, rotary};
use crate::arch::{Attention, Latent};
use crate::graph::builder::{Attr, GraphBuilder, Value};
use crate::graph::lengths::{Lengths, Operands};
use crate::graph::linear::linear;
use crate::graph::norm::norm;
use crate::graph::pass::Pass;
use crate::graph::positions::PositionTables;

/// Adds the attention of layer `index` with its cache inputs and outputs; `x` is
/// `[batch, sequence, hidden_size]`, and so is the returned value. The last layer returns the last
/// position only.
///
/// ```text
/// x ─ query ──── Split ─┬──────────── W_Kᵀ ─ Concat ─ Split ─┬─ scores ─ mask ─ Softmax ─ sums ─ W_V ─ o_proj ─
///                       └─ RotaryEmbedding ──┘               │                             │
/// x ─ compress ─ Split ─┬─ norm ──────────── Concat ─ Split ─┴── TensorScatter ────────────┘
///                       └─ RotaryEmbedding ──┘                   past_key_values.{i}, present.{i}
/// ```
pub fn compressed_attention(
    graph: &mut GraphBuilder,
    pass: &Pass,
    (index, attention, latent): (usize, &Attention, &Latent),
    tables: &mut PositionTables,
    lengths: &Lengths,
    x: &Value,
) -> Value {
    let path = &pass.spec.layers[index].path;
    let Operands::Standard { start } = &lengths.operands else {
        unreachable!("a compressed cache goes with `AttentionOperator::Standard`");
    };
    let cache = Cache::new(graph, attention, pass.first_cache + index);
    let (_, half) = cache_size(attention);
    let mut nodes = Nodes {
        graph,
        path,
        heads: attention.num_attention_heads,
        width: 2 * half,
    };
    let rotary = rotary(attention);
    let query = queries(nodes.graph, pass, latent, x);
    let query = nodes.split_heads("query", &query, latent.key_width());
    let [plain, turned] = nodes.two("query", &query, [latent.plain, latent.rotated]);
    let heads = nodes.heads;
    let turned = nodes.rotated("query", &turned, heads, (tables, rotary, lengths));
    let absorbed = Absorbed::new(&mut nodes, pass, latent, x);
    let [plain, turned] = [("plain", plain), ("turned", turned)].map(|(part, x)| {
        let name = nodes.at(&format!("query/{part}/to_front"));
        nodes.graph.transpose(&name, &x, &[0, 2, 1, 3])
    });
    let plain = absorbed.queries(&mut nodes, &plain);
    let width = latent.compressed_width();
    let query = nodes.whole("query", [&plain, &turned], width, 4);
    let name = nodes.at("query/rows");
    let query = nodes
        .graph
        .reshape(&name, &query, &[0, 1, -1, 2 * half as i64]);
    let queries = nodes.halves("query", &query, half);

    let compressed = linear(nodes.graph, pass, &latent.compress, x);
    let sizes = [latent.norm.size, latent.rotated];
    let [short, turned] = nodes.two("compressed", &compressed, sizes);
    let turned = nodes.turned("key", &turned, 1, (tables, rotary, lengths));
    let short = norm(nodes.graph, &latent.norm, &short);
    let rows = nodes.whole("compressed", [&short, &turned], width, 3);
    let rows = nodes.halves("compressed", &rows, half);
    let kept = nodes.written(&rows, half, start, &cache);

    let mask = tables.masks.of(nodes.graph, attention, lengths, &kept[0]);
    let sums = nodes.attended(attention, &queries, &kept, &mask);
    let name = nodes.at("sums/heads");
    let shape = [0, heads as i64, -1, 2 * half as i64];
    let sums = nodes.graph.reshape(&name, &sums, &shape);
    let rest = 2 * half - latent.norm.size;
    let names = ["compressed", "rest"].map(|part| nodes.at(&format!("sums/{part}")));
    let (name, sizes) = (nodes.at("sums/Split"), [latent.norm.size, rest]);
    let [sums, _] = nodes.graph.split(&name, &sums, -1, sizes, names);
    let outputs = absorbed.outputs(&mut nodes, &sums);
    let name = nodes.at("to_back");
    let outputs = nodes.graph.transpose(&name, &outputs, &[0, 2, 1, 3]);
    let (name, width) = (nodes.at("join"), heads * latent.value);
    let mut context = nodes.graph.reshape(&name, &outputs, &[0, 0, width as i64]);
    if pass.is_last_layer(index) {
        let name = nodes.at("last");
        context = nodes.graph.last_position(&name, &context);
    }
    linear(nodes.graph, pass, &attention.o_proj, &context)
}

impl Nodes<'_, '_> {
    /// `parts`, of `axes` axes, along the last one. They're `size` wide in all, and padded with zeros
    /// to the cache's width.
    fn whole(&mut self, part: &str, parts: [&Value; 2], size: usize, axes: usize) -> Value {
        let name = self.at(&format!("{part}/whole"));
        let attrs = [("axis", Attr::Int(-1))];
        let whole = self.graph.op("Concat", &name, &parts, &attrs);
        if size == self.width {
            return whole;
        }
        let mut pads = vec![0; 2 * axes];
        pads[2 * axes - 1] = (self.width - size) as i64;
        let name = self.at(&format!("{part}/Pad"));
        self.graph.pad(&name, &whole, &pads)
    }

    /// Both halves of the last axis.
    fn halves(&mut self, part: &str, x: &Value, half: usize) -> [Value; 2] {
        let names = ["first", "second"].map(|half| self.at(&format!("{part}/{half}")));
        let name = self.at(&format!("{part}/halves/Split"));
        self.graph.split(&name, x, -1, [half; 2], names)
    }

    /// Writes the halves of new rows, `[batch, sequence, half]`, to the cache from row `start` on;
    /// returns the whole cache.
    fn written(
        &mut self,
        rows: &[Value; 2],
        half: usize,
        start: &Value,
        cache: &Cache,
    ) -> [Value; 2] {
        let Some(present) = &cache.present else {
            unreachable!("latent attention has a cache of its own");
        };
        let write = |(part, place): (&str, usize)| {
            let name = self.at(&format!("{part}/to_front"));
            let shape = [0, 1, -1, half as i64];
            let rows = self.graph.reshape(&name, &rows[place], &shape);
            let inputs = [&cache.past[place], &rows, start];
            let attrs = [("axis", Attr::Int(2))];
            let name = self.at(&format!("{part}/TensorScatter"));
            let outputs = [present[place].clone()];
            let graph = &mut *self.graph;
            let [made] = graph.op_outputs("TensorScatter", &name, &inputs, outputs, &attrs);
            made
        };
        [("key", 0), ("value", 1)].map(write)
    }

    /// Sums of the cache's rows `[batch, 1, length, half]`, weighted by the softmax of their scores
    /// with `queries`, `[batch, 1, heads * sequence, half]`: `[batch, 1, heads * sequence, 2 half]`.
    fn attended(
        &mut self,
        attention: &Attention,
        queries: &[Value; 2],
        kept: &[Value; 2],
        mask: &Value,
    ) -> Value {
        let halves = ["first", "second"];
        let products = [0, 1].map(|place| {
            let name = self.at(&format!("scores/{}/MatMul", halves[place]));
            let inputs = [&queries[place], &kept[place]];
            let scale = Attr::Float(attention.scale as f32);
            let attrs = [("transB", Attr::Int(1)), ("alpha", scale)];
            self.graph.contrib("FusedMatMul", &name, &inputs, &attrs)
        });
        let name = self.at("scores/Add");
        let scores = self.graph.add(&name, &products[0], &products[1]);
        let (name, shape) = (self.at("scores/heads"), [0, self.heads as i64, -1, 0]);
        let scores = self.graph.reshape(&name, &scores, &shape);
        let scores = self.graph.add(&self.at("scores/mask"), &scores, mask);
        let attrs = [("axis", Attr::Int(-1))];
        let (name, inputs) = (self.at("Softmax"), [&scores]);
        let weights = self.graph.op("Softmax", &name, &inputs, &attrs);
        let name = self.at("weights/rows");
        let weights = self.graph.reshape(&name, &weights, &[0, 1, -1, 0]);
        let sums = [0, 1].map(|place| {
            let name = self.at(&format!("sums/{}/MatMul", halves[place]));
            let inputs = [&weights, &kept[place]];
            self.graph.op("MatMul", &name, &inputs, &[])
        });
        let name = self.at("sums/Concat");
        let inputs = [&sums[0], &sums[1]];
        self.graph.op("Concat", &name, &inputs, &attrs)
    }
}
