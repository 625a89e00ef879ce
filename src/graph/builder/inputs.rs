//! Inputs and outputs of the graph.

use super::value::value_info;
use super::{Dim, GraphBuilder, Value};
use crate::graph::proto::{element, element_type};
use crate::weights::Dtype;

impl GraphBuilder<'_> {
    /// An input of the graph's dtype. It's added on its first use: several modules may share it,
    /// and a module may run twice.
    pub fn input(&mut self, name: &str, dims: &[Dim]) -> Value {
        if let Some(value) = self.constants.get(name) {
            return value.clone();
        }
        let value = self.typed_input(name, element_type(self.arithmetic.compute), dims);
        self.constants.insert(name.to_owned(), value.clone());
        value
    }

    /// Adds an input of this dtype.
    pub fn input_of(&mut self, dtype: Dtype, name: &str, dims: &[Dim]) -> Value {
        self.typed_input(name, element_type(dtype), dims)
    }

    /// Declares the value `name`, of this dtype, as an output.
    pub fn output_of(&mut self, dtype: Dtype, name: &str, dims: &[Dim]) {
        let info = value_info(name, element_type(dtype), dims);
        self.graph.output.push(info);
    }

    /// Adds an input of type int64.
    pub fn input_i64(&mut self, name: &str, dims: &[Dim]) -> Value {
        self.typed_input(name, element::INT64, dims)
    }

    fn typed_input(&mut self, name: &str, elem_type: i32, dims: &[Dim]) -> Value {
        self.graph.input.push(value_info(name, elem_type, dims));
        Value(name.to_owned())
    }

    /// Declares the value `name`, of the graph's dtype, as an output.
    pub fn output(&mut self, name: &str, dims: &[Dim]) {
        let info = value_info(name, element_type(self.arithmetic.compute), dims);
        self.graph.output.push(info);
    }

    /// Declares `value`, of type int64, as an output.
    pub fn output_i64(&mut self, value: &Value, dims: &[Dim]) {
        let info = value_info(value.name(), element::INT64, dims);
        self.graph.output.push(info);
    }
}
