//! Operators that ONNX Runtime's CUDA provider (1.31) has for float16 and float32, but not for
//! bfloat16. In a bfloat16 graph they compute in float32; none of them rounds, so the results are
//! the same.

use super::{Attr, GraphBuilder, Value};
use crate::graph::proto::element;
use crate::weights::Dtype;

impl GraphBuilder<'_> {
    /// `x` clamped to `least..=most`.
    pub fn clip(&mut self, name: &str, x: &Value, least: f32, most: f32) -> Value {
        self.clip_between("clip", name, x, [least, most])
    }

    /// Like [`clip`](Self::clip), with bounds whose constants are named after `bounds`: those of
    /// one name are shared.
    pub fn clip_between(
        &mut self,
        bounds: &str,
        name: &str,
        x: &Value,
        [least, most]: [f32; 2],
    ) -> Value {
        let least = self.filled(&format!("{bounds}.least"), &[], least);
        let most = self.filled(&format!("{bounds}.most"), &[], most);
        let inputs = [("x", x), ("least", &least), ("most", &most)];
        let [x, least, most] =
            inputs.map(|(part, value)| self.widened(&format!("{name}/{part}"), value));
        self.narrowed_op("Clip", name, &[&x, &least, &most], &[])
    }

    /// `x` padded with zeros. `pads` has the number of zeros before each axis, then the number
    /// after each axis.
    pub fn pad(&mut self, name: &str, x: &Value, pads: &[i64]) -> Value {
        let pads = self.constant_i64(&format!("{name}/pads"), pads, false);
        let x = self.widened(&format!("{name}/x"), x);
        self.narrowed_op("Pad", name, &[&x, &pads], &[])
    }

    /// Whether each element of `x` is 0, as bool.
    pub fn is_zero(&mut self, name: &str, x: &Value) -> Value {
        let zero = self.filled("is_zero.zero", &[], 0.0);
        let inputs = [("x", x), ("zero", &zero)];
        let [x, zero] = inputs.map(|(part, value)| self.widened(&format!("{name}/{part}"), value));
        self.op("Equal", name, &[&x, &zero], &[])
    }

    /// The index of the largest value along the last axis, int64; the axis is dropped.
    pub fn place_of_largest(&mut self, name: &str, x: &Value) -> Value {
        let x = self.widened(&format!("/{name}/x"), x);
        let attrs = [("axis", Attr::Int(-1)), ("keepdims", Attr::Int(0))];
        self.op("ArgMax", name, &[&x], &attrs)
    }

    /// The `count` largest values along the last axis, in the graph's dtype, and their indices,
    /// int64.
    pub fn largest(&mut self, name: &str, x: &Value, count: usize) -> [Value; 2] {
        let count = self.constant_i64(&format!("{name}/count"), &[count as i64], false);
        let x = self.widened(&format!("{name}/x"), x);
        let values = format!("{name}/values");
        let places = format!("{name}/indices");
        match self.arithmetic.compute {
            Dtype::BFloat16 => {
                let outputs = [format!("{values}/float32"), places];
                let [wide, places] = self.op_outputs("TopK", name, &[&x, &count], outputs, &[]);
                [self.to_compute(&values, &wide), places]
            }
            _ => self.op_outputs("TopK", name, &[&x, &count], [values, places], &[]),
        }
    }

    fn widened(&mut self, name: &str, x: &Value) -> Value {
        match self.arithmetic.compute {
            Dtype::BFloat16 => self.cast(name, x, element::FLOAT32),
            _ => x.clone(),
        }
    }

    fn narrowed_op(
        &mut self,
        op: &'static str,
        name: &str,
        inputs: &[&Value],
        attrs: &[(&'static str, Attr)],
    ) -> Value {
        match self.arithmetic.compute {
            Dtype::BFloat16 => {
                let wide = self.op(op, &format!("{name}/float32"), inputs, attrs);
                self.to_compute(name, &wide)
            }
            _ => self.op(op, name, inputs, attrs),
        }
    }
}
