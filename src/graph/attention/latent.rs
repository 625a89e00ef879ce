//! The projections of latent attention. Keys and values are expanded before they go into the cache,
//! so the attention itself is like any other.

use super::cache::cache_head_dim;
use super::{Inputs, rotate};
use crate::arch::{Attention, Latent, LatentQuery, Position, RotarySpec};
use crate::graph::builder::{Attr, GraphBuilder, Value};
use crate::graph::lengths::Lengths;
use crate::graph::linear::linear;
use crate::graph::norm::norm;
use crate::graph::pass::Pass;
use crate::graph::positions::PositionTables;

/// What the nodes of a layer share.
pub struct Nodes<'a, 'g> {
    pub graph: &'a mut GraphBuilder<'g>,
    pub path: &'a str,
    pub heads: usize,
    /// The width of a head in the cache, or of a compressed row.
    pub width: usize,
}

/// Queries, keys and values of `latent`, with the rotary embedding, each
/// `[batch, sequence, heads * width]`; heads are padded with zeros to the cache's width.
///
/// ```text
/// x ─ query ───────────────── Split ─┬──────────────────── Concat ─ query
///                                    └─ RotaryEmbedding ───┘
/// x ─ compress ─ Split ─┬─ norm ─ expand ─ Split ─┬─────── Concat ─ key
///                       │                         └──────────────── value
///                       └─ RotaryEmbedding ─ Expand ───────┘
/// ```
pub fn latent_inputs(
    graph: &mut GraphBuilder,
    pass: &Pass,
    (path, attention, latent): (&str, &Attention, &Latent),
    tables: &mut PositionTables,
    lengths: &Lengths,
    x: &Value,
) -> Inputs {
    let rotary = rotary(attention);
    let heads = attention.num_attention_heads;
    let query = queries(graph, pass, latent, x);
    let compressed = linear(graph, pass, &latent.compress, x);
    let mut nodes = Nodes {
        graph,
        path,
        heads,
        width: cache_head_dim(attention),
    };
    let query = nodes.split_heads("query", &query, latent.key_width());
    let [plain, turned] = nodes.two("query", &query, [latent.plain, latent.rotated]);
    let turned = nodes.rotated("query", &turned, heads, (tables, rotary, lengths));
    let query = nodes.joined("query", &[&plain, &turned], latent.key_width());

    let sizes = [latent.norm.size, latent.rotated];
    let [short, turned] = nodes.two("compressed", &compressed, sizes);
    let turned = nodes.rotated("key", &turned, 1, (tables, rotary, lengths));
    let turned = nodes.for_all_heads(&turned);
    let short = norm(nodes.graph, &latent.norm, &short);
    let expanded = linear(nodes.graph, pass, &latent.expand, &short);
    let expanded = nodes.split_heads("expanded", &expanded, latent.plain + latent.value);
    let [plain, value] = nodes.two("expanded", &expanded, [latent.plain, latent.value]);
    let key = nodes.joined("key", &[&plain, &turned], latent.key_width());
    let value = nodes.joined("value", &[&value], latent.value);
    Inputs::Three([query, key, value])
}

/// The rotary embedding of latent attention.
pub fn rotary(attention: &Attention) -> &RotarySpec {
    let Position::Rotary(rotary) = &attention.position else {
        unreachable!("latent attention has a rotary embedding");
    };
    rotary
}

/// `[batch, sequence, heads * (plain + rotated)]`, without the rotary embedding.
pub fn queries(graph: &mut GraphBuilder, pass: &Pass, latent: &Latent, x: &Value) -> Value {
    match &latent.query {
        LatentQuery::Direct(query) => linear(graph, pass, query, x),
        LatentQuery::Compressed { down, norm: by, up } => {
            let short = linear(graph, pass, down, x);
            let short = norm(graph, by, &short);
            linear(graph, pass, up, &short)
        }
    }
}

impl Nodes<'_, '_> {
    /// The full name of the node `part`.
    pub fn at(&self, part: &str) -> String {
        format!("/{}/self_attn/{part}", self.path)
    }

    /// `[batch, sequence, heads, width]`
    pub fn split_heads(&mut self, part: &str, x: &Value, width: usize) -> Value {
        let shape = [0, 0, self.heads as i64, width as i64];
        let name = self.at(&format!("{part}/split_heads"));
        self.graph.reshape(&name, x, &shape)
    }

    /// Splits the last axis in two.
    pub fn two(&mut self, part: &str, x: &Value, sizes: [usize; 2]) -> [Value; 2] {
        let name = self.at(&format!("{part}/Split"));
        let outputs = ["plain", "turned"].map(|half| self.at(&format!("{part}/{half}")));
        self.graph.split(&name, x, -1, sizes, outputs)
    }

    /// `[batch, sequence, heads, rotated]`, after the rotary embedding.
    pub fn rotated(
        &mut self,
        part: &str,
        x: &Value,
        heads: usize,
        (tables, rotary, lengths): (&mut PositionTables, &RotarySpec, &Lengths),
    ) -> Value {
        let turned = self.turned(part, x, heads, (tables, rotary, lengths));
        let name = self.at(&format!("{part}/turned/split"));
        let shape = [0, 0, heads as i64, rotary.dim() as i64];
        self.graph.reshape(&name, &turned, &shape)
    }

    /// `[batch, sequence, heads * rotated]`, after the rotary embedding.
    pub fn turned(
        &mut self,
        part: &str,
        x: &Value,
        heads: usize,
        (tables, rotary, lengths): (&mut PositionTables, &RotarySpec, &Lengths),
    ) -> Value {
        let width = rotary.dim();
        let name = self.at(&format!("{part}/turned/join"));
        let flat = self
            .graph
            .reshape(&name, x, &[0, 0, (heads * width) as i64]);
        let name = format!("{}/self_attn/{part}", self.path);
        let size = (heads, width);
        rotate(self.graph, tables, rotary, lengths, &name, &flat, size)
    }

    /// The one rotated key, for each head.
    fn for_all_heads(&mut self, x: &Value) -> Value {
        let name = self.at("key/Expand");
        let shape = [1, 1, self.heads as i64, 1];
        let shape = self
            .graph
            .constant_i64(&format!("{name}/shape"), &shape, false);
        self.graph.op("Expand", &name, &[x, &shape], &[])
    }

    /// The `parts` of each head after each other, which are `size` wide in all, padded with zeros:
    /// `[batch, sequence, heads * width]`.
    fn joined(&mut self, part: &str, parts: &[&Value], size: usize) -> Value {
        let name = self.at(&format!("{part}/Concat"));
        let whole = match parts {
            [one] => (*one).clone(),
            _ => {
                let attrs = [("axis", Attr::Int(-1))];
                self.graph.op("Concat", &name, parts, &attrs)
            }
        };
        let padded = match (self.width - size) as i64 {
            0 => whole,
            added => {
                let name = self.at(&format!("{part}/Pad"));
                let pads = [0, 0, 0, 0, 0, 0, 0, added];
                self.graph.pad(&name, &whole, &pads)
            }
        };
        let name = self.at(&format!("{part}/join_heads"));
        let shape = [0, 0, (self.heads * self.width) as i64];
        self.graph.reshape(&name, &padded, &shape)
    }
}
