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

use std::collections::{HashMap, HashSet};

use super::block_size::{DOMAIN, import};
use super::joined::{Group, groups, split, take_joined};
use super::pack::{Found, LaidOutFiles, PackError};
use super::piece::Piece;
use super::products::{Products, Weight, drop_unused, int, ints, node, shape_constant};
use crate::graph::proto::{Graph, Model, Node, Tensor, element};

/// Rows of a weight from which on a block that isn't full costs little.
const MANY_ROWS: usize = 128;

/// Operators of one input that work element by element.
const ELEMENTWISE: [&str; 4] = ["QuickGelu", "Relu", "Gelu", "FastGelu"];

/// The runs of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runs {
    /// One token of one sequence.
    Step,
    /// Any number of tokens, of so many sequences.
    Prompt(usize),
}

/// Whether a weight makes whole blocks.
fn is_whole(weight: &Weight, block: usize) -> bool {
    weight.rows > 0 && weight.rows.is_multiple_of(block)
}

/// Whether a weight can be laid out, and is worth it.
fn fits(weight: &Weight, block: usize) -> bool {
    let columns = weight.columns > 0 && weight.columns.is_multiple_of(block);
    columns && (is_whole(weight, block) || weight.rows >= MANY_ROWS)
}

/// The weights of `model` that are wanted in blocks, in groups that shall follow each other.
pub fn wanted(model: &Model, block: usize) -> Vec<Vec<Piece>> {
    let products = Products::of(model);
    let Some(graph) = &model.graph else {
        return Vec::new();
    };
    let groups_of = groups(graph, |node| products.weight(node).is_some());
    let mut groups = Vec::new();
    let mut seen: HashSet<(String, u64)> = HashSet::new();
    for node in &graph.node {
        let Some(weight) = products.any_weight(node) else {
            continue;
        };
        let joined: Vec<Weight> = groups_of
            .get(&node.output[0])
            .into_iter()
            .flat_map(|group| &group.outputs)
            .filter_map(|value| products.weight_of(value).cloned())
            .collect();
        let group = match !joined.is_empty() && joined.iter().all(|weight| is_whole(weight, block))
        {
            true => joined,
            false => vec![weight.clone()],
        };
        let fresh = |weight: &Weight| !seen.contains(&(weight.location.clone(), weight.offset));
        if group.iter().all(|weight| fits(weight, block)) && group.iter().any(fresh) {
            let places = group
                .iter()
                .map(|weight| (weight.location.clone(), weight.offset));
            seen.extend(places);
            let blocks = |weight| Piece::Blocks(weight, block);
            groups.push(group.into_iter().map(blocks).collect());
        }
    }
    groups
}

/// Rewrites every product of `model` whose weight is in `files`.
///
/// # Errors
/// If a source's file can't be asked for its size.
pub fn rewrite(model: &mut Model, files: &LaidOutFiles, runs: Runs) -> Result<(), PackError> {
    let mut products = Products::of(model);
    import(model);
    let Some(graph) = &mut model.graph else {
        return Ok(());
    };
    let biases = take_biases(graph, &mut products, files.block);
    let groups = groups(graph, |node| products.weight(node).is_some());
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
    let outputs: Vec<String> = rewriting
        .graph
        .output
        .iter()
        .map(|output| output.name.clone())
        .collect();
    for output in outputs {
        rewriting.make_plain(&output);
    }
    drop_unused(graph);
    Ok(())
}

