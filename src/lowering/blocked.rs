//! Weights in blocks of channels, and products as 1 × 1 convolutions, in ONNX Runtime's layout for
//! images, `NCHWc`.
//!
//! A weight `[out_features, in_features]` becomes `[out_features / b, in_features, b]`: blocks of
//! `b` rows, interleaved, where `b` fills a vector register ([`super::block_size`]). The
//! convolution reads four blocks sequentially, in parts that stay in the L1 cache while they're
//! multiplied with all tokens. No form of the product in ONNX Runtime is faster, for one token or
//! for many. Nothing is packed when a session is opened, so one file, written once, serves all runs
//! and stays mapped.
//!
//! Tokens are the positions of an image, which has a row for each sequence. For a single token, the
//! blocked layout of the features equals the plain one, so no reordering is needed:
//!
//! ```text
//! x ─ Reshape ─ Conv ─ Reshape ─ y                                    one token
//! x ─ Reshape ─ ReorderInput ─ Conv ─ ReorderOutput ─ Squeeze ─ y     several
//! ```
//!
//! Elementwise operators after a product stay in blocks, so an MLP needs one reordering in and one
//! out; a bias becomes the convolution's. The weights of products with the same input are
//! contiguous in the file, and the products are joined if that saves more than splitting the output
//! costs.

mod bias;
mod elementwise;
mod product;
mod reorder;
mod selection;

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

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
pub use selection::to_lay_out;

/// The kind of runs that a graph is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runs {
    /// One token of one sequence.
    Step,
    /// Any number of tokens of this number of sequences.
    Prompt(usize),
}

/// Rewrites every product of `model` whose weight is in `files`. Returns the linear layers that
/// couldn't be rewritten.
///
/// # Errors
/// If the metadata of a weight's file can't be read.
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
        consumers: consumers(&nodes),
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

/// The nodes that have each value as an input.
fn consumers(nodes: &[Node]) -> HashMap<String, Vec<Rc<Node>>> {
    let mut consumers: HashMap<String, Vec<Rc<Node>>> = HashMap::new();
    for node in nodes {
        let node = Rc::new(node.clone());
        for input in &node.input {
            let of_input = consumers.entry(input.clone()).or_default();
            of_input.push(Rc::clone(&node));
        }
    }
    consumers
}

struct Rewriting<'a> {
    graph: &'a mut Graph,
    files: &'a LaidOutFiles,
    block: usize,
    runs: Runs,
    products: Products,
    /// Groups by their first product's output.
    groups: HashMap<String, ProductGroup>,
    /// The biases of products, by the product's output.
    biases: HashMap<String, String>,
    consumers: HashMap<String, Vec<Rc<Node>>>,
    /// Values computed in blocks, by the name of their plain form.
    blocked: HashMap<String, Blocked>,
    /// Blocked forms of plain values.
    inputs: HashMap<String, String>,
    /// The joined queries, keys and values of attention nodes, by node name.
    attention: HashMap<String, String>,
    /// Outputs of nodes that have been replaced.
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
            // The product isn't laid out, so its bias needs an `Add` node again.
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
