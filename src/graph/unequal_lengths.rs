//! Batches of sequences of unequal lengths, padded on the right.
//!
//! A prepared graph takes sequences of one length: the last row of each is its last position, and a
//! new token's position is the number of columns of the mask before it. onnxruntime-genai and others
//! pad shorter prompts on the right. For them, three things are computed from each sequence's own
//! mask instead:
//!
//! | | one length | unequal lengths |
//! | --- | --- | --- |
//! | the last position | `Gather(x, -1)` | `GatherND` at the largest position whose mask is 1 |
//! | positions of new tokens | from the mask's length | the number of ones before, then counting up |
//! | the position of the last token, for layers that get no other | the mask's length − 1 | its place among the new tokens, added to that number |
//! | token ids | as given | at most the last id, so that padding may be any larger number |
//! | masks by the queries' positions | one for all sequences | one for each |
//!
//! `GroupQueryAttention` counts each sequence's tokens by itself; [`scattered`] is about other caches.
//! For a single sequence both graphs compute the same, bit by bit. The engine runs one length only,
//! and takes these nodes out again before it lowers a graph ([`for_one_length`]).

mod scattered;

use super::lengths::{LAST_PAST, PAST, TOTAL};
use super::mask::{AFTER_PROMPT, CHUNKS};
use super::positions::FIRST_ROW;
use super::proto::{Attribute, Graph, Model, Node, Tensor, element};

/// The constant of [`GraphBuilder::last_position`](super::GraphBuilder::last_position).
const LAST: &str = "last";

/// The row of each sequence's last position among the new tokens, i64 `[batch, 1, 1]`.
const LAST_ROW: &str = "/unequal/last_row";

/// The positions of the new tokens, i64 `[batch, sequence]`.
const POSITIONS: &str = "/unequal/positions";

/// The positions of the new tokens as those of queries, i64 `[batch, sequence, 1]`.
const QUERIES: &str = "/unequal/queries";

/// The axis of heads in a mask with an axis for sequences.
const MASK_AXIS: &str = "/unequal/mask_axis";

/// The ends of names of nodes that compare positions of queries with those of keys.
const COMPARING: [&str; 2] = ["/queries/Div", "/Greater"];

/// The beginnings of the names of masks that are biases of `GroupQueryAttention`.
const BIASES: [&str; 2] = [AFTER_PROMPT, CHUNKS];

/// The positions of the last tokens, i64 `[batch, 1]`.
const LAST_POSITIONS: &str = "/unequal/last_positions";

/// The token ids, of which none is larger than the last of the vocabulary.
const KNOWN_IDS: &str = "/unequal/known_ids";

const IDS: &str = "input_ids";
const MASK: &str = "attention_mask";
const SEQUENCE: &str = "/hidden/sequence";

/// The prefix of names that only graphs for unequal lengths have.
const OWN: &str = "/unequal/";

