//! Where tokens are: lengths from the attention mask, rotary tables, learned rows.

use super::AttentionOperator;
use super::builder::{Attr, Dim, GraphBuilder, Value};
use super::export::{ACTIVE_FROM_INPUT, ROTARY_LENGTH};
use super::mask::Masks;
use super::proto::{element, element_type};
use crate::arch::RotarySpec;

/// Tables that layers share, each made when it's first asked for.
#[derive(Debug)]
pub struct PositionTables {
    max_positions: usize,
    rotary: Vec<(RotarySpec, RotaryTables)>,
    alibi: Option<Value>,
    /// For attention over a whole cache.
    pub masks: Masks,
}

impl PositionTables {
    /// None so far; tables of `max_positions` are asked for.
    pub fn new(max_positions: usize) -> Self {
        Self {
            max_positions,
            rotary: Vec::new(),
            alibi: None,
            masks: Masks::default(),
        }
    }

    /// Cosines and sines.
    pub fn rotary(&mut self, graph: &mut GraphBuilder, spec: &RotarySpec) -> RotaryTables {
        if let Some((_, tables)) = self.rotary.iter().find(|(made, _)| made == spec) {
            return tables.clone();
        }
        let name = match self.rotary.len() {
            0 => "rotary".to_owned(),
            number => format!("rotary.{number}"),
        };
        let tables = rotary_tables(graph, &name, spec, self.max_positions);
        self.rotary.push((spec.clone(), tables.clone()));
        tables
    }

    /// What is added to scores, `[1, heads, sequence, total]`. It grows with the key's place alone: what it would lose by
    /// the query's place is the same for all keys of a row, and the softmax doesn't see it.
    pub fn alibi(&mut self, graph: &mut GraphBuilder, slopes: &[f32], lengths: &Lengths) -> Value {
        if let Some(made) = &self.alibi {
            return made.clone();
        }
        let bias = alibi(graph, slopes, lengths);
        self.alibi = Some(bias.clone());
        bias
    }
}

/// [`Operands::GroupQuery::last_index`] in a graph.
pub const LAST_INDEX: &str = "/attention_mask/last_index";

/// [`Operands::GroupQuery::total_i32`] in a graph.
pub const TOTAL_I32: &str = "/attention_mask/total/i32";

/// [`Lengths::total`] in a graph.
pub const TOTAL: &str = "/attention_mask/total";

/// [`Lengths::past`] in a graph.
pub const PAST: &str = "/attention_mask/past";

/// Lengths that attention needs, from the attention mask `[batch, total]`.
#[derive(Debug)]
pub struct Lengths {
    /// As the graph's operator takes them.
    pub operands: Operands,
    /// Cached and new tokens, i64 `[1]`.
    pub total: Value,
    /// Cached tokens, i64 `[1]`.
    pub past: Value,
    /// New tokens, i64 `[1]`.
    pub new: Value,
}

/// Lengths as an [`AttentionOperator`] takes them.
#[derive(Debug)]
pub enum Operands {
    /// [`AttentionOperator::GroupQuery`]
    GroupQuery {
        /// Tokens of each row less one, i32 `[batch]`.
        last_index: Value,
        /// Cached and new tokens, i32 scalar.
        total_i32: Value,
    },
    /// [`AttentionOperator::Standard`]
    Standard {
        /// The row of the cache that new tokens are written from, i64 `[batch]`.
        start: Value,
    },
}

/// Adds the lengths; `hidden` is `[batch, sequence, …]`.
pub fn lengths(graph: &mut GraphBuilder, attention_mask: &Value, hidden: &Value) -> Lengths {
    let total = graph.size_of_axis(TOTAL, attention_mask, 1);
    let new = graph.size_of_axis("/hidden/sequence", hidden, 1);
    let past = graph.op("Sub", PAST, &[&total, &new], &[]);
    let operands = match graph.attention_operator() {
        AttentionOperator::GroupQuery => row_lengths(graph, attention_mask, &total),
        AttentionOperator::Standard => {
            let batch = graph.size_of_axis("/hidden/batch", hidden, 0);
            let start = graph.op("Expand", "/cache/start", &[&past, &batch], &[]);
            Operands::Standard { start }
        }
    };
    Lengths {
        operands,
        total,
        past,
        new,
    }
}

fn row_lengths(graph: &mut GraphBuilder, attention_mask: &Value, total: &Value) -> Operands {
    let one = graph.constant_i64("one", &[1], false);
    let tokens = graph.op(
        "ReduceSum",
        "/attention_mask/ReduceSum",
        &[attention_mask, &one],
        &[("keepdims", Attr::Int(0))],
    );
    let last = graph.op("Sub", "/attention_mask/Sub", &[&tokens, &one], &[]);
    let last_index = graph.cast(LAST_INDEX, &last, element::INT32);
    let scalar = graph.constant_i64("empty", &[], false);
    let total_scalar = graph.op(
        "Reshape",
        "/attention_mask/total/scalar",
        &[total, &scalar],
        &[],
    );
    let total_i32 = graph.cast(TOTAL_I32, &total_scalar, element::INT32);
    Operands::GroupQuery {
        last_index,
        total_i32,
    }
}

