//! Constants, stored in the graph itself. A constant of a name that exists is reused.

use super::{GraphBuilder, Value};
use crate::graph::proto::{self, element};
use crate::weights::round_to;

impl GraphBuilder<'_> {
    /// A constant of type int64: a vector, or a scalar if `scalar`.
    pub fn constant_i64(&mut self, name: &str, values: &[i64], scalar: bool) -> Value {
        let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let dims = if scalar { vec![] } else { vec![values.len()] };
        self.constant(name, element::INT64, &dims, raw)
    }

    /// A constant of type float32, whatever the graph's dtype.
    pub fn constant_f32(&mut self, name: &str, dims: &[usize], values: &[f32]) -> Value {
        let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(name, element::FLOAT32, dims, raw)
    }

    fn constant(&mut self, name: &str, data_type: i32, dims: &[usize], raw: Vec<u8>) -> Value {
        let name = &self.scoped(name);
        if let Some(value) = self.constants.get(name) {
            return value.clone();
        }
        self.graph.initializer.push(proto::Tensor {
            dims: dims.iter().map(|&d| d as i64).collect(),
            data_type,
            name: name.to_owned(),
            raw_data: raw,
            ..Default::default()
        });
        let value = Value(name.to_owned());
        self.constants.insert(name.to_owned(), value.clone());
        value
    }

    /// A constant of the graph's dtype with every element `value`.
    pub fn filled(&mut self, name: &str, dims: &[usize], value: f32) -> Value {
        let count = dims.iter().product();
        self.constant_float(name, dims, &vec![value; count])
    }

    /// A constant of the graph's dtype; `values` are rounded to it.
    pub fn constant_float(&mut self, name: &str, dims: &[usize], values: &[f32]) -> Value {
        let key = self.scoped(name);
        if let Some(made) = self.constants.get(&key) {
            return made.clone();
        }
        let values: Vec<f32> = values
            .iter()
            .map(|&value| round_to(value, self.arithmetic.compute))
            .collect();
        let constant = self.constant_f32(&format!("{name}/float32"), dims, &values);
        let made = self.to_compute(name, &constant);
        self.constants.insert(key, made.clone());
        made
    }
}
