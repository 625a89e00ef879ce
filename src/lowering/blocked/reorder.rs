//! Conversions between blocked and plain values.

use super::{Rewriting, Runs};
use crate::lowering::block_size::DOMAIN;
use crate::lowering::products::{int, node, shape_constant};

/// A blocked value, `[1, channels, sequences, positions]`.
#[derive(Debug, Clone)]
pub(super) struct Blocked {
    pub name: String,
    /// Number of real channels; the others pad the last block.
    pub real_channels: usize,
    /// Number of channels, padding included.
    pub channels: usize,
    /// Whether it has a single position in every run.
    pub one_position: bool,
    /// Whether the plain form exists as well.
    pub plain: bool,
}

impl Rewriting<'_> {
    /// The blocked form of `x`, which has `channels` channels.
    pub(super) fn make_blocked(&mut self, x: &str, channels: usize, one_position: bool) -> String {
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

    /// Adds the plain form of `value`, if only the blocked one exists.
    pub(super) fn make_plain(&mut self, value: &str) {
        let Some(blocked) = self.blocked.get_mut(value).filter(|blocked| !blocked.plain) else {
            return;
        };
        blocked.plain = true;
        let Blocked {
            name,
            real_channels,
            channels,
            one_position,
            ..
        } = blocked.clone();
        if one_position {
            let filled = match real_channels == channels {
                true => value.to_owned(),
                false => format!("{value}/filled"),
            };
            self.reshape(&name, &filled, &[1, 1, channels as i64]);
            if real_channels != channels {
                self.cut(&filled, value, real_channels as i64);
            }
            return;
        }
        let rows = format!("{value}/rows");
        let attributes = vec![
            int("channels", real_channels as i64),
            int("channels_last", 1),
        ];
        let mut reorder = node("ReorderOutput", &[&name], &rows, attributes);
        reorder.domain = DOMAIN.to_owned();
        self.graph.node.push(reorder);
        let axis = shape_constant(self.graph, "axis.0", &[0]);
        let mut squeeze = node("Squeeze", &[&rows, &axis], value, Vec::new());
        squeeze.name = format!("{value}/Squeeze");
        self.graph.node.push(squeeze);
    }

    /// The shape of an image with this number of `channels`, computed so that ONNX Runtime can't
    /// infer it before the run. If it knows a value's number of axes but not their sizes, its
    /// memory planner compares the value with all that are no longer needed, and never finds one of
    /// the same size. That took half of the time to open a session.
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

    /// Removes the channels that pad the last block.
    fn cut(&mut self, filled: &str, value: &str, real_channels: i64) {
        let start = shape_constant(self.graph, "first", &[0]);
        let end = shape_constant(
            self.graph,
            &format!("rows.{real_channels}"),
            &[real_channels],
        );
        let axis = shape_constant(self.graph, "axis.2", &[2]);
        let inputs = [filled, &start, &end, &axis];
        let mut cut = node("Slice", &inputs, value, Vec::new());
        cut.name = format!("{value}/Slice");
        self.graph.node.push(cut);
    }
}
