//! Position information: rotary tables, learned position embeddings, ALiBi.

use super::alibi::alibi;
use super::builder::{Dim, GraphBuilder, Value};
use super::lengths::Lengths;
use super::mask::Masks;
use super::pass::{ACTIVE_FROM_INPUT, ROTARY_LENGTH};
use super::proto::{element, element_type};
use crate::arch::RotarySpec;

/// The tables that layers share. Each is added to the graph on its first use.
#[derive(Debug)]
pub struct PositionTables {
    max_positions: usize,
    rotary: Vec<(RotarySpec, RotaryTables)>,
    alibi: Option<Value>,
    /// Masks for [`AttentionOperator::Standard`](super::AttentionOperator).
    pub masks: Masks,
}

impl PositionTables {
    /// No tables yet; they'll have `max_positions` rows.
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

    /// The ALiBi bias on scores, `[1, heads, sequence, total]`. It depends on the key's position
    /// only: the query's part is the same for all keys of a row, and cancels in the softmax.
    pub fn alibi(&mut self, graph: &mut GraphBuilder, slopes: &[f32], lengths: &Lengths) -> Value {
        if let Some(made) = &self.alibi {
            return made.clone();
        }
        let bias = alibi(graph, slopes, lengths);
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

/// Tables of cosines and sines, each `[positions, pairs]`.
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

/// Adds the new tokens' position embeddings from the learned table `path`:
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
