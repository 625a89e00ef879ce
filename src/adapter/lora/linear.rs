//! LoRA on a linear layer: `y = g * (W x + scaling * (B A x + b_B)) + b`, `g = 1` without DoRA.

use ndarray::linalg::general_mat_mul;
use ndarray::{Array1, Array2, Axis};

use super::weight_only;
use crate::adapter::token_rows::symbolic;
use crate::adapter::{AdapterError, BoundTensor, ModuleAdapter, ModuleWeights, ReadWeight};
use crate::graph::{EmbeddingSite, GraphBuilder, LinearSite, Value};

/// The tensors of one linear layer.
#[derive(Debug)]
pub struct LoraLinear {
    /// Inputs of the unmerged graph: `A`, `B`, `B`'s bias, magnitude.
    pub inputs: [String; 4],
    /// The module.
    pub path: String,
    /// `[r, in_features]`
    pub a: Array2<f32>,
    /// `[out_features, r]`
    pub b: Array2<f32>,
    /// `[out_features]`
    pub bias: Option<Array1<f32>>,
    /// What `B A` is multiplied by.
    pub scaling: f32,
    /// DoRA's magnitude, `[out_features]`.
    pub magnitude: Option<Array1<f32>>,
}

/// Euclidean norms of the rows, `[out_features]`.
pub fn row_norms(weight: &Array2<f32>) -> Array1<f32> {
    // In float64: a row may have many thousand elements.
    let squares = |row: ndarray::ArrayView1<f32>| row.iter().map(|&v| f64::from(v).powi(2)).sum();
    weight
        .axis_iter(Axis(0))
        .map(|row| f64::sqrt(squares(row)) as f32)
        .collect()
}

impl LoraLinear {
    /// `W + scaling * B A`
    pub fn updated(&self, mut weight: Array2<f32>) -> Array2<f32> {
        general_mat_mul(self.scaling, &self.b, &self.a, 1.0, &mut weight);
        weight
    }

    /// `g = m / |W + scaling * B A|`
    fn gains(&self, updated: &Array2<f32>) -> Option<Array1<f32>> {
        Some(self.magnitude.as_ref()? / &row_norms(updated))
    }
}

impl ModuleAdapter for LoraLinear {
    fn merge_into(&self, module: &mut ModuleWeights) -> Result<(), AdapterError> {
        let weight = std::mem::take(&mut module.weight);
        let mut weight = self.updated(weight);
        let gains = self.gains(&weight);
        if let Some(gains) = &gains {
            for (mut row, &gain) in weight.axis_iter_mut(Axis(0)).zip(gains) {
                row *= gain;
            }
        }
        let bias = module.bias.take();
        *module = weight_only(weight);
        module.bias = match &self.bias {
            None => bias,
            Some(own) => {
                let mut added = own * self.scaling;
                if let Some(gains) = &gains {
                    added *= gains;
                }
                Some(match bias {
                    Some(bias) => bias + &added,
                    None => added,
                })
            }
        };
        Ok(())
    }

    fn merges_bias(&self) -> bool {
        self.bias.is_some()
    }

    fn bound_tensors(&self, weight: ReadWeight) -> Result<Vec<BoundTensor>, AdapterError> {
        let tensor = |name: &String, shape: &[usize], values: Vec<f32>| BoundTensor {
            name: name.clone(),
            shape: shape.to_vec(),
            values,
        };
        let scaled = |value: &f32| value * self.scaling;
        let mut all = vec![
            tensor(
                &self.inputs[0],
                self.a.shape(),
                self.a.iter().copied().collect(),
            ),
            tensor(
                &self.inputs[1],
                self.b.shape(),
                self.b.iter().map(scaled).collect(),
            ),
        ];
        if let Some(bias) = &self.bias {
            all.push(tensor(
                &self.inputs[2],
                bias.shape(),
                bias.iter().map(scaled).collect(),
            ));
        }
        if self.magnitude.is_some() {
            let gains = self.gains(&self.updated(weight()?));
            let gains = gains.expect("there is a magnitude").to_vec();
            all.push(tensor(&self.inputs[3], &[gains.len()], gains));
        }
        Ok(all)
    }

    fn linear(&self, graph: &mut GraphBuilder, site: &LinearSite) -> Value {
        let path = &self.path;
        let rank = symbolic(path, "r");
        let (out, input) = (self.b.nrows(), self.a.ncols());
        let a = graph.input(&self.inputs[0], &[rank.clone(), input.into()]);
        let b = graph.input(&self.inputs[1], &[out.into(), rank]);
        let inner = graph.matmul_transposed(&format!("/{path}/lora_A/MatMul"), site.x, &a);
        let mut delta = graph.matmul_transposed(&format!("/{path}/lora_B/MatMul"), &inner, &b);
        if self.bias.is_some() {
            let bias = graph.input(&self.inputs[2], &[out.into()]);
            delta = graph.add(&format!("/{path}/lora_B/Add"), &delta, &bias);
        }
        let mut output = graph.add(&format!("/{path}/lora/Add"), site.product, &delta);
        if self.magnitude.is_some() {
            let gains = graph.input(&self.inputs[3], &[out.into()]);
            output = graph.mul(
                &format!("/{path}/lora_magnitude_vector/Mul"),
                &output,
                &gains,
            );
        }
        match site.bias {
            Some(bias) => graph.add(&format!("/{path}/Add"), &output, bias),
            None => output,
        }
    }

    fn embedding(&self, _graph: &mut GraphBuilder, site: &EmbeddingSite) -> Value {
        unreachable!(
            "`{}` is an embedding, and this adapter is a linear layer's",
            site.path
        )
    }

    fn trainable_params(&self) -> usize {
        let vector = |v: &Option<Array1<f32>>| v.as_ref().map_or(0, Array1::len);
        self.a.len() + self.b.len() + vector(&self.bias) + vector(&self.magnitude)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    fn adapter(magnitude: Option<Array1<f32>>) -> LoraLinear {
        LoraLinear {
            inputs: ["a", "b", "bias", "m"].map(str::to_owned),
            path: "x".to_owned(),
            a: array![[1.0, 2.0]],
            b: array![[3.0], [0.0]],
            bias: None,
            scaling: 0.5,
            magnitude,
        }
    }

    #[test]
    fn the_weight_gains_the_scaled_product() {
        let mut module = weight_only(array![[1.0, 1.0], [1.0, 1.0]]);
        adapter(None).merge_into(&mut module).unwrap();
        assert_eq!(module.weight, array![[2.5, 4.0], [1.0, 1.0]]);
    }

    #[test]
    fn with_dora_each_row_has_the_trained_norm_and_the_bias_stays() {
        let mut module = weight_only(array![[1.5, 1.0], [3.0, 4.0]]);
        module.bias = Some(array![7.0, 8.0]);
        adapter(Some(array![10.0, 2.5]))
            .merge_into(&mut module)
            .unwrap();
        assert_eq!(module.weight.row(1), array![1.5, 2.0]);
        assert!((row_norms(&module.weight)[0] - 10.0).abs() < 1e-5);
        assert_eq!(module.bias, Some(array![7.0, 8.0]));
    }
}