/// Rewrites `model`, as it was prepared, for sequences of unequal lengths. The ids of padding may
/// be any number from 0 on; `vocab_size` ids have an embedding.
pub fn for_unequal_lengths(model: &mut Model, vocab_size: usize) {
    let Some(graph) = &mut model.graph else {
        return;
    };
    let tables = learned_tables(graph);
    graph.node.retain(|node| {
        let mut parts = tables.iter().flat_map(|table| [&table.start, &table.end]);
        !parts.any(|part| node.output[0] == *part)
    });
    let (mut before_layers, more_constants) = scattered::rewrite(graph);
    let mut added = Vec::new();
    for node in &mut graph.node {
        if node.op_type == "Gather" && node.input[1] == LAST {
            "GatherND".clone_into(&mut node.op_type);
            LAST_ROW.clone_into(&mut node.input[1]);
            node.attribute = vec![int("batch_dims", 1)];
        }
        if let Some(table) = tables.iter().find(|table| table.rows == node.output[0]) {
            let places = format!("{OWN}{}", table.rows);
            added.push(make("Add", &[POSITIONS, &table.offset], &places, &[]));
            "Gather".clone_into(&mut node.op_type);
            node.input = vec![node.input[0].clone(), places];
            node.attribute = vec![int("axis", 0)];
        }
        if node.op_type == "RotaryEmbedding" || node.output[0].starts_with(FIRST_ROW) {
            replace(node, PAST, POSITIONS);
            replace(node, LAST_PAST, LAST_POSITIONS);
        }
        if let Some(queries) = compared_in(&node.output[0]).map(queries_of) {
            replace(node, &queries, QUERIES);
        }
        if is_bias(&node.output[0]) {
            let axes = axes_of(&node.output[0]);
            replace(node, &axes, MASK_AXIS);
        }
        replace(node, IDS, KNOWN_IDS);
    }
    let uses = |name: &str| {
        let inputs = graph.node.iter().chain(&added).flat_map(|node| &node.input);
        inputs.into_iter().any(|input| input == name)
    };
    let queries = uses(QUERIES);
    let last = uses(LAST_POSITIONS);
    let (rows, positions) = (last || uses(LAST_ROW), last || queries || uses(POSITIONS));
    let last_id = vocab_size as i64 - 1;
    let mut constants = vec![constant("last_id", &[], &[last_id])];
    let known_ids = make("Min", &[IDS, "/unequal/last_id"], KNOWN_IDS, &[]);
    let mut lengths = Vec::new();
    if rows || positions {
        constants.extend([
            constant("zero", &[], &[0]),
            constant("one", &[], &[1]),
            constant("axis", &[1], &[1]),
            constant("scalar", &[0], &[]),
        ]);
    }
    if rows || queries {
        constants.push(constant("last_axis", &[1], &[2]));
    }
    if rows {
        lengths.extend(last_row());
    }
    if positions {
        constants.push(constant("start", &[1], &[0]));
        lengths.extend(positions_of_each());
    }
    if queries {
        constants.push(constant("mask_axis", &[1], &[1]));
        let inputs = [POSITIONS, "/unequal/last_axis"];
        lengths.push(make("Unsqueeze", &inputs, QUERIES, &[]));
    }
    if last {
        let parts = ["/unequal/count", "/unequal/row"];
        lengths.push(make("Add", &parts, LAST_POSITIONS, &[]));
    }
    lengths.extend(added);
    lengths.append(&mut before_layers);
    graph.initializer.extend(constants);
    graph.initializer.extend(more_constants);
    // Nodes come after those whose outputs they take.
    let before = |node: &Node| [PAST, SEQUENCE, TOTAL].contains(&node.output[0].as_str());
    let place = graph.node.iter().rposition(before).map_or(0, |at| at + 1);
    graph.node.splice(place..place, lengths);
    graph.node.insert(0, known_ids);
    if !is_used(graph, LAST) {
        graph.initializer.retain(|tensor| tensor.name != LAST);
    }
}

fn is_used(graph: &Graph, name: &str) -> bool {
    let mut inputs = graph.node.iter().flat_map(|node| &node.input);
    inputs.any(|input| input == name)
}

/// Rewrites a `model` for unequal lengths back to the one that was prepared. Others stay as they
/// are.
pub fn for_one_length(model: &mut Model) {
    let Some(graph) = &mut model.graph else {
        return;
    };
    let own = |name: &str| name.starts_with(OWN);
    if !graph.node.iter().any(|node| own(&node.output[0])) {
        return;
    }
    let offsets: Vec<(String, String)> = graph
        .node
        .iter()
        .filter(|node| node.op_type == "Add" && node.input[0] == POSITIONS)
        .map(|node| (node.output[0].clone(), node.input[1].clone()))
        .collect();
    let mut nodes = Vec::with_capacity(graph.node.len());
    for mut node in std::mem::take(&mut graph.node) {
        if own(&node.output[0]) {
            continue;
        }
        if node.op_type == "GatherND" && node.input[1] == LAST_ROW {
            "Gather".clone_into(&mut node.op_type);
            LAST.clone_into(&mut node.input[1]);
            node.attribute = vec![int("axis", 1)];
        }
        let offset = offsets
            .iter()
            .find(|(places, _)| node.op_type == "Gather" && node.input[1] == *places);
        if let Some((_, offset)) = offset {
            let rows = node.output[0].clone();
            let path = rows.strip_suffix("/Slice").unwrap_or(&rows);
            let [start, end] = ["start", "end"].map(|part| format!("{path}/{part}"));
            nodes.push(make("Add", &[PAST, offset], &start, &[]));
            nodes.push(make("Add", &[TOTAL, offset], &end, &[]));
            "Slice".clone_into(&mut node.op_type);
            node.input = vec![node.input[0].clone(), start, end, "zero".to_owned()];
            node.attribute = Vec::new();
        }
        scattered::restore(&mut node);
        replace(&mut node, POSITIONS, PAST);
        replace(&mut node, LAST_POSITIONS, LAST_PAST);
        replace(&mut node, KNOWN_IDS, IDS);
        if let Some(queries) = compared_in(&node.output[0]).map(queries_of) {
            replace(&mut node, QUERIES, &queries);
        }
        let axes = axes_of(&node.output[0]);
        replace(&mut node, MASK_AXIS, &axes);
        nodes.push(node);
    }
    graph.node = nodes;
    graph.initializer.retain(|tensor| !own(&tensor.name));
    let has_last = graph.initializer.iter().any(|tensor| tensor.name == LAST);
    if !has_last && is_used(graph, LAST) {
        graph.initializer.push(named(LAST, &[1], &[-1]));
    }
}

