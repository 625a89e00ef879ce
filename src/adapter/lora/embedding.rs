//! LoRA on the token embedding: `E' = E + scaling * (B A)ᵀ`; with DoRA, columns are rescaled.

use ndarray::linalg::general_mat_mul;
use ndarray::{Array1, Array2, Axis};

use super::weight_only;
use crate::adapter::token_rows::symbolic;
use crate::adapter::{AdapterError, BoundTensor, ModuleAdapter, ModuleWeights, ReadWeight};
use crate::graph::{EmbeddingSite, GraphBuilder, LinearSite, Value};

/// The tensors of the embedding.
#[derive(Debug)]
pub struct LoraEmbedding {
    /// Inputs of the unmerged graph: `A`, `B`, magnitude.
    pub inputs: [String; 3],
    /// The module.
    pub path: String,
    /// `[r, num_embeddings]`
    pub a: Array2<f32>,
    /// `[embedding_dim, r]`
    pub b: Array2<f32>,
    /// What `B A` is multiplied by.
    pub scaling: f32,
    /// DoRA's magnitude, `[embedding_dim]`.
    pub magnitude: Option<Array1<f32>>,
}

/// Euclidean norms of the columns, `[embedding_dim]`.
pub fn column_norms(weight: &Array2<f32>) -> Array1<f32> {
    let mut sums = vec![0.0_f64; weight.ncols()];
    for row in weight.axis_iter(Axis(0)) {
        for (sum, &value) in sums.iter_mut().zip(row) {
            *sum += f64::from(value).powi(2);
        }
    }
    sums.into_iter().map(|sum| sum.sqrt() as f32).collect()
}

impl LoraEmbedding {
    /// `E + scaling * (B A)ᵀ`
    pub fn updated(&self, mut weight: Array2<f32>) -> Array2<f32> {
        general_mat_mul(self.scaling, &self.a.t(), &self.b.t(), 1.0, &mut weight);
        weight
    }

    fn gains(&self, updated: &Array2<f32>) -> Option<Array1<f32>> {
        Some(self.magnitude.as_ref()? / &column_norms(updated))
    }
}

impl ModuleAdapter for LoraEmbedding {
    fn merge_into(&self, module: &mut ModuleWeights) -> Result<(), AdapterError> {
        let mut weight = self.updated(std::mem::take(&mut module.weight));
        if let Some(gains) = self.gains(&weight) {
            weight *= &gains;
        }
        *module = weight_only(weight);
        Ok(())
    }

    fn bound_tensors(&self, weight: ReadWeight) -> Result<Vec<BoundTensor>, AdapterError> {
        let tensor = |name: &String, shape: &[usize], values: Vec<f32>| BoundTensor {
            name: name.clone(),
            shape: shape.to_vec(),
            values,
        };
        let scaled = self.b.iter().map(|value| value * self.scaling).collect();
        let mut all = vec![
            tensor(
                &self.inputs[0],
                self.a.shape(),
                self.a.iter().copied().collect(),
            ),
            tensor(&self.inputs[1], self.b.shape(), scaled),
        ];
        if self.magnitude.is_some() {
            let gains = self.gains(&self.updated(weight()?));
            let gains = gains.expect("there is a magnitude").to_vec();
            all.push(tensor(&self.inputs[2], &[gains.len()], gains));
        }
        Ok(all)
    }

    fn linear(&self, _graph: &mut GraphBuilder, site: &LinearSite) -> Value {
        unreachable!(
            "`{}` is a linear layer, and this adapter is an embedding's",
            site.path
        )
    }

    /// ```text
    /// ids ─ Gather(A, axis 1) ─ Transpose ─ · Bᵀ ─ + rows
    ///       [r, batch, sequence] [batch, sequence, r]
    /// ```
    fn embedding(&self, graph: &mut GraphBuilder, site: &EmbeddingSite) -> Value {
        let path = &self.path;
        let rank = symbolic(path, "r");
        let (rows, width) = (self.a.ncols(), self.b.nrows());
        let a = graph.input(&self.inputs[0], &[rank.clone(), rows.into()]);
        let b = graph.input(&self.inputs[1], &[width.into(), rank]);
        let columns = graph.gather(&format!("/{path}/lora_embedding_A/Gather"), &a, site.ids, 1);
        let inner = graph.transpose(
            &format!("/{path}/lora_embedding_A/Transpose"),
            &columns,
            &[1, 2, 0],
        );
        let name = format!("/{path}/lora_embedding_B/MatMul");
        let delta = graph.matmul_transposed(&name, &inner, &b);
        let output = graph.add(&format!("/{path}/lora/Add"), site.rows, &delta);
        if self.magnitude.is_none() {
            return output;
        }
        let gains = graph.input(&self.inputs[2], &[width.into()]);
        graph.mul(
            &format!("/{path}/lora_magnitude_vector/Mul"),
            &output,
            &gains,
        )
    }

    fn trainable_params(&self) -> usize {
        self.a.len() + self.b.len() + self.magnitude.as_ref().map_or(0, Array1::len)
    }
}
