//! HiRA: `W' = W ∘ (1 + B A)`, a change of high rank from a low-rank pair; for an embedding
//! `E' = E ∘ (1 + (B A)ᵀ)`.
//!
//! | tensor | shape |
//! |---|---|
//! | `hira_A` | `[r, in_features]` |
//! | `hira_B` | `[out_features, r]` |
//! | `hira_embedding_A`, `hira_embedding_B` | `[r, num_embeddings]`, `[embedding_dim, r]` |
//!
//! There's no scaling. PEFT 0.21 reads `rank_pattern` but gives every module rank `r`, so a trained
//! adapter's ranks are those of its tensors, and a fresh one's are `r`. For a linear layer no
//! smaller tensors with the base's weight give the same result, so the weight is replaced; an
//! embedding's rows stay as they are. If an embedding scales its rows (Gemma's), PEFT adds the
//! change after that, unscaled. Sums are taken in float32.
//!
//! Sources: Huang et al., HiRA, ICLR 2025; PEFT, `tuners/hira/`.

use ndarray::{Array2, Axis, s};

use super::{Class, Method};
use crate::adapter::form::{EmbeddingForm, Form, FormTensor, Native, NativeForm, TensorRole};
use crate::adapter::targets::QUERY_VALUE;
use crate::adapter::toolbox::dense::changed_weight;
use crate::adapter::toolbox::options::rank;
use crate::adapter::toolbox::tuner::{Loading, TargetModule, Tuner};
use crate::adapter::{AdapterError, AdapterTensors, Effects, Init, ModuleAdapter, ModuleWeights};

/// The tensors of one module.
#[derive(Debug)]
struct Hira {
    keys: [String; 2],
    /// `[r, in_features]`, or `[r, num_embeddings]`
    a: Array2<f32>,
    /// `[out_features, r]`, or `[embedding_dim, r]` divided by the embedding's scale of rows.
    b: Array2<f32>,
    embedding: bool,
}

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "HIRA",
    class: Class::Weight,
    variants: "embeddings",
    refused: "",
    load,
};

/// Reads the adapter.
fn load(loading: Loading) -> Result<Effects, AdapterError> {
    let config = loading.config;
    let default = rank(config, "r", 32)?;
    let (random, gaussian) = match config.get("init_weights") {
        None | Some(serde_json::Value::Bool(true)) => (false, false),
        Some(serde_json::Value::Bool(false)) => (true, false),
        Some(serde_json::Value::String(name)) if name.eq_ignore_ascii_case("gaussian") => {
            (false, true)
        }
        Some(_) => {
            let expected = "`true`, `false` or `gaussian`";
            return Err(config.wrong("init_weights", expected).into());
        }
    };
    let row_scale = loading.base.spec.row_scale().unwrap_or(1.0);
    Tuner::open(loading, QUERY_VALUE, None)?.adapt_any(|tensors, target| {
        let (keys, shapes, inits, embedding) = match target {
            TargetModule::Linear(layer) => {
                let keys = ["hira_A", "hira_B"].map(|name| layer.key(name));
                let r = stored_rank(tensors, &keys[0]).unwrap_or(default);
                let first = match gaussian {
                    true => Init::Normal(1.0 / r as f32),
                    false => Init::linear_default(layer.in_features),
                };
                let second = match random {
                    true => Init::linear_default(r),
                    false => Init::Zeros,
                };
                let shapes = [[r, layer.in_features], [layer.out_features, r]];
                (keys, shapes, [first, second], false)
            }
            TargetModule::Embedding(table) => {
                let keys = ["hira_embedding_A", "hira_embedding_B"].map(|name| table.key(name));
                let r = stored_rank(tensors, &keys[0]).unwrap_or(default);
                let shapes = [[r, table.num_embeddings], [table.embedding_dim, r]];
                (keys, shapes, [Init::Zeros, Init::Normal(1.0)], true)
            }
        };
        let mut b = tensors.matrix(&keys[1], shapes[1], inits[1])?;
        if embedding {
            b /= row_scale as f32;
        }
        Ok(Box::new(Hira {
            a: tensors.matrix(&keys[0], shapes[0], inits[0])?,
            b,
            keys: keys.map(|key| tensors.full_key(&key)),
            embedding,
        }))
    })
}

/// The rank of `A` in the file.
fn stored_rank(tensors: &AdapterTensors, key: &str) -> Option<usize> {
    tensors.shape(key)?.first().copied()
}

impl Hira {
    /// `W ∘ (1 + B A)`, a few rows at a time.
    fn change(&self, weight: &mut Array2<f32>) {
        const ROWS: usize = 256;
        for (index, mut rows) in weight.axis_chunks_iter_mut(Axis(0), ROWS).enumerate() {
            let places = index * ROWS..index * ROWS + rows.nrows();
            let change = match self.embedding {
                true => self.a.slice(s![.., places]).t().dot(&self.b.t()),
                false => self.b.slice(s![places, ..]).dot(&self.a),
            };
            rows.zip_mut_with(&change, |value, change| *value *= 1.0 + change);
        }
    }
}

impl ModuleAdapter for Hira {
    fn form(&self) -> Form<'_> {
        if self.embedding {
            return Form::Embedding(EmbeddingForm {
                delta: Some((
                    FormTensor::stored(&self.keys[0], &self.a, TensorRole::Table),
                    FormTensor::stored(&self.keys[1], &self.b, TensorRole::Term),
                )),
                multiplies: true,
                ..EmbeddingForm::default()
            });
        }
        let shape = [self.b.nrows(), self.a.ncols()];
        Form::Linear(changed_weight(shape, |weight| {
            self.change(weight);
            Ok(())
        }))
    }

    fn merge_into(&self, module: &mut ModuleWeights) -> Result<(), AdapterError> {
        self.change(&mut module.weight);
        Ok(())
    }

    /// `W x + b + (W ∘ B A) x`
    fn native(&self) -> Native<'_> {
        if self.embedding {
            return Native::Reduced;
        }
        let tensors = vec![
            FormTensor::stored(&self.keys[0], &self.a, TensorRole::Term),
            FormTensor::stored(&self.keys[1], &self.b, TensorRole::Term),
        ];
        let form = NativeForm::new(tensors, |site| {
            let (a, b) = (site.inputs[0].clone(), site.inputs[1].clone());
            let product = site.op("MatMul", "product", &[&b, &a]);
            let weight = site.weight();
            let change = site.op("Mul", "change", &[&weight, &product]);
            let x = site.x.clone();
            let delta = site.matmul_transposed("delta", &x, &change);
            site.base_plus(&delta)
        });
        Native::Own(form.over_weight())
    }

    fn trainable_params(&self) -> usize {
        self.a.len() + self.b.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn weights_are_multiplied_and_embeddings_by_the_transpose() {
        let merged = |embedding| {
            let adapter = Hira {
                keys: ["A", "B"].map(str::to_owned),
                a: array![[1.0, 2.0]],
                b: array![[0.0], [3.0]],
                embedding,
            };
            let mut module = ModuleWeights {
                weight: array![[1.0, 1.0], [1.0, 10.0]],
                bias: None,
            };
            adapter.merge_into(&mut module).unwrap();
            module.weight
        };
        assert_eq!(merged(false), array![[1.0, 1.0], [4.0, 70.0]]);
        assert_eq!(merged(true), array![[1.0, 4.0], [1.0, 70.0]]);
    }
}
