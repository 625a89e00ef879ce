//! Weights in blocks of channels, and products as 1 × 1 convolutions: ONNX Runtime's own layout for images, `NCHWc`.
//!
//! A weight, `[out_features, in_features]`, becomes `[out_features / b, in_features, b]`: `b` rows side by side, where
//! `b` is what fills the processor's registers ([`super::block_size`]). The convolution reads four blocks from their
//! first byte to their last, in parts that stay in the first-level cache while they're multiplied with all tokens. That's as
//! quick as anything that ONNX Runtime has, for one token and for many, and nothing is packed when a session starts, so
//! that one file, made once, serves all runs and stays mapped.
//!
//! Tokens are positions of an image, with a row for each sequence. One token's features are the same in blocks as they're
//! without:
//!
//! ```text
//! x ─ Reshape ─ Conv ─ Reshape ─ y                                    one token
//! x ─ Reshape ─ ReorderInput ─ Conv ─ ReorderOutput ─ Squeeze ─ y     several
//! ```
//!
//! What follows a product element by element stays in blocks, so that a perceptron needs each of them once, and a bias
//! goes into the convolution. Products with the same input follow each other in the file; where that saves more than
//! cutting them apart costs, they are one.

mod bias;
mod elementwise;
mod product;
mod reorder;
mod selection;

use std::collections::{HashMap, HashSet};

use super::NotLowered;
use super::block_size::import;
use super::joined_products::{ProductGroup, groups, take_joined};
use super::laid_out_files::LaidOutFiles;
use super::laid_out_tensor::LayOutError;
use super::products::{Products, drop_unused, output_names};
use crate::graph::proto::{Graph, Model, Node};
use bias::take_biases;
use reorder::Blocked;

use selection::not_laid_out;
pub use selection::wanted;

/// The runs of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runs {
    /// One token of one sequence.
    Step,
    /// Any number of tokens, of this number of sequences.
    Prompt(usize),
}

/// Rewrites every product of `model` whose weight is in `files`. Returns the linear layers that stay as they are.
///
/// # Errors
/// If a source's file can't be asked for its size.
pub fn rewrite(
    model: &mut Model,
    files: &LaidOutFiles,
    runs: Runs,
) -> Result<Vec<NotLowered>, LayOutError> {
    let mut products = Products::of(model);
    import(model);
    let Some(graph) = &mut model.graph else {
        return Ok(Vec::new());
    };
    let biases = take_biases(graph, &mut products, files.block);
    let groups = groups(graph, |node| products.out_in_weight(node).is_some());
    let (constant, nodes): (Vec<Node>, Vec<Node>) = std::mem::take(&mut graph.node)
        .into_iter()
        .partition(|node| products.is_constant(&node.output[0]));
    graph.node = constant;
    let mut rewriting = Rewriting {
        takers: takers(&nodes),
        graph,
        block: files.block,
        files,
        runs,
        products,
        groups,
        biases,
        blocked: HashMap::new(),
        inputs: HashMap::new(),
        attention: HashMap::new(),
        done: HashSet::new(),
    };
    for node in nodes {
        rewriting.node(node)?;
    }
    for output in output_names(rewriting.graph) {
        rewriting.make_plain(&output);
    }
    let not_lowered = not_laid_out(rewriting.graph, &rewriting.products, files.block);
    drop_unused(graph);
    Ok(not_lowered)
}

/// The nodes that take each value.
fn takers(nodes: &[Node]) -> HashMap<String, Vec<Node>> {
    let mut takers: HashMap<String, Vec<Node>> = HashMap::new();
    for node in nodes {
        for input in &node.input {
            takers.entry(input.clone()).or_default().push(node.clone());
        }
    }
    takers
}

struct Rewriting<'a> {
    graph: &'a mut Graph,
    files: &'a LaidOutFiles,
    block: usize,
    runs: Runs,
    products: Products,
    /// By the first one's output.
    groups: HashMap<String, ProductGroup>,
    /// The biases of products, by the products.
    biases: HashMap<String, String>,
    takers: HashMap<String, Vec<Node>>,
    /// Values that are made in blocks, by their plain form's name.
    blocked: HashMap<String, Blocked>,
    /// Plain values that were brought into blocks.
    inputs: HashMap<String, String>,
    /// The joined queries, keys and values that a node takes.
    attention: HashMap<String, String>,
    /// Values of nodes that others have taken the place of.
    done: HashSet<String>,
}

impl Rewriting<'_> {
    fn node(&mut self, mut node: Node) -> Result<(), LayOutError> {
        if let Some(joined) = self.attention.get(&node.name) {
            take_joined(&mut node, joined);
        }
        if node.output.iter().any(|output| self.done.contains(output)) {
            return Ok(());
        }
        if let Some(weight) = self.products.weight(&node).cloned()
            && (self.group(&node)? || self.product(&node, &weight)?)
        {
            return Ok(());
        }
        if let Some(inputs) = self.elementwise_inputs(&node) {
            self.elementwise(&node, &inputs);
            return Ok(());
        }
        for input in &node.input {
            self.make_plain(input);
        }
        if let Some(bias) = self.biases.get(&node.output[0]) {
            // It isn't laid out, so that the sum is a node again.
            let sum = std::mem::take(&mut node.output[0]);
            let product = format!("{sum}/product");
            let add = super::products::node("Add", &[&product, bias], &sum, Vec::new());
            node.output[0] = product;
            self.graph.node.extend([node, add]);
            return Ok(());
        }
        self.graph.node.push(node);
        Ok(())
    }
}
