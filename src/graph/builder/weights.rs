//! The model's parameters as references into files, and products with them.

use super::{Dim, GraphBuilder, Value};
use crate::graph::Role;
use crate::graph::linear::ExpertProjection;
use crate::graph::parameters::Parameter;
use crate::graph::proto::{Tensor, element, element_type};
use crate::weights::{ByteSpan, Dtype, TensorLocation};

impl GraphBuilder<'_> {
    /// The parameter `name` of the model.
    ///
    /// # Panics
    /// If the model has no such parameter.
    pub fn parameter(&mut self, name: &str) -> Value {
        self.find_parameter(name)
            .unwrap_or_else(|| panic!("parameter `{name}` was checked when the model was opened"))
    }

    /// The parameter `name`, if the model has it: a reference into its file, with casts if its
    /// dtype is another than the graph's, or an input of the graph.
    pub fn find_parameter(&mut self, name: &str) -> Option<Value> {
        let parameters = self.parameters;
        match parameters.get(&self.scoped_parameter(name))? {
            Parameter::Stored(location) => Some(self.stored(name, location)),
            Parameter::Quantized(_) => {
                unreachable!("`{name}` is quantized, so only products and rows can use it")
            }
            Parameter::Input { name, shape } => {
                let dims: Vec<Dim> = shape.iter().map(|&size| size.into()).collect();
                Some(self.input(name, &dims))
            }
        }
    }

    /// The parameter `name` in float32, whatever the graph's dtype: only numbers that are stored in
    /// fewer bits have been rounded.
    ///
    /// # Panics
    /// If the model has no such parameter.
    pub fn parameter_f32(&mut self, name: &str) -> Value {
        let parameters = self.parameters;
        match parameters.get(&self.scoped_parameter(name)) {
            Some(Parameter::Stored(location)) => {
                let span = ByteSpan {
                    path: location.path.clone(),
                    offset: location.offset,
                    length: location.length,
                };
                let type_ = element_type(location.dtype);
                let key = format!("{name}.float32");
                if let Some(value) = self.constants.get(&key) {
                    return value.clone();
                }
                let stored = self.external(name, type_, &location.shape, &span);
                let value = match location.dtype {
                    Dtype::Float32 => stored,
                    _ => self.cast(&format!("/{key}"), &stored, element::FLOAT32),
                };
                self.constants.insert(key, value.clone());
                value
            }
            _ => {
                let value = self.parameter(name);
                self.to_f32(&format!("/{name}/float32"), &value)
            }
        }
    }

    fn stored(&mut self, name: &str, location: &TensorLocation) -> Value {
        let key = (location.path.clone(), location.offset);
        if let Some(value) = self.placed.get(&key) {
            return value.clone();
        }
        let span = ByteSpan {
            path: location.path.clone(),
            offset: location.offset,
            length: location.length,
        };
        let mut value = self.external(name, element_type(location.dtype), &location.shape, &span);
        // ONNX Runtime folds these casts when it opens the session.
        let mut dtype = location.dtype;
        for wanted in [self.arithmetic.storage, self.arithmetic.compute] {
            if dtype != wanted {
                value = self.cast(&format!("/{name}/{wanted}"), &value, element_type(wanted));
                dtype = wanted;
            }
        }
        self.placed.insert(key, value.clone());
        value
    }

    /// An initializer with external data.
    pub(super) fn external(
        &mut self,
        name: &str,
        data_type: i32,
        shape: &[usize],
        span: &ByteSpan,
    ) -> Value {
        let dims = shape.iter().map(|&d| d as i64).collect();
        let tensor = Tensor::external(name, data_type, dims, span, self.folder);
        self.graph.initializer.push(tensor);
        Value(name.to_owned())
    }

    /// `W x` for the linear layer at `path`: `x` is `[…, in]`.
    pub fn product(&mut self, name: &str, path: &str, x: &Value) -> Value {
        let weight = format!("{path}.weight");
        let product = match self.quantized_weight(&weight) {
            Some(quantized) => self.quantized(name, x, &weight, quantized),
            None => {
                let weight = self.parameter(&weight);
                match self.is_stored_in_out(path) {
                    true => self.op("MatMul", name, &[x, &weight], &[]),
                    false => self.matmul_transposed(name, x, &weight),
                }
            }
        };
        self.set_linear(path, &product);
        product
    }

    /// `W x` for the linear layer at `path`, with the given `weight`, `[out, in]`.
    pub fn product_with(&mut self, name: &str, path: &str, x: &Value, weight: &Value) -> Value {
        let product = self.matmul_transposed(name, x, weight);
        self.set_linear(path, &product);
        product
    }

    fn set_linear(&mut self, path: &str, product: &Value) {
        let role = Role::Linear {
            path: self.scoped_path(path),
            last_position: self.is_last_position(product),
        };
        self.set_role(product, &role);
    }

    /// Whether the weight of the linear layer at `path` is stored as `[in, out]`.
    fn is_stored_in_out(&self, path: &str) -> bool {
        let path = self.scoped_parameter(path);
        self.parameters.is_stored_in_out(&path)
    }

    /// `W x` for an expert's projection at `path`: `x` is `[n, in]`, where `n` may be 0.
    pub fn expert_product(
        &mut self,
        name: &str,
        path: &str,
        of: ExpertProjection,
        x: &Value,
    ) -> Value {
        let weight = format!("{path}.weight");
        let product = match self.quantized_weight(&weight) {
            Some(quantized) => self.quantized(name, x, &weight, quantized),
            None => {
                let weight = self.parameter(&weight);
                match self.is_stored_in_out(path) {
                    true => self.op("MatMul", name, &[x, &weight], &[]),
                    false => self.matmul_transposed(name, x, &weight),
                }
            }
        };
        let role = Role::Expert {
            layer: self.scoped_path(of.layer),
            index: of.index,
            projection: of.projection,
        };
        self.set_role(&product, &role);
        product
    }

    /// The rows `ids` of the embedding at `path`, `[…, embedding_dim]`.
    pub fn rows(&mut self, name: &str, path: &str, ids: &Value) -> Value {
        let weight = format!("{path}.weight");
        match self.quantized_weight(&weight) {
            Some(quantized) => self.quantized_rows(name, ids, false, &weight, quantized),
            None => {
                let weight = self.parameter(&weight);
                self.gather(name, &weight, ids, 0)
            }
        }
    }

    /// The weight of the linear layer at `path`, `[out, in]`. If it's quantized, it's dequantized
    /// in every run; `x` is any value that depends on the graph's inputs.
    pub fn weight(&mut self, path: &str, x: &Value) -> Value {
        let weight = format!("{path}.weight");
        if let Some(quantized) = self.quantized_weight(&weight) {
            return self.dequantized(&weight, quantized, x);
        }
        let weight = self.parameter(&weight);
        match self.is_stored_in_out(path) {
            true => self.transpose(&format!("/{path}/weight/Transpose"), &weight, &[1, 0]),
            false => weight,
        }
    }
}