/// Makes products with a bias that's added to them, and to nothing else, one value each: the sum's. Returns the biases by
/// these names.
fn take_biases(
    graph: &mut Graph,
    products: &mut Products,
    block: usize,
) -> HashMap<String, String> {
    let takers = takers(&graph.node);
    let mut biases = HashMap::new();
    let mut sums: HashMap<String, String> = HashMap::new();
    for node in &graph.node {
        let Some(weight) = products.any_weight(node) else {
            continue;
        };
        let product = &node.output[0];
        let Some([add]) = takers.get(product).map(Vec::as_slice) else {
            continue;
        };
        let bias = match &add.input[..] {
            [a, b] if a == product => b,
            [a, b] if b == product => a,
            _ => continue,
        };
        let fits = is_whole(weight, block) && products.is_constant_vector(graph, bias);
        if add.op_type == "Add" && fits {
            biases.insert(add.output[0].clone(), bias.clone());
            sums.insert(product.clone(), add.output[0].clone());
        }
    }
    graph
        .node
        .retain(|node| !biases.contains_key(&node.output[0]));
    for node in &mut graph.node {
        if let Some(sum) = sums.get(&node.output[0]) {
            products.rename(&node.output[0], sum);
            node.output[0].clone_from(sum);
        }
    }
    biases
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

/// A value in blocks, `[1, channels, sequences, positions]`.
#[derive(Debug, Clone)]
struct Blocked {
    name: String,
    /// Channels that are wanted; what's beyond fills the last block.
    wanted: usize,
    /// All channels.
    channels: usize,
    /// Whether there's one position, whatever the run.
    one_position: bool,
    /// Whether the plain form is there too.
    plain: bool,
}

/// A constant vector of so many zeros.
fn zeros(graph: &mut Graph, rows: i64) -> String {
    let name = format!("zeros.{rows}");
    if !graph.initializer.iter().any(|tensor| tensor.name == name) {
        graph.initializer.push(Tensor {
            dims: vec![rows],
            data_type: element::FLOAT32,
            name: name.clone(),
            raw_data: vec![0; 4 * rows as usize],
            ..Default::default()
        });
    }
    name
}

struct Rewriting<'a> {
    graph: &'a mut Graph,
    files: &'a LaidOutFiles,
    block: usize,
    runs: Runs,
    products: Products,
    /// By the first one's output.
    groups: HashMap<String, Group>,
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
    fn node(&mut self, mut node: Node) -> Result<(), PackError> {
        if let Some(joined) = self.attention.get(&node.name) {
            take_joined(&mut node, joined);
        }
        if node.output.iter().any(|output| self.done.contains(output)) {
            return Ok(());
        }
        if let Some(weight) = self.products.any_weight(&node).cloned()
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

    /// Makes one product of those that begin with `first`, where that's worth it.
    fn group(&mut self, first: &Node) -> Result<bool, PackError> {
        let Some(group) = self.groups.get(&first.output[0]) else {
            return Ok(false);
        };
        let (x, outputs, attention) = (
            group.x.clone(),
            group.outputs.clone(),
            group.attention.clone(),
        );
        let one_position = self.one_position(first);
        // Cutting it apart costs little at one position.
        if attention.is_none() && !one_position {
            return Ok(false);
        }
        let weights: Vec<Weight> = outputs
            .iter()
            .filter_map(|value| self.products.weight_of(value).cloned())
            .collect();
        let rows: Vec<i64> = weights.iter().map(|weight| weight.rows as i64).collect();
        let piece = |weight| Piece::Blocks(weight, self.block);
        let pieces: Vec<Piece> = weights.into_iter().map(piece).collect();
        let Some(found) = self.files.find(&pieces)? else {
            return Ok(false);
        };
        let joined = format!("{}/joined", first.output[0]);
        let all = found.rows;
        let bias = self.joined_bias(&joined, &outputs, &rows);
        let bias = bias.as_deref();
        let blocked = self.convolution(&x, &found, all, bias, &joined, one_position);
        if let Some(attention) = attention {
            self.blocked.insert(joined.clone(), blocked);
            self.make_plain(&joined);
            self.attention.insert(attention, joined);
        } else if outputs.iter().all(|output| self.stays_blocked(output)) {
            let names: Vec<String> = outputs.iter().map(|o| format!("{o}/blocked")).collect();
            let cut = split(self.graph, &blocked.name, &names, &rows, 1);
            self.graph.node.push(cut);
            for ((output, name), rows) in outputs.iter().zip(names).zip(rows) {
                let part = Blocked {
                    name,
                    wanted: rows as usize,
                    channels: rows as usize,
                    ..blocked.clone()
                };
                self.blocked.insert(output.clone(), part);
            }
        } else {
            self.blocked.insert(joined.clone(), blocked);
            self.make_plain(&joined);
            let cut = split(self.graph, &joined, &outputs, &rows, -1);
            self.graph.node.push(cut);
        }
        self.done.extend(outputs);
        Ok(true)
    }

    /// The biases of `outputs`, of so many `rows`, behind one another; zeros for those that have none.
    fn joined_bias(&mut self, joined: &str, outputs: &[String], rows: &[i64]) -> Option<String> {
        let biases: Vec<Option<String>> = outputs
            .iter()
            .map(|output| self.biases.get(output).cloned())
            .collect();
        biases.iter().flatten().next()?;
        let biases: Vec<String> = biases
            .into_iter()
            .zip(rows)
            .map(|(bias, &rows)| bias.unwrap_or_else(|| zeros(self.graph, rows)))
            .collect();
        let biases: Vec<&str> = biases.iter().map(String::as_str).collect();
        let bias = format!("{joined}/bias");
        let axis = vec![int("axis", 0)];
        self.graph.node.push(node("Concat", &biases, &bias, axis));
        Some(bias)
    }

    /// Makes the product `product` in blocks, with its bias.
    fn product(&mut self, product: &Node, weight: &Weight) -> Result<bool, PackError> {
        let piece = Piece::Blocks(weight.clone(), self.block);
        let Some(found) = self.files.find(&[piece])? else {
            return Ok(false);
        };
        let (x, output) = (&product.input[0], &product.output[0]);
        let bias = self.biases.get(output).cloned();
        let one_position = self.one_position(product);
        let rows = weight.rows;
        let blocked = self.convolution(x, &found, rows, bias.as_deref(), output, one_position);
        self.blocked.insert(output.clone(), blocked);
        Ok(true)
    }

    /// Adds the product of `x` with the weight `found`, of which the first `wanted` rows are, called `output`.
    fn convolution(
        &mut self,
        x: &str,
        found: &Found,
        wanted: usize,
        bias: Option<&str>,
        output: &str,
        one_position: bool,
    ) -> Blocked {
        let x = self.make_blocked(x, found.columns, one_position);
        let weight = format!("{output}/blocks.weight");
        let dims = vec![found.rows as i64, found.columns as i64, 1, 1];
        self.graph
            .initializer
            .push(found.initializer(&weight, dims));
        let mut inputs = vec![x.as_str(), &weight];
        inputs.extend(bias);
        let name = format!("{output}/blocked");
        let kernel = vec![ints("kernel_shape", &[1, 1])];
        let mut convolution = node("Conv", &inputs, &name, kernel);
        convolution.domain = DOMAIN.to_owned();
        self.graph.node.push(convolution);
        Blocked {
            name,
            wanted,
            channels: found.rows,
            one_position,
            plain: false,
        }
    }

    /// Whether the product `product` has one position in every run.
    fn one_position(&self, product: &Node) -> bool {
        match self.runs {
            Runs::Step => true,
            Runs::Prompt(sequences) => sequences == 1 && self.products.is_last(product),
        }
    }

    /// The form in blocks of `x`, which has so many `channels`.
    fn make_blocked(&mut self, x: &str, channels: usize, one_position: bool) -> String {
        if let Some(blocked) = self.blocked.get(x)
            && blocked.channels == channels
        {
            return blocked.name.clone();
        }
        self.make_plain(x);
        if let Some(blocked) = self.inputs.get(x) {
            return blocked.clone();
        }
        let name = format!("{x}/in_blocks");
        if one_position {
            self.reshape(x, &name, &[1, channels as i64, 1, 1]);
        } else {
            let rows = format!("{x}/image");
            let shape = self.image_shape(channels as i64);
            self.graph
                .node
                .push(node("Reshape", &[x, &shape], &rows, Vec::new()));
            let last = vec![int("channels_last", 1)];
            let mut reorder = node("ReorderInput", &[&rows], &name, last);
            reorder.domain = DOMAIN.to_owned();
            self.graph.node.push(reorder);
        }
        self.inputs.insert(x.to_owned(), name.clone());
        name
    }

    /// Makes the plain form of `value`, if it has only that in blocks.
    fn make_plain(&mut self, value: &str) {
        let Some(blocked) = self.blocked.get_mut(value).filter(|blocked| !blocked.plain) else {
            return;
        };
        blocked.plain = true;
        let Blocked {
            name,
            wanted,
            channels,
            one_position,
            ..
        } = blocked.clone();
        if one_position {
            let filled = match wanted == channels {
                true => value.to_owned(),
                false => format!("{value}/filled"),
            };
            self.reshape(&name, &filled, &[1, 1, channels as i64]);
            if wanted != channels {
                self.cut(&filled, value, wanted as i64);
            }
            return;
        }
        let rows = format!("{value}/rows");
        let attributes = vec![int("channels", wanted as i64), int("channels_last", 1)];
        let mut reorder = node("ReorderOutput", &[&name], &rows, attributes);
        reorder.domain = DOMAIN.to_owned();
        self.graph.node.push(reorder);
        let axis = shape_constant(self.graph, "axis.0", &[0]);
        let mut squeeze = node("Squeeze", &[&rows, &axis], value, Vec::new());
        squeeze.name = format!("{value}/Squeeze");
        self.graph.node.push(squeeze);
    }

    /// The shape of an image of so many `channels`, in a way that nothing can be told of before the graph runs: where
    /// ONNX Runtime knows the number of axes and not their sizes, it compares each value with all that are no longer
    /// needed, to find memory for it, and never finds any. Half of the time in which a session is opened went there.
    fn image_shape(&mut self, channels: i64) -> String {
        let name = format!("image.{channels}");
        if self.graph.node.iter().any(|node| node.name == name) {
            return name;
        }
        let sequences = match self.runs {
            Runs::Step => 1,
            Runs::Prompt(sequences) => sequences as i64,
        };
        let sizes = [1, sequences, -1, channels];
        let all = shape_constant(self.graph, &format!("image.{channels}.sizes"), &sizes);
        let end = "image.end".to_owned();
        if !self.graph.node.iter().any(|node| node.name == end) {
            let four = shape_constant(self.graph, "four", &[4]);
            let first = vec![int("start", 0), int("end", 1)];
            let batch = node("Shape", &["input_ids"], "image.batch", first);
            let end = node("Add", &["image.batch", &four], &end, Vec::new());
            self.graph.node.extend([batch, end]);
        }
        let start = shape_constant(self.graph, "first", &[0]);
        let slice = node("Slice", &[&all, &start, &end], &name, Vec::new());
        self.graph.node.push(slice);
        name
    }

    fn reshape(&mut self, from: &str, to: &str, shape: &[i64]) {
        let sizes: Vec<String> = shape.iter().map(i64::to_string).collect();
        let shape = shape_constant(self.graph, &format!("shape.{}", sizes.join(".")), shape);
        let mut reshape = node("Reshape", &[from, &shape], to, Vec::new());
        reshape.name = format!("{to}/Reshape");
        self.graph.node.push(reshape);
    }

    /// Cuts off what fills the last block.
    fn cut(&mut self, filled: &str, value: &str, wanted: i64) {
        let start = shape_constant(self.graph, "first", &[0]);
        let end = shape_constant(self.graph, &format!("rows.{wanted}"), &[wanted]);
        let axis = shape_constant(self.graph, "axis.2", &[2]);
        let inputs = [filled, &start, &end, &axis];
        let mut cut = node("Slice", &inputs, value, Vec::new());
        cut.name = format!("{value}/Slice");
        self.graph.node.push(cut);
    }

    /// Whether all that take the product `value` can take it in blocks.
    fn stays_blocked(&self, value: &str) -> bool {
        let takers = self.takers.get(value).into_iter().flatten();
        let mut takers = takers.peekable();
        takers.peek().is_some()
            && takers.all(|node| {
                let pair = ["Mul", "Add"].contains(&node.op_type.as_str())
                    && !node
                        .input
                        .iter()
                        .any(|name| self.products.is_constant(name));
                pair || ELEMENTWISE.contains(&node.op_type.as_str())
            })
    }

    /// The inputs in blocks of a node that works element by element, where that's their only form.
    fn elementwise_inputs(&self, node: &Node) -> Option<Vec<Blocked>> {
        let operator = node.op_type.as_str();
        let known = match node.input.len() {
            1 => ELEMENTWISE.contains(&operator),
            2 => ["Mul", "Add"].contains(&operator),
            _ => false,
        };
        let only = |name: &String| self.blocked.get(name).filter(|blocked| !blocked.plain);
        let inputs: Option<Vec<Blocked>> =
            known.then(|| node.input.iter().map(|name| only(name).cloned()).collect())?;
        inputs.filter(|inputs| {
            let same = |input: &Blocked| {
                (input.channels, input.one_position) == (inputs[0].channels, inputs[0].one_position)
            };
            inputs.iter().all(same)
        })
    }

    fn elementwise(&mut self, plain: &Node, inputs: &[Blocked]) {
        let name = format!("{}/blocked", plain.output[0]);
        self.graph.node.push(Node {
            input: inputs.iter().map(|input| input.name.clone()).collect(),
            output: vec![name.clone()],
            ..plain.clone()
        });
        let made = Blocked {
            name,
            ..inputs[0].clone()
        };
        self.blocked.insert(plain.output[0].clone(), made);
    }
}
