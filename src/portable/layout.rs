//! Names and layout of the adapters' tensors: as PEFT has them, or as Olive writes them.

use std::borrow::Cow;

use super::PortableError;
use crate::adapter::NeutralInput;
use crate::graph::proto::{Dimension, Graph, Model};
use crate::weights::AdapterTensor;

/// How adapters' tensors are named and laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AdapterLayout {
    /// PEFT's names; `A` is `[r, in]` and `B` is `[out, r]`.
    #[default]
    Peft,
    /// Those of Olive's converter: without `base_model.model.`, `A` is `[in, r]` and `B` is
    /// `[r, out]`.
    Olive,
}

/// The prefix of PEFT's names that Olive leaves out.
const PREFIX: &str = "base_model.model.";

const PAIR: [&str; 2] = [".lora_A.weight", ".lora_B.weight"];

impl AdapterLayout {
    /// The name of the input that PEFT calls `name`.
    pub fn name(self, name: &str) -> String {
        match self {
            Self::Peft => name.to_owned(),
            Self::Olive => name.strip_prefix(PREFIX).unwrap_or(name).to_owned(),
        }
    }

    fn transposes(self, name: &str) -> bool {
        self == Self::Olive && PAIR.iter().any(|end| name.ends_with(end))
    }

    /// The tensor in this layout.
    pub fn tensor<'a>(self, tensor: AdapterTensor<'a>) -> AdapterTensor<'a> {
        let name = self.name(&tensor.name);
        let (&[rows, columns], true) = (&tensor.shape[..], self.transposes(&tensor.name)) else {
            return AdapterTensor { name, ..tensor };
        };
        let size = tensor.dtype.size();
        let mut bytes = Vec::with_capacity(tensor.bytes.len());
        for column in 0..columns {
            for row in 0..rows {
                let at = (row * columns + column) * size;
                bytes.extend_from_slice(&tensor.bytes[at..at + size]);
            }
        }
        AdapterTensor {
            name,
            shape: vec![columns, rows],
            bytes: Cow::Owned(bytes),
            ..tensor
        }
    }

    /// Gives the values of an input this layout.
    pub fn input(self, input: &mut NeutralInput) {
        if let (&[rows, columns], true) = (&input.shape[..], self.transposes(&input.name)) {
            // A pair without effect has no elements.
            input.shape = vec![columns, rows];
        }
        input.name = self.name(&input.name);
    }

    /// Renames the inputs `names` of `model`, whose defaults aren't set yet, and lets its products
    /// take them in this layout.
    ///
    /// # Errors
    /// If one is a pair that isn't a linear layer's.
    pub fn apply(self, model: &mut Model, names: &[String]) -> Result<(), PortableError> {
        let (Self::Olive, Some(graph)) = (self, &mut model.graph) else {
            return Ok(());
        };
        for name in names {
            if self.transposes(name) {
                transpose(graph, name)?;
            }
            let other = self.name(name);
            for input in &mut graph.input {
                if input.name == *name {
                    other.clone_into(&mut input.name);
                }
            }
            for input in graph.node.iter_mut().flat_map(|node| &mut node.input) {
                if input == name {
                    other.clone_into(input);
                }
            }
        }
        Ok(())
    }
}

/// Makes the input `name` a matrix that products take as it is, not transposed.
fn transpose(graph: &mut Graph, name: &str) -> Result<(), PortableError> {
    let takes = |input: &[String]| input.iter().any(|input| input == name);
    for node in graph.node.iter_mut().filter(|node| takes(&node.input)) {
        let is_product = node.op_type == "FusedMatMul" && node.input[1] == name;
        if !is_product {
            return Err(PortableError::Olive {
                name: name.to_owned(),
                operator: node.op_type.clone(),
            });
        }
        "MatMul".clone_into(&mut node.op_type);
        node.domain.clear();
        node.attribute.clear();
    }
    let inputs = graph.input.iter_mut().filter(|input| input.name == name);
    let types = inputs.filter_map(|input| input.r#type.as_mut()?.tensor_type.as_mut());
    for shape in types.filter_map(|tensor| tensor.shape.as_mut()) {
        let dims: &mut Vec<Dimension> = &mut shape.dim;
        dims.reverse();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::Dtype;

    #[test]
    fn olive_has_shorter_names_and_transposed_pairs() {
        let name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
        let tensor = AdapterTensor {
            name: name.to_owned(),
            dtype: Dtype::Float16,
            shape: vec![2, 3],
            bytes: (0..12).collect::<Vec<u8>>().into(),
        };
        let olive = AdapterLayout::Olive.tensor(tensor.clone());
        assert_eq!(olive.name, "model.layers.0.self_attn.q_proj.lora_A.weight");
        assert_eq!(olive.shape, [3, 2]);
        assert_eq!(*olive.bytes, [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]);
        let peft = AdapterLayout::Peft.tensor(tensor);
        assert_eq!((peft.name.as_str(), &peft.shape[..]), (name, &[2, 3][..]));
    }
}
