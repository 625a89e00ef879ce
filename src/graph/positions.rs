//! Position information: rotary tables, learned position embeddings, ALiBi.

use std::collections::BTreeMap;

use super::alibi::alibi;
use super::builder::{Attr, Dim, GraphBuilder, Value};
use super::lengths::Lengths;
use super::mask::Masks;
use super::pass::{ACTIVE_FROM_INPUT, ROTARY_LENGTH};
use super::proto::{element, element_type};
use crate::arch::{Alibi, QueryScale, RotarySpec};

/// The name of the row that a new sequence's first token has in tables of two kinds.
pub const FIRST_ROW: &str = "/rotary/first_row";

/// The tables that layers share. Each is added to the graph on its first use.
#[derive(Debug)]
pub struct PositionTables {
    max_positions: usize,
    rotary: Vec<(RotarySpec, RotaryTables)>,
    /// The first rows of the tables, by the length beyond which frequencies change.
    first_rows: Vec<(usize, Value)>,
    alibi: Option<Value>,
    query_scale: Option<(QueryScale, Value)>,
    /// The keys and values of all tokens, by the number of the cache.
    kept: BTreeMap<usize, [Value; 2]>,
    /// Masks for [`AttentionOperator::Standard`](super::AttentionOperator).
    pub masks: Masks,
}

