//! Common operators.

use super::{Attr, GraphBuilder, Value};
use crate::graph::proto::{element, element_type};
use crate::weights::Dtype;

impl GraphBuilder<'_> {
    /// `a + b`, broadcast
    pub fn add(&mut self, name: &str, a: &Value, b: &Value) -> Value {
        self.op("Add", name, &[a, b], &[])
    }

    /// `a * b`, broadcast
    pub fn mul(&mut self, name: &str, a: &Value, b: &Value) -> Value {
        self.op("Mul", name, &[a, b], &[])
    }

    /// `x · wᵀ`: `x` is `[…, in]`, `w` is `[out, in]`, as checkpoints store it.
    pub fn matmul_transposed(&mut self, name: &str, x: &Value, w: &Value) -> Value {
        self.contrib("FusedMatMul", name, &[x, w], &[("transB", Attr::Int(1))])
    }

    /// Splits `x` along `axis` into parts of these sizes and names.
    pub fn split<const N: usize>(
        &mut self,
        name: &str,
        x: &Value,
        axis: i64,
        sizes: [usize; N],
        names: [String; N],
    ) -> [Value; N] {
        let sizes = sizes.map(|size| size as i64);
        let sizes = self.constant_i64(&format!("{name}/sizes"), &sizes, false);
        let attrs = [("axis", Attr::Int(axis))];
        self.op_outputs("Split", name, &[x, &sizes], names, &attrs)
    }

    /// The slices of `data` at `indices` along `axis`.
    pub fn gather(&mut self, name: &str, data: &Value, indices: &Value, axis: i64) -> Value {
        self.op(
            "Gather",
            name,
            &[data, indices],
            &[("axis", Attr::Int(axis))],
        )
    }

    /// The size of `axis` of `x`, i64 `[1]`.
    pub fn size_of_axis(&mut self, name: &str, x: &Value, axis: i64) -> Value {
        let attrs = [("start", Attr::Int(axis)), ("end", Attr::Int(axis + 1))];
        self.op("Shape", name, &[x], &attrs)
    }

    /// The integers `start..end`, i64; both ends are i64 `[1]`.
    pub fn range(&mut self, name: &str, start: &Value, end: &Value) -> Value {
        let scalar = self.constant_i64("empty", &[], false);
        let ends = [("start", start), ("end", end)];
        let [start, end] = ends
            .map(|(part, end)| self.op("Reshape", &format!("{name}/{part}"), &[end, &scalar], &[]));
        let step = self.constant_i64("one.scalar", &[1], true);
        self.op("Range", name, &[&start, &end, &step], &[])
    }

    /// `x` with its axes permuted by `order`.
    pub fn transpose(&mut self, name: &str, x: &Value, order: &[i64]) -> Value {
        self.op(
            "Transpose",
            name,
            &[x],
            &[("perm", Attr::Ints(order.to_vec()))],
        )
    }

    /// `x` cast to the element type `to`.
    pub fn cast(&mut self, name: &str, x: &Value, to: i32) -> Value {
        self.op("Cast", name, &[x], &[("to", Attr::Int(i64::from(to)))])
    }

    /// `x` reshaped; 0 keeps an axis, −1 is inferred.
    pub fn reshape(&mut self, name: &str, x: &Value, shape: &[i64]) -> Value {
        let shape = self.constant_i64(&format!("{name}/shape"), shape, false);
        self.op("Reshape", name, &[x, &shape], &[])
    }

    /// `x` cast from float32 to the graph's dtype, if that's another one.
    pub fn to_compute(&mut self, name: &str, x: &Value) -> Value {
        match self.arithmetic.compute {
            Dtype::Float32 => x.clone(),
            other => self.cast(name, x, element_type(other)),
        }
    }

    /// `x` cast from the graph's dtype to float32, if that's another one.
    pub fn to_f32(&mut self, name: &str, x: &Value) -> Value {
        match self.arithmetic.compute {
            Dtype::Float32 => x.clone(),
            _ => self.cast(name, x, element::FLOAT32),
        }
    }
}