/// Adds the mask of the tokens at and behind position `active_from`, an input: 1 there and 0 before,
/// `[batch, sequence, 1]`.
pub fn active_mask(graph: &mut GraphBuilder, lengths: &Lengths) -> Value {
    let start = graph.input_i64(ACTIVE_FROM_INPUT, &[Dim::symbol("batch"), 1.into()]);
    let positions = graph.range("/active/positions", &lengths.past, &lengths.total);
    let active = graph.op(
        "GreaterOrEqual",
        "/active/GreaterOrEqual",
        &[&positions, &start],
        &[],
    );
    let mask = graph.cast("/active/Cast", &active, element_type(graph.compute()));
    graph.reshape("/active/mask", &mask, &[0, 0, 1])
}

/// Tables of cosines and sines, each `[positions, pairs]`.
#[derive(Debug, Clone)]
pub struct RotaryTables {
    /// Cosines.
    pub cos: Value,
    /// Sines.
    pub sin: Value,
}

/// Adds the tables for `max_positions`. They are computed by nodes over constants, which ONNX Runtime
/// folds when the session starts: the file stays small, and whoever loads it may set
/// [`ROTARY_LENGTH`] to the positions that are needed.
fn rotary_tables(
    graph: &mut GraphBuilder,
    name: &str,
    rotary: &RotarySpec,
    max_positions: usize,
) -> RotaryTables {
    let at = |part: &str| format!("/{name}/{part}");
    let zero = graph.constant_i64("zero.scalar", &[0], true);
    let step = graph.constant_i64("one.scalar", &[1], true);
    let limit = graph.constant_i64(ROTARY_LENGTH, &[max_positions as i64], true);
    let range = graph.op("Range", &at("Range"), &[&zero, &limit, &step], &[]);
    let range = graph.cast(&at("Range/float32"), &range, element::FLOAT32);
    let positions = graph.reshape(&at("positions"), &range, &[-1, 1]);
    let pairs = rotary.inv_freq.len();
    let inv_freq = format!("{name}.inv_freq");
    let inv_freq = graph.constant_f32(&inv_freq, &[1, pairs], &rotary.inv_freq);
    let angles = graph.mul(&at("angles"), &positions, &inv_freq);
    let mut table = |op: &str, cache: &str| {
        let mut made = graph.op(op, &at(op), &[&angles], &[]);
        if rotary.factor != 1.0 {
            let factor = graph.constant_f32(&format!("{name}.factor"), &[], &[rotary.factor]);
            made = graph.mul(&at(&format!("{op}/Mul")), &made, &factor);
        }
        graph.to_compute(&at(cache), &made)
    };
    RotaryTables {
        cos: table("Cos", "cos_cache"),
        sin: table("Sin", "sin_cache"),
    }
}

fn alibi(graph: &mut GraphBuilder, slopes: &[f32], lengths: &Lengths) -> Value {
    let zero = graph.constant_i64("zero", &[0], false);
    let places = graph.range("/alibi/Range", &zero, &lengths.total);
    let row = alibi_row(graph, slopes, &places);
    let one = graph.constant_i64("one", &[1], false);
    let attrs = [("axis", Attr::Int(0))];
    let shape = [&one, &one, &lengths.new, &one];
    let shape = graph.op("Concat", "/alibi/shape", &shape, &attrs);
    graph.op("Expand", "/alibi/Expand", &[&row, &shape], &[])
}

/// What is added to the scores of keys at `places`, i64 `[length]`: `[1, heads, 1, length]`.
pub fn alibi_row(graph: &mut GraphBuilder, slopes: &[f32], places: &Value) -> Value {
    let places = graph.cast("/alibi/Range/float32", places, element::FLOAT32);
    let heads = slopes.len();
    let slopes = graph.constant_f32("alibi.slopes", &[1, heads, 1, 1], slopes);
    let row = graph.mul("/alibi/Mul", &slopes, &places);
    graph.to_compute("/alibi/row", &row)
}

/// Adds the rows of the new tokens' positions from the learned table `path`:
/// `[sequence, hidden_size]`.
pub fn learned_rows(
    graph: &mut GraphBuilder,
    path: &str,
    offset: usize,
    lengths: &Lengths,
) -> Value {
    let table = graph.parameter(&format!("{path}.weight"));
    let offset = graph.constant_i64(&format!("{path}.offset"), &[offset as i64], false);
    let start = graph.add(&format!("/{path}/start"), &lengths.past, &offset);
    let end = graph.add(&format!("/{path}/end"), &lengths.total, &offset);
    let axis = graph.constant_i64("zero", &[0], false);
    graph.op(
        "Slice",
        &format!("/{path}/Slice"),
        &[&table, &start, &end, &axis],
        &[],
    )
}