/// The mask that a node with this output compares positions for, if it's a bias of
/// `GroupQueryAttention`.
fn compared_in(output: &str) -> Option<&str> {
    let mut ends = COMPARING.iter();
    let mask = ends.find_map(|end| output.strip_suffix(end))?;
    is_bias(mask).then_some(mask)
}

/// Whether this is the name of a bias of `GroupQueryAttention` that depends on positions.
fn is_bias(name: &str) -> bool {
    let size = BIASES.iter().find_map(|prefix| name.strip_prefix(prefix));
    size.is_some_and(|size| size.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The positions of the queries that a mask is made from.
fn queries_of(mask: &str) -> String {
    format!("{mask}/queries/column")
}

/// The axes that a mask for one length gets.
fn axes_of(mask: &str) -> String {
    format!("{mask}/axes")
}

/// A table of learned positions, as a prepared graph reads it.
struct LearnedTable {
    /// The rows of the new tokens: the output of a `Slice`.
    rows: String,
    /// Its start and its end, each a sum with `offset`.
    start: String,
    end: String,
    offset: String,
}

fn learned_tables(graph: &Graph) -> Vec<LearnedTable> {
    let sum_of = |value: &str| {
        let mut nodes = graph.node.iter();
        nodes.find(|node| node.op_type == "Add" && node.output[0] == value)
    };
    let slices = graph.node.iter().filter(|node| node.op_type == "Slice");
    let found = slices.filter_map(|slice| {
        let start = sum_of(slice.input.get(1)?)?;
        let end = sum_of(slice.input.get(2)?)?;
        let is_one = start.input[0] == PAST && end.input[0] == TOTAL;
        (is_one && start.input[1] == end.input[1]).then(|| LearnedTable {
            rows: slice.output[0].clone(),
            start: start.output[0].clone(),
            end: end.output[0].clone(),
            offset: start.input[1].clone(),
        })
    });
    found.collect()
}

/// The largest position whose mask is 1, without the cached ones.
fn last_row() -> Vec<Node> {
    let at = |part: &str| format!("{OWN}{part}");
    let keep = [int("keepdims", 1)];
    vec![
        make("Reshape", &[TOTAL, "/unequal/scalar"], &at("total"), &[]),
        make(
            "Range",
            &["/unequal/zero", "/unequal/total", "/unequal/one"],
            &at("places"),
            &[],
        ),
        make("Mul", &[MASK, "/unequal/places"], &at("taken"), &[]),
        make(
            "ReduceMax",
            &["/unequal/taken", "/unequal/axis"],
            &at("largest"),
            &keep,
        ),
        make("Sub", &["/unequal/largest", PAST], &at("row"), &[]),
        make(
            "Unsqueeze",
            &["/unequal/row", "/unequal/last_axis"],
            LAST_ROW,
            &[],
        ),
    ]
}

/// The number of cached tokens of each sequence, and from there on.
fn positions_of_each() -> Vec<Node> {
    let at = |part: &str| format!("{OWN}{part}");
    vec![
        make(
            "Slice",
            &[MASK, "/unequal/start", PAST, "/unequal/axis"],
            &at("cached"),
            &[],
        ),
        make(
            "ReduceSum",
            &["/unequal/cached", "/unequal/axis"],
            &at("count"),
            &[int("keepdims", 1)],
        ),
        make("Reshape", &[SEQUENCE, "/unequal/scalar"], &at("new"), &[]),
        make(
            "Range",
            &["/unequal/zero", "/unequal/new", "/unequal/one"],
            &at("steps"),
            &[],
        ),
        make("Add", &["/unequal/count", "/unequal/steps"], POSITIONS, &[]),
    ]
}

fn make(op: &str, inputs: &[&str], output: &str, attributes: &[Attribute]) -> Node {
    Node {
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        output: vec![output.to_owned()],
        name: output.to_owned(),
        op_type: op.to_owned(),
        attribute: attributes.to_vec(),
        ..Node::default()
    }
}

fn replace(node: &mut Node, from: &str, to: &str) {
    for input in node.input.iter_mut().filter(|input| **input == from) {
        to.clone_into(input);
    }
}

fn constant(name: &str, dims: &[i64], values: &[i64]) -> Tensor {
    named(&format!("{OWN}{name}"), dims, values)
}

fn named(name: &str, dims: &[i64], values: &[i64]) -> Tensor {
    Tensor {
        dims: dims.to_vec(),
        data_type: element::INT64,
        name: name.to_owned(),
        raw_data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        ..Tensor::default()
    }
}

fn int(name: &str, i: i64) -> Attribute {
    Attribute {
        name: name.to_owned(),
        i,
        kind: 2,
        ..Attribute::default()
    }
}
