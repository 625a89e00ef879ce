//! The projection that expands keys and values of latent attention, absorbed: its rows for keys are
//! applied to queries, and its rows for values to sums of compressed vectors.
//!
//! With `W_K` and `W_V` for the rows of a head, and `c` for a compressed vector:
//!
//! ```text
//! q · (W_K c) = (W_Kᵀ q) · c
//! Σ p (W_V c) = W_V (Σ p c)
//! ```
//!
//! An adapter may change the projection to `s ∘ (g ∘ (W (v ∘ c) + B A c) + b)`. Then queries are
//! multiplied by `s` and `g` first. `b` adds the same to all of a query's scores, which changes
//! nothing; and as weights sum up to 1, to each value it adds itself.

use super::latent::Nodes;
use crate::arch::Latent;
use crate::graph::Role;
use crate::graph::builder::Value;
use crate::graph::pass::Pass;

/// How an adapter changes an absorbed projection, `[heads * (plain + value), latent]`. An absent
/// part changes nothing.
#[derive(Debug, Default)]
pub struct AbsorbedChange {
    /// `v`, factors of the compressed vector, `[latent]`.
    pub input: Vec<Value>,
    /// In place of `W`.
    pub weight: Option<Value>,
    /// `A`, `[r, latent]`, and `B`, `[heads * (plain + value), r]`.
    pub low_rank: Option<[Value; 2]>,
    /// `g`
    pub gain: Option<Value>,
    /// `b`
    pub bias: Option<Value>,
    /// `s`
    pub output: Option<Value>,
}

/// An absorbed projection. What has rows is divided into those for keys and those for values.
pub struct Absorbed {
    /// `[heads, plain, latent]` and `[heads, value, latent]`
    weight: [Value; 2],
    /// `[latent]`
    input: Vec<Value>,
    /// `A`, and `[heads, plain, r]` and `[heads, value, r]`
    low_rank: Option<(Value, [Value; 2])>,
    /// `[heads, 1, plain]` and `[heads, 1, value]`
    gain: Option<[Value; 2]>,
    /// `[heads, 1, value]`
    bias: Option<Value>,
    /// `[heads, 1, plain]` and `[heads, 1, value]`
    output: Option<[Value; 2]>,
}

impl Absorbed {
    /// The projection of `latent` with its adapter. `x` is any value that depends on the graph's
    /// inputs.
    pub fn new(nodes: &mut Nodes, pass: &Pass, latent: &Latent, x: &Value) -> Self {
        let path = &latent.expand.path;
        let change = pass
            .adaptation
            .and_then(|own| own.absorbed(nodes.graph, path));
        let change = change.unwrap_or_default();
        let weight = match change.weight {
            Some(weight) => weight,
            None => nodes.graph.weight(path, x),
        };
        let sizes = [latent.plain, latent.value];
        let columns = latent.norm.size as i64;
        let weight = nodes.rows("weight", &weight, sizes, columns);
        let role = Role::Divided {
            path: nodes.graph.scoped_path(path),
            heads: nodes.heads,
            rows: sizes,
        };
        nodes.graph.set_role(&weight[0], &role);
        let low_rank = change.low_rank.map(|[a, b]| {
            let rows = nodes.rows("adapter/B", &b, sizes, -1);
            (a, rows)
        });
        // A merge may have added one.
        let own = nodes.graph.find_parameter(&format!("{path}.bias"));
        let bias = change.bias.or(own);
        let mut factors = |name: &str, x: Option<Value>| {
            x.map(|x| nodes.factors(&format!("adapter/{name}"), &x, sizes))
        };
        Self {
            weight,
            input: change.input,
            low_rank,
            gain: factors("gain", change.gain),
            bias: factors("bias", bias).map(|[_, value]| value),
            output: factors("output", change.output),
        }
    }

