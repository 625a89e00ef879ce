//! Rewriting products, single or joined.

use super::reorder::Blocked;
use super::{Rewriting, Runs};
use crate::graph::proto::Node;
use crate::lowering::block_size::DOMAIN;
use crate::lowering::joined_products::split;
use crate::lowering::laid_out_files::LaidOutRange;
use crate::lowering::laid_out_tensor::{LaidOutTensor, LayOutError};
use crate::lowering::products::{Weight, ints, node};

impl Rewriting<'_> {
    /// Joins the group of products that begins with `first`, if that's worth it. Returns whether it
    /// did.
    pub(super) fn group(&mut self, first: &Node) -> Result<bool, LayOutError> {
        let Some(group) = self.groups.get(&first.output[0]) else {
            return Ok(false);
        };
        let (x, outputs, attention) = (
            group.x.clone(),
            group.outputs.clone(),
            group.attention.clone(),
        );
        let one_position = self.one_position(first);
        // Splitting the output is cheap only for one position.
        if attention.is_none() && !one_position {
            return Ok(false);
        }
        let weights: Vec<Weight> = outputs
            .iter()
            .filter_map(|value| self.products.out_in_weight_of(value).cloned())
            .collect();
        let rows: Vec<i64> = weights.iter().map(|weight| weight.rows as i64).collect();
        let tensor = |weight| LaidOutTensor::Blocks(weight, self.block);
        let tensors: Vec<LaidOutTensor> = weights.into_iter().map(tensor).collect();
        let Some(found) = self.files.find(&tensors)? else {
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
                    real_channels: rows as usize,
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

    /// Rewrites `product` in blocks, with its bias. Returns whether its weight is laid out.
    pub(super) fn product(&mut self, product: &Node, weight: &Weight) -> Result<bool, LayOutError> {
        let tensor = LaidOutTensor::Blocks(weight.clone(), self.block);
        let Some(found) = self.files.find(&[tensor])? else {
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

    /// Adds the convolution of `x` with the weight `found`, of whose rows the first `real_channels`
    /// are real and the others padding. `output` is the name of its plain form.
    fn convolution(
        &mut self,
        x: &str,
        found: &LaidOutRange,
        real_channels: usize,
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
            real_channels,
            channels: found.rows,
            one_position,
            plain: false,
        }
    }

    /// Whether `product` has a single position in every run.
    fn one_position(&self, product: &Node) -> bool {
        match self.runs {
            Runs::Step => true,
            Runs::Prompt(sequences) => sequences == 1 && self.products.is_last_position(product),
        }
    }
}
