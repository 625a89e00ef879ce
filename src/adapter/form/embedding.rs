//! The forms of an embedding, and of replaced rows.

use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, Axis};

use super::linear::{input, rotate_columns, rotate_input};
use super::{BaseModule, FormTensor, Naming};
use crate::adapter::{AdapterError, ModuleWeights};
use crate::graph::proto::element;
use crate::graph::{Attr, Dim, EmbeddingSite, GraphBuilder, LinearSite, Value};

/// `row' = gain ∘ ((row + Aᵀ[token] Bᵀ) · R)`. An absent stage does nothing.
#[derive(Debug, Default)]
pub struct EmbeddingForm<'a> {
    /// A low-rank change: `A` `[r, num_embeddings]`, `B` `[embedding_dim, r]`.
    pub delta: Option<(FormTensor<'a>, FormTensor<'a>)>,
    /// The change is `row ∘ delta` instead of `delta`.
    pub multiplies: bool,
    /// Blocks `[n, b, b]`, `n b = embedding_dim`, which rows are multiplied by from the right.
    pub rotation: Option<FormTensor<'a>>,
    /// `[embedding_dim]`
    pub gain: Option<FormTensor<'a>>,
}

impl<'a> EmbeddingForm<'a> {
    /// Its tensors.
    pub fn tensors(&self) -> Vec<&FormTensor<'a>> {
        let mut all = Vec::new();
        if let Some((a, b)) = &self.delta {
            all.extend([a, b]);
        }
        all.extend(&self.rotation);
        all.extend(&self.gain);
        all
    }

    /// Merges the form into the table.
    ///
    /// # Errors
    /// If values that depend on the table can't be computed.
    pub fn merge_into(&self, module: &mut ModuleWeights) -> Result<(), AdapterError> {
        let base = BaseModule::of(std::mem::take(module));
        let delta = match &self.delta {
            Some((a, b)) => Some((a.matrix(&base)?, b.matrix(&base)?)),
            None => None,
        };
        let rotation = match &self.rotation {
            Some(tensor) => Some((tensor.shape[1], tensor.values(&base)?.into_owned())),
            None => None,
        };
        let gain = self.gain.as_ref().map(|tensor| tensor.vector(&base));
        let gain = gain.transpose()?;

        let mut weight = base.into_weights().expect("they were given").weight;
        if let Some((a, b)) = delta {
            if self.multiplies {
                let change = a.t().dot(&b.t());
                weight.zip_mut_with(&change, |value, change| *value *= 1.0 + change);
            } else {
                general_mat_mul(1.0, &a.t(), &b.t(), 1.0, &mut weight);
            }
        }
        if let Some((size, blocks)) = rotation {
            // Rows are multiplied by R from the right; `rotate_columns` multiplies by the
            // transpose.
            let turned: Vec<f32> = blocks
                .chunks_exact(size * size)
                .flat_map(|block| {
                    let at = |index: usize| block[(index % size) * size + index / size];
                    (0..size * size).map(at)
                })
                .collect();
            rotate_columns(&mut weight, size, &turned, None);
        }
        if let Some(gain) = gain {
            weight *= &gain;
        }
        *module = ModuleWeights { weight, bias: None };
        Ok(())
    }

    /// Adds the nodes after the base's rows; returns the new rows.
    ///
    /// ```text
    /// ids ─ Gather(A, axis 1) ─ Transpose ─ · Bᵀ ─ + rows
    ///       [r, batch, sequence] [batch, sequence, r]
    /// ```
    pub fn nodes(&self, graph: &mut GraphBuilder, naming: &Naming, site: &EmbeddingSite) -> Value {
        let path = site.path;
        let at = |name: &str| format!("/{path}/adapter/{name}");
        let mut rows = site.rows.clone();
        if let Some((a, b)) = &self.delta {
            let rank = Dim::Symbol(format!("{path}.r"));
            let dims = [rank.clone(), a.shape[1].into()];
            let a = graph.input(&naming.input(a), &dims);
            let b = graph.input(&naming.input(b), &[b.shape[0].into(), rank]);
            let columns = graph.gather(&at("A/Gather"), &a, site.ids, 1);
            let inner = graph.transpose(&at("A/Transpose"), &columns, &[1, 2, 0]);
            let mut delta = graph.matmul_transposed(&at("B/MatMul"), &inner, &b);
            if self.multiplies {
                delta = graph.mul(&at("Mul"), &delta, &rows);
            }
            rows = graph.add(&at("Add"), &rows, &delta);
        }
        if let Some(tensor) = &self.rotation {
            let blocks = input(graph, naming, tensor);
            rows = rotate_input(
                graph,
                &at("rotation"),
                &rows,
                &blocks,
                tensor.shape[1],
                None,
            );
        }
        if let Some(tensor) = &self.gain {
            let gain = input(graph, naming, tensor);
            rows = graph.mul(&at("gain"), &rows, &gain);
        }
        rows
    }
}

/// Replaced rows of an embedding or a head, by token.
#[derive(Debug)]
pub struct TokenForm<'a> {
    /// `[indices.len(), embedding_dim]`
    pub rows: FormTensor<'a>,
    /// Token ids.
    pub indices: &'a [usize],
}