    /// Queries `[batch, heads, sequence, plain]` as `[batch, heads, sequence, latent]`.
    pub fn queries(&self, nodes: &mut Nodes, query: &Value) -> Value {
        let at = |nodes: &Nodes, part: &str| nodes.at(&format!("absorbed/query/{part}"));
        let mut query = query.clone();
        for (part, factors) in [("output", &self.output), ("gain", &self.gain)] {
            if let Some([own, _]) = factors {
                query = nodes.graph.mul(&at(nodes, part), &query, own);
            }
        }
        let name = at(nodes, "MatMul");
        let inputs = [&query, &self.weight[0]];
        let mut made = nodes.graph.op("MatMul", &name, &inputs, &[]);
        for (place, factors) in self.input.iter().enumerate() {
            let name = at(nodes, &format!("input_{place}"));
            made = nodes.graph.mul(&name, &made, factors);
        }
        if let Some((a, [b, _])) = &self.low_rank {
            let name = at(nodes, "adapter/B/MatMul");
            let inner = nodes.graph.op("MatMul", &name, &[&query, b], &[]);
            let name = at(nodes, "adapter/A/MatMul");
            let delta = nodes.graph.op("MatMul", &name, &[&inner, a], &[]);
            made = nodes.graph.add(&at(nodes, "adapter/Add"), &made, &delta);
        }
        made
    }

    /// The heads' outputs, `[batch, heads, sequence, value]`, of sums of compressed vectors
    /// `[batch, heads, sequence, latent]`.
    pub fn outputs(&self, nodes: &mut Nodes, sums: &Value) -> Value {
        let at = |nodes: &Nodes, part: &str| nodes.at(&format!("absorbed/output/{part}"));
        let mut scaled = sums.clone();
        for (place, factors) in self.input.iter().enumerate() {
            let name = at(nodes, &format!("input_{place}"));
            scaled = nodes.graph.mul(&name, &scaled, factors);
        }
        let name = at(nodes, "MatMul");
        let mut made = nodes
            .graph
            .matmul_transposed(&name, &scaled, &self.weight[1]);
        if let Some((a, [_, b])) = &self.low_rank {
            let name = at(nodes, "adapter/A/MatMul");
            let inner = nodes.graph.matmul_transposed(&name, sums, a);
            let name = at(nodes, "adapter/B/MatMul");
            let delta = nodes.graph.matmul_transposed(&name, &inner, b);
            made = nodes.graph.add(&at(nodes, "adapter/Add"), &made, &delta);
        }
        if let Some([_, gain]) = &self.gain {
            made = nodes.graph.mul(&at(nodes, "gain"), &made, gain);
        }
        if let Some(bias) = &self.bias {
            made = nodes.graph.add(&at(nodes, "bias"), &made, bias);
        }
        if let Some([_, output]) = &self.output {
            made = nodes.graph.mul(&at(nodes, "scale"), &made, output);
        }
        made
    }
}

impl Nodes<'_, '_> {
    /// Divides a matrix `[heads * (a + b), columns]` into `[heads, a, columns]` and
    /// `[heads, b, columns]`.
    fn rows(&mut self, part: &str, x: &Value, sizes: [usize; 2], columns: i64) -> [Value; 2] {
        let of_head = sizes.iter().sum::<usize>() as i64;
        self.divided(part, x, (1, [of_head, columns]), sizes)
    }

    /// Divides a vector `[heads * (a + b)]` into `[heads, 1, a]` and `[heads, 1, b]`.
    fn factors(&mut self, part: &str, x: &Value, sizes: [usize; 2]) -> [Value; 2] {
        let of_head = sizes.iter().sum::<usize>() as i64;
        self.divided(part, x, (2, [1, of_head]), sizes)
    }

    /// Gives `x` an axis of heads before the two of `shape`, and divides `axis` in two.
    fn divided(
        &mut self,
        part: &str,
        x: &Value,
        (axis, [first, second]): (i64, [i64; 2]),
        sizes: [usize; 2],
    ) -> [Value; 2] {
        let at = |nodes: &Self, last: &str| nodes.at(&format!("absorbed/{part}/{last}"));
        let shape = [self.heads as i64, first, second];
        let by_head = self.graph.reshape(&at(self, "heads"), x, &shape);
        let names = ["of_keys", "of_values"].map(|half| at(self, half));
        let name = at(self, "Split");
        self.graph.split(&name, &by_head, axis, sizes, names)
    }
}
