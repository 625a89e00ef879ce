//! Caches that `TensorScatter` writes to: those of latent attention with a compressed cache.
//!
//! `TensorScatter` needs a buffer with room for new rows, at the same place in each sequence. Others
//! hand over a cache of exactly the cached rows, or a buffer, and sequences of unequal lengths. So a
//! `GroupQueryAttention` with a single head writes the rows, and what it attends to isn't used. The
//! mask follows each sequence's own positions.

use super::{MASK, OWN, POSITIONS, constant, int, make, named};
use crate::graph::lengths::{LAST_INDEX, TOTAL, TOTAL_I32};
use crate::graph::proto::{Attribute, Graph, Node, Tensor, element};
use crate::graph::{Length, Role};

/// The positions of new tokens, in a column: of one length, and before that in a row.
const COLUMN: &str = "/mask/queries/column";
const ROW: &str = "/mask/queries";

/// The first row that new tokens are written to, and the batch size that it's computed from.
const START: [&str; 2] = ["/cache/start", "/hidden/batch"];

/// Constants that stay when the graph is for one length again.
const ONE: &str = "/cache/one";
const SCALAR: &str = "/cache/scalar";

/// Rewrites the nodes that write to a cache and the mask. Returns nodes and constants to add; none
/// if nothing is written by `TensorScatter`.
pub fn rewrite(graph: &mut Graph) -> (Vec<Node>, Vec<Tensor>) {
    let writes = |node: &Node| node.op_type == "TensorScatter";
    let nodes = std::mem::take(&mut graph.node);
    let (scatters, mut rest): (Vec<Node>, Vec<Node>) = nodes.into_iter().partition(writes);
    if scatters.is_empty() {
        graph.node = rest;
        return (Vec::new(), Vec::new());
    }
    let before_reshape = |rows: &str| {
        let found = rest.iter().find(|node| node.output[0] == rows);
        found.map_or_else(|| rows.to_owned(), |node| node.input[0].clone())
    };
    let mut writers = Vec::new();
    for pair in scatters.chunks(2) {
        let [key, value] = pair else {
            continue;
        };
        let [keys, values] = [key, value].map(|node| before_reshape(&node.input[1]));
        let mut node = make(
            "GroupQueryAttention",
            &[
                &keys,
                &keys,
                &values,
                &key.input[0],
                &value.input[0],
                LAST_INDEX,
                TOTAL_I32,
            ],
            &format!("{}/GroupQueryAttention", key.name),
            &[int("num_heads", 1), int("kv_num_heads", 1)],
        );
        "com.microsoft".clone_into(&mut node.domain);
        let present = [key, value].map(|node| node.output[0].clone());
        node.output.extend(present);
        // Behind the rows, which are made one after the other.
        let made_by = |of: &Node| of.output.contains(&keys) || of.output.contains(&values);
        let place = rest.iter().rposition(made_by).map_or(0, |at| at + 1);
        writers.push((place, node));
    }
    for (place, node) in writers.into_iter().rev() {
        rest.insert(place, node);
    }
    for node in &mut rest {
        if node.output[0] == COLUMN {
            let axes = format!("{OWN}column_axes");
            *node = make("Unsqueeze", &[POSITIONS, &axes], COLUMN, &[]);
        }
    }
    for name in START {
        let is_used = |rest: &[Node]| rest.iter().any(|of| of.input.iter().any(|of| of == name));
        if !is_used(&rest) {
            rest.retain(|node| node.output[0] != name);
        }
    }
    // What reshaped the rows is used by nothing any more.
    let rows: Vec<&String> = scatters.iter().map(|node| &node.input[1]).collect();
    rest.retain(|node| !rows.contains(&&node.output[0]));
    graph.node = rest;
    let constants = vec![
        constant("column_axes", &[2], &[1, 3]),
        named(ONE, &[1], &[1]),
        named(SCALAR, &[0], &[]),
    ];
    (lengths(), constants)
}

/// The lengths that `GroupQueryAttention` takes.
fn lengths() -> Vec<Node> {
    let at = |part: &str| format!("/cache/{part}");
    let to_i32 = |input: &str, output: &str, length: Length| {
        let to: Attribute = int("to", element::INT32.into());
        let mut node = make("Cast", &[input], output, &[to]);
        Role::Length { length }.write_to(&mut node);
        node
    };
    let (tokens, last, total) = (at("tokens"), at("last"), at("total"));
    vec![
        make("ReduceSum", &[MASK, ONE], &tokens, &[int("keepdims", 0)]),
        make("Sub", &[&tokens, ONE], &last, &[]),
        to_i32(&last, LAST_INDEX, Length::LastIndex),
        make("Reshape", &[TOTAL, SCALAR], &total, &[]),
        to_i32(&total, TOTAL_I32, Length::TotalI32),
    ]
}

/// Takes back what [`rewrite`] did to the mask.
pub fn restore(node: &mut Node) {
    if node.output[0] == COLUMN && node.op_type == "Unsqueeze" {
        let shape = format!("{COLUMN}/shape");
        *node = make("Reshape", &[ROW, &shape], COLUMN, &[]);
    }
}