impl TokenForm<'_> {
    /// Merges the rows into the table.
    ///
    /// # Errors
    /// If their values can't be computed.
    pub fn merge_into(&self, module: &mut ModuleWeights) -> Result<(), AdapterError> {
        let base = BaseModule::of(std::mem::take(module));
        let rows: Array2<f32> = self.rows.matrix(&base)?;
        *module = base.into_weights().expect("they were given");
        for (&index, row) in self.indices.iter().zip(rows.axis_iter(Axis(0))) {
            module.weight.row_mut(index).assign(&row);
        }
        Ok(())
    }

    /// The rows as an input of the graph, and the token ids as a constant.
    fn inputs(&self, graph: &mut GraphBuilder, naming: &Naming) -> (Value, Value) {
        let rows = input(graph, naming, &self.rows);
        let ids: Vec<i64> = self.indices.iter().map(|&index| index as i64).collect();
        let name = format!("{}.indices", naming.input(&self.rows));
        (rows, graph.constant_i64(&name, &ids, false))
    }

    /// Adds a head's nodes: the logits of the replaced tokens overwrite the base's.
    pub fn head_nodes(
        &self,
        graph: &mut GraphBuilder,
        naming: &Naming,
        site: &LinearSite,
    ) -> Value {
        let (rows, indices) = self.inputs(graph, naming);
        let path = site.path;
        let at = |name: &str| format!("/{path}/token_adapter/{name}");
        let name = format!("/{path}/MatMul");
        let product = graph.product(&name, path, site.x);
        let logits = graph.matmul_transposed(&at("MatMul"), site.x, &rows);
        let shape = graph.op("Shape", &at("shape"), &[&logits], &[]);
        let places = graph.op("Expand", &at("places"), &[&indices, &shape], &[]);
        let product = graph.op(
            "ScatterElements",
            &at("ScatterElements"),
            &[&product, &places, &logits],
            &[("axis", Attr::Int(-1))],
        );
        match graph.find_parameter(&format!("{path}.bias")) {
            Some(bias) => graph.add(&at("Add"), &product, &bias),
            None => product,
        }
    }

    /// Adds the nodes of an embedding, which find for each token whether it's replaced, and by
    /// which row.
    pub fn embedding_nodes(
        &self,
        graph: &mut GraphBuilder,
        naming: &Naming,
        site: &EmbeddingSite,
    ) -> Value {
        let (rows, indices) = self.inputs(graph, naming);
        let name = format!("/{}/token_adapter", site.path);
        let ids = graph.reshape(&format!("{name}/ids"), site.ids, &[0, 0, 1]);
        let equal = graph.op("Equal", &format!("{name}/Equal"), &[&ids, &indices], &[]);
        // On a GPU, `ArgMax` accepts floats only.
        let equal = graph.cast(&format!("{name}/Equal/float32"), &equal, element::FLOAT32);
        let attrs = [("axis", Attr::Int(-1)), ("keepdims", Attr::Int(0))];
        let which = graph.op("ArgMax", &format!("{name}/ArgMax"), &[&equal], &attrs);
        let replaced = graph.gather(&format!("{name}/Gather"), &rows, &which, 0);
        let axis = graph.constant_i64("last", &[-1], false);
        // At most one is equal, so the sum is the maximum. `ReduceMax` would need cuDNN on a GPU.
        let hit = graph.op(
            "ReduceSum",
            &format!("{name}/ReduceSum"),
            &[&equal, &axis],
            &[],
        );
        let hit = graph.cast(&format!("{name}/hit"), &hit, element::BOOL);
        graph.op(
            "Where",
            &format!("{name}/Where"),
            &[&hit, &replaced, site.rows],
            &[],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::form::TensorRole;
    use ndarray::{Array3, array};

    fn merged(form: &EmbeddingForm, weight: Array2<f32>) -> Array2<f32> {
        let mut module = ModuleWeights { weight, bias: None };
        form.merge_into(&mut module).unwrap();
        module.weight
    }

    #[test]
    fn a_low_rank_change_is_added_or_multiplied() {
        let (a, b) = (array![[1.0, 2.0]], array![[3.0], [5.0]]);
        let form = |multiplies| EmbeddingForm {
            delta: Some((
                FormTensor::stored("A", &a, TensorRole::Table),
                FormTensor::stored("B", &b, TensorRole::Term),
            )),
            multiplies,
            ..EmbeddingForm::default()
        };
        let table = array![[1.0, 1.0], [2.0, 2.0]];
        assert_eq!(
            merged(&form(false), table.clone()),
            array![[4.0, 6.0], [8.0, 12.0]]
        );
        assert_eq!(merged(&form(true), table), array![[4.0, 6.0], [14.0, 22.0]]);
    }

    #[test]
    fn rows_turn_from_the_right() {
        let blocks: Array3<f32> = array![[[0.0, 1.0], [-1.0, 0.0]]];
        let form = EmbeddingForm {
            rotation: Some(FormTensor::stored("R", &blocks, TensorRole::Map)),
            ..EmbeddingForm::default()
        };
        assert_eq!(merged(&form, array![[1.0, 10.0]]), array![[-10.0, 1.0]]);
    }
}
