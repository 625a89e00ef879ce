//! LoRA on the token embedding: `E' = E + scaling * (B A)ᵀ`; with DoRA, columns are rescaled.

use ndarray::linalg::general_mat_mul;
use ndarray::{Array1, Array2, Axis};

use crate::adapter::form::{BaseModule, EmbeddingForm, Form, FormTensor, Native, TensorRole};
use crate::adapter::{AdapterError, ModuleAdapter, ModuleWeights};

/// The tensors of the embedding.
#[derive(Debug)]
pub struct LoraEmbedding {
    /// Keys of `A`, `B`, magnitude.
    pub keys: [String; 3],
    /// `[r, num_embeddings]`
    pub a: Array2<f32>,
    /// `[embedding_dim, r]`
    pub b: Array2<f32>,
    /// What `B A` is multiplied by.
    pub scaling: f32,
    /// DoRA's magnitude, `[embedding_dim]`.
    pub magnitude: Option<Array1<f32>>,
    /// The number of parameters of `A` and `B` that PEFT trains.
    pub trainable: usize,
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
    fn form(&self) -> Form<'_> {
        let width = self.b.nrows();
        let gain = self.magnitude.as_ref().map(|_| {
            let gains = |module: &BaseModule| {
                let updated = self.updated(module.weight()?.clone());
                Ok(self.gains(&updated).expect("there is a magnitude").to_vec())
            };
            FormTensor::derived("gain", &[width], TensorRole::Factor, gains).keyed(&self.keys[2])
        });
        Form::Embedding(EmbeddingForm {
            delta: Some((
                FormTensor::stored(&self.keys[0], &self.a, TensorRole::Table),
                FormTensor::scaled(&self.keys[1], &self.b, self.scaling, TensorRole::Term),
            )),
            gain,
            ..EmbeddingForm::default()
        })
    }

    /// Computes `E + scaling * (B A)ᵀ` once; by the form it would be computed for the gains, too.
    fn merge_into(&self, module: &mut ModuleWeights) -> Result<(), AdapterError> {
        let mut weight = self.updated(std::mem::take(&mut module.weight));
        if let Some(gains) = self.gains(&weight) {
            weight *= &gains;
        }
        module.weight = weight;
        Ok(())
    }

    fn native(&self) -> Native<'_> {
        match self.magnitude {
            None => Native::Reduced,
            Some(_) => Native::Missing,
        }
    }

    fn trainable_params(&self) -> usize {
        self.trainable + self.magnitude.as_ref().map_or(0, Array1::len)
    }
}