impl PositionTables {
    /// No tables yet; they'll have `max_positions` rows.
    pub fn new(max_positions: usize) -> Self {
        Self {
            max_positions,
            rotary: Vec::new(),
            first_rows: Vec::new(),
            alibi: None,
            query_scale: None,
            kept: BTreeMap::new(),
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

    /// The row of the tables for the first new token, i64 `[1]`; the others follow.
    pub fn first_row(
        &mut self,
        graph: &mut GraphBuilder,
        spec: &RotarySpec,
        lengths: &Lengths,
    ) -> Value {
        let Some(long) = &spec.long else {
            return lengths.past.clone();
        };
        if let Some((_, row)) = self.first_rows.iter().find(|(of, _)| *of == long.beyond) {
            return row.clone();
        }
        let name = match self.first_rows.len() {
            0 => FIRST_ROW.to_owned(),
            number => format!("{FIRST_ROW}.{number}"),
        };
        let beyond = graph.constant_i64(&format!("{name}/beyond"), &[long.beyond as i64], false);
        let inputs = [&lengths.total, &beyond];
        let is_long = graph.op("Greater", &format!("{name}/Greater"), &inputs, &[]);
        let zero = graph.constant_i64("zero.scalar", &[0], true);
        let length = rotary_length(graph, self.max_positions);
        let inputs = [&is_long, &length, &zero];
        let skipped = graph.op("Where", &format!("{name}/Where"), &inputs, &[]);
        let row = graph.add(&name, &lengths.past, &skipped);
        self.first_rows.push((long.beyond, row.clone()));
        row
    }

    /// The factors of the new tokens' queries, `[sequence, 1]`.
    pub fn query_scale(
        &mut self,
        graph: &mut GraphBuilder,
        scale: QueryScale,
        lengths: &Lengths,
    ) -> Value {
        if let Some((made, factors)) = &self.query_scale
            && *made == scale
        {
            return factors.clone();
        }
        let table = query_scales(graph, scale, self.max_positions);
        let factors = rows_of_new(graph, "query_scale", &table, 0, lengths);
        self.query_scale = Some((scale, factors.clone()));
        factors
    }

    /// Keeps the keys and values of all tokens in cache `number`, for later layers.
    pub fn keep(&mut self, number: usize, keys_and_values: [Value; 2]) {
        self.kept.insert(number, keys_and_values);
    }

    /// The keys and values in cache `number`.
    pub fn kept(&self, number: usize) -> [Value; 2] {
        let kept = self.kept.get(&number).cloned();
        kept.expect("a layer takes keys of an earlier one")
    }

    /// The ALiBi bias on scores, `[1, heads, sequence, total]`. It depends on the key's position
    /// only: the query's part is the same for all keys of a row, and cancels in the softmax.
    pub fn alibi(&mut self, graph: &mut GraphBuilder, spec: &Alibi, lengths: &Lengths) -> Value {
        if let Some(made) = &self.alibi {
            return made.clone();
        }
        let bias = alibi(graph, spec, lengths);
        self.alibi = Some(bias.clone());
        bias
    }
}

/// Adds a mask, `[batch, sequence, 1]`: 0 for tokens before the position in the input
/// `active_from`, and 1 from there on.
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

/// Tables of cosines and sines, each `[positions, pairs]`. With two kinds of frequencies, they have
/// the rows of one kind, then those of the other.
#[derive(Debug, Clone)]
pub struct RotaryTables {
    /// Cosines.
    pub cos: Value,
    /// Sines.
    pub sin: Value,
}

/// Adds the tables for `max_positions`. They're computed by nodes over constants, which ONNX
/// Runtime folds when it opens the session. The graph's file stays small, and the engine may set
/// [`ROTARY_LENGTH`] to the number of positions needed.
fn rotary_tables(
    graph: &mut GraphBuilder,
    name: &str,
    rotary: &RotarySpec,
    max_positions: usize,
) -> RotaryTables {
    let at = |part: &str| format!("/{name}/{part}");
    let zero = graph.constant_i64("zero.scalar", &[0], true);
    let step = graph.constant_i64("one.scalar", &[1], true);
    let limit = rotary_length(graph, max_positions);
    let range = graph.op("Range", &at("Range"), &[&zero, &limit, &step], &[]);
    let range = graph.cast(&at("Range/float32"), &range, element::FLOAT32);
    let positions = graph.reshape(&at("positions"), &range, &[-1, 1]);
    let pairs = rotary.inv_freq.len();
    let mut angles = |part: &str, inv_freq: &[f32]| {
        let own = format!("{name}.{part}inv_freq");
        let inv_freq = graph.constant_f32(&own, &[1, pairs], inv_freq);
        graph.mul(&at(&format!("{part}angles")), &positions, &inv_freq)
    };
    let mut all = angles("", &rotary.inv_freq);
    if let Some(long) = &rotary.long {
        let long = angles("long.", &long.inv_freq);
        let attrs = [("axis", Attr::Int(0))];
        all = graph.op("Concat", &at("both_angles"), &[&all, &long], &attrs);
    }
    let mut table = |op: &str, cache: &str| {
        let mut made = graph.op(op, &at(op), &[&all], &[]);
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

/// The number of positions that tables have, an i64 scalar.
fn rotary_length(graph: &mut GraphBuilder, max_positions: usize) -> Value {
    graph.constant_i64(ROTARY_LENGTH, &[max_positions as i64], true)
}

/// The factors of queries at all positions, `[positions, 1]`, computed like the rotary tables.
fn query_scales(graph: &mut GraphBuilder, scale: QueryScale, max_positions: usize) -> Value {
    let at = |part: &str| format!("/query_scale/{part}");
    let zero = graph.constant_i64("zero.scalar", &[0], true);
    let step = graph.constant_i64("one.scalar", &[1], true);
    let limit = rotary_length(graph, max_positions);
    let mut range = graph.op("Range", &at("Range"), &[&zero, &limit, &step], &[]);
    if scale.first > 0 {
        let first = graph.constant_i64("query_scale.first", &[scale.first as i64], true);
        range = graph.add(&at("positions"), &range, &first);
    }
    let original = graph.constant_i64("query_scale.original", &[scale.original as i64], true);
    // A quotient of integers is rounded down.
    let turns = graph.op("Div", &at("Div"), &[&range, &original], &[]);
    let turns = graph.cast(&at("turns"), &turns, element::FLOAT32);
    let turns = graph.reshape(&at("column"), &turns, &[-1, 1]);
    let one = graph.constant_f32("query_scale.one", &[], &[1.0]);
    let grown = graph.add(&at("turns/Add"), &turns, &one);
    let grown = graph.op("Log", &at("Log"), &[&grown], &[]);
    let beta = graph.constant_f32("query_scale.beta", &[], &[scale.beta as f32]);
    let grown = graph.mul(&at("Mul"), &grown, &beta);
    let factors = graph.add(&at("Add"), &grown, &one);
    graph.to_compute(&at("table"), &factors)
}

/// Adds the new tokens' position embeddings from the learned table `path`:
/// `[sequence, hidden_size]`.
pub fn learned_rows(
    graph: &mut GraphBuilder,
    path: &str,
    offset: usize,
    lengths: &Lengths,
) -> Value {
    let table = graph.parameter(&format!("{path}.weight"));
    rows_of_new(graph, path, &table, offset, lengths)
}

/// The rows of `table` at the new tokens' positions plus `offset`. Graphs for unequal lengths
/// replace these nodes.
fn rows_of_new(
    graph: &mut GraphBuilder,
    path: &str,
    table: &Value,
    offset: usize,
    lengths: &Lengths,
) -> Value {
    let offset = graph.constant_i64(&format!("{path}.offset"), &[offset as i64], false);
    let start = graph.add(&format!("/{path}/start"), &lengths.past, &offset);
    let end = graph.add(&format!("/{path}/end"), &lengths.total, &offset);
    let axis = graph.constant_i64("zero", &[0], false);
    graph.op(
        "Slice",
        &format!("/{path}/Slice"),
        &[table, &start, &end, &axis],
        &[],
    )
}
