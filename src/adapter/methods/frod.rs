//! FRoD: replaces every weight by `W' = U (S + diag(lambda)) Vᵀ`, where modules of the same kind
//! share the basis `V`, and the sparse matrix `S` is trained.
//!
//! | tensor | shape |
//! |---|---|
//! | `frod_lambda_l` | `[in_features]` |
//! | `frod_lambda_s_values` | `[z]` |
//! | shared `base_model.frod_V.<kind>` | `[in_features, in_features]` |
//! | shared `base_model.frod_s_indices.<kind>` | `[2, z]`, whole numbers: rows and columns of `S` |
//! | shared `base_model.frod_s_size.<kind>` | `[2]`, the shape of `S` |
//!
//! `z = floor(sparse_rate * in_features²)`, at least 1 and at most the number of off-diagonal
//! elements. `U`, which isn't saved, is `W V⁻ᵀ` in float64, with columns scaled to length 1. A
//! module's kind is the end of its path (`self_attn_q_proj`).
//!
//! Without `save_projection`, a trained adapter's `V` can't be computed again: it consists of
//! eigenvectors, and their signs matter. A fresh adapter's `V` is computed from the base's weights
//! as PEFT does (except for signs), and the indices of `S` are drawn from `projection_prng_key`,
//! kind after kind in the order of their names. It doesn't change the weight, except for rounding.
//!
//! Source: PEFT, `tuners/frod/`.

use std::collections::BTreeMap;
use std::sync::Arc;

use ndarray::{Array1, Array2, Axis};
use rayon::prelude::*;
use safetensors::Dtype;

use super::{Class, Method};
use crate::adapter::form::{BaseModule, Form, FormTensor, LinearForm, TensorRole};
use crate::adapter::targets::defaults::QUERY_VALUE_ONLY;
use crate::adapter::toolbox::components::failed;
use crate::adapter::toolbox::options::{factor, seed};
use crate::adapter::toolbox::tuner::{Loading, TargetLinear, Tuner};
use crate::adapter::{AdapterError, AdapterTensors, Effects, Init, ModuleAdapter};
use crate::decomposition::{solve, symmetric_eigenvectors};
use crate::model::BaseModel;
use crate::random::TorchGenerator;

/// The tensors of one layer.
#[derive(Debug)]
struct Frod {
    path: String,
    basis: Arc<Basis>,
    /// `[in_features]`; `None` for a fresh adapter's: the norms of `U`'s columns.
    lambda: Option<Array1<f32>>,
    /// `[z]`
    values: Array1<f32>,
    out_features: usize,
}

/// What modules of one kind share.
#[derive(Debug)]
struct Basis {
    /// `[in_features, in_features]`
    v: Array2<f32>,
    /// Rows and columns of the sparse matrix.
    places: Vec<(usize, usize)>,
}

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "FROD",
    class: Class::Weight,
    variants: "",
    refused: "`save_projection` false for trained adapters, a basis that is stored in 16 bits, `init_weights` false for fresh ones",
    load,
};

/// Reads the adapter.
fn load(loading: Loading) -> Result<Effects, AdapterError> {
    let config = loading.config;
    let base = loading.base;
    let rate = factor(config, "sparse_rate", 0.01)?;
    if !(0.0..=1.0).contains(&rate) {
        return Err(config.wrong("sparse_rate", "a number from 0 to 1").into());
    }
    let ridge = factor(config, "regularization_alpha", 0.001)?;
    let seed = seed(config, "projection_prng_key", 0)?;
    let saved = config.flag("save_projection", true)?;
    let identity = config.flag("init_weights", true)?;
    let fresh = loading.tensors.is_fresh();
    if fresh && !identity {
        let reason =
            "only fresh adapters that start from the weight itself are supported; use `true`";
        return Err(config.refused("init_weights", reason).into());
    }

    let tuner = Tuner::open(loading, QUERY_VALUE_ONLY, Some("frod_only"))?;
    tuner.refuse_reweighted()?;
    let mut kinds: BTreeMap<String, Vec<TargetLinear>> = BTreeMap::new();
    for layer in tuner.layers()? {
        kinds.entry(kind(layer.path())).or_default().push(layer);
    }
    let mut bases = BTreeMap::new();
    let mut generator = TorchGenerator::new(seed);
    for (kind, layers) in &kinds {
        let size = layers[0].in_features;
        let count = sparse_elements(size, rate);
        let basis = if fresh {
            Basis {
                places: off_diagonal(&mut generator, size, count),
                v: match tuner.tensors.has_values() {
                    true => common_basis(base, layers, ridge)?,
                    false => Array2::zeros((size, size)),
                },
            }
        } else if tuner
            .tensors
            .is_redrawn(&format!("base_model.frod_V.{kind}"), saved)
        {
            let reason = "the shared basis isn't in the file, and can't be computed again, since the signs of \
                          eigenvectors matter; save the adapter with `save_projection`";
            return Err(config.refused("save_projection", reason).into());
        } else {
            saved_basis(tuner.tensors, kind, size, count)?
        };
        bases.insert(kind.clone(), Arc::new(basis));
    }
    tuner.adapt(|tensors, layer| {
        let basis = Arc::clone(&bases[&kind(layer.path())]);
        let count = basis.places.len();
        let key = layer.key("frod_lambda_l");
        Ok(Frod {
            path: layer.path().to_owned(),
            lambda: match fresh {
                true => None,
                false => Some(tensors.vector(&key, layer.in_features, Init::Zeros)?),
            },
            values: tensors.vector(&layer.key("frod_lambda_s_values"), count, Init::Zeros)?,
            basis,
            out_features: layer.out_features,
        })
    })
}

/// The kind of a module: PEFT calls it a category.
fn kind(path: &str) -> String {
    let parts: Vec<&str> = path.split('.').collect();
    match parts.as_slice() {
        [.., "attention", "output", "dense"] => "attention_output".to_owned(),
        [.., parent, name] if parent.bytes().all(|byte| byte.is_ascii_digit()) => {
            (*name).to_owned()
        }
        [.., parent, name] => format!("{parent}_{name}"),
        _ => path.to_owned(),
    }
}

fn sparse_elements(size: usize, rate: f64) -> usize {
    let beside = size * size - size;
    let count = ((size * size) as f64 * rate) as usize;
    let least = usize::from(rate > 0.0 && beside > 0);
    count.min(beside).max(least)
}

/// Draws `count` off-diagonal indices.
fn off_diagonal(generator: &mut TorchGenerator, size: usize, count: usize) -> Vec<(usize, usize)> {
    let all = (size * size - size) as u64;
    let numbers = generator.permutation(all, count).into_iter();
    numbers
        .map(|number| {
            let (row, column) = (number as usize / (size - 1), number as usize % (size - 1));
            (row, column + usize::from(column >= row))
        })
        .collect()
}

fn saved_basis(
    tensors: &mut AdapterTensors,
    kind: &str,
    size: usize,
    count: usize,
) -> Result<Basis, AdapterError> {
    let key = |name: &str| format!("base_model.frod_{name}.{kind}");
    if let Some(dtype @ (Dtype::F16 | Dtype::BF16)) = tensors.stored_dtype(&key("V")) {
        return Err(tensors.layout(format!(
            "tensor `{}` has dtype {dtype:?}, expected F32: PEFT computes the other basis from the values before rounding, \
             which aren't known",
            key("V")
        )));
    }
    let v = tensors.matrix(&key("V"), [size, size], Init::Zeros)?;
    let found = tensors.indices(&key("s_size"), &[2], usize::MAX)?;
    if found != [size, size] {
        return Err(tensors.layout(format!(
            "tensor `{}` holds {found:?}, expected {:?}",
            key("s_size"),
            [size, size]
        )));
    }
    let indices = tensors.indices(&key("s_indices"), &[2, count], size)?;
    let (rows, columns) = indices.split_at(count);
    let places = rows.iter().copied().zip(columns.iter().copied());
    Ok(Basis {
        v,
        places: places.collect(),
    })
}

/// PEFT's joint decomposition of the weights of one kind. Let their stack be `Q R`, and `Q_l` the
/// part of layer `l`. The result is `Rᵀ Y`, with `Y` the eigenvectors of the mean of
/// `(Q_lᵀ Q_l + ridge I)⁻¹`. Any square root of the stack's Gram matrix can serve as `R`, with the
/// same `Rᵀ Y`. If the stack has fewer rows than columns, the result is all right singular vectors.
fn common_basis(
    base: &BaseModel,
    layers: &[TargetLinear],
    ridge: f64,
) -> Result<Array2<f32>, AdapterError> {
    let weight = |layer: &TargetLinear| {
        let weight = base.matrix(&format!("{}.weight", layer.module.source))?;
        Ok::<_, AdapterError>(weight.mapv(f64::from))
    };
    let failed = failed(layers[0].path());
    let size = layers[0].in_features;
    let gram = sum(layers, |layer| {
        let weight = weight(layer)?;
        Ok(weight.t().dot(&weight))
    })?;
    let vectors = symmetric_eigenvectors(&gram).map_err(&failed)?;
    let rows: usize = layers.iter().map(|layer| layer.out_features).sum();
    if rows < size {
        let largest_first: Vec<usize> = (0..size).rev().collect();
        return Ok(vectors
            .select(Axis(1), &largest_first)
            .mapv(|value| value as f32));
    }
    // The square roots of the eigenvalues, by one product: column by column it takes half a minute
    // at 2048.
    let squares = (&vectors * &gram.dot(&vectors)).sum_axis(Axis(0));
    let sizes = squares.mapv(|square| square.max(0.0).sqrt());
    // W R⁻¹ = W E diag(1 / sizes)
    let inverse_root = &vectors / &sizes.view().insert_axis(Axis(0));
    let all = sum(layers, |layer| {
        let q = weight(layer)?.dot(&inverse_root);
        let term = q.t().dot(&q) + Array2::<f64>::eye(size) * ridge;
        solve(&term, &Array2::eye(size)).map_err(&failed)
    })?;
    let mean = all / layers.len() as f64;
    let inner = symmetric_eigenvectors(&mean).map_err(&failed)?;
    let scaled = &vectors * &sizes.insert_axis(Axis(0));
    Ok(scaled.dot(&inner).mapv(|value| value as f32))
}

/// The sum of `term` over the layers. Each thread holds one term at a time. Terms are added in the
/// layers' order, so that the sum doesn't depend on the number of threads.
fn sum(
    layers: &[TargetLinear],
    term: impl Fn(&TargetLinear) -> Result<Array2<f64>, AdapterError> + Sync,
) -> Result<Array2<f64>, AdapterError> {
    let size = layers[0].in_features;
    let mut sum = Array2::zeros((size, size));
    for together in layers.chunks(rayon::current_num_threads()) {
        let terms = together.par_iter().map(&term);
        for term in terms.collect::<Result<Vec<_>, _>>()? {
            sum += &term;
        }
    }
    Ok(sum)
}

impl Frod {
    fn weight(&self, base: &BaseModule) -> Result<Vec<f32>, AdapterError> {
        let weight = base.weight()?;
        // The solution X of V X = Wᵀ is diag(norms) Uᵀ.
        let v = self.basis.v.mapv(f64::from);
        let transposed = weight.t().mapv(f64::from);
        let solved = solve(&v, &transposed).map_err(failed(&self.path))?;
        drop((v, transposed));
        let norms: Array1<f64> = solved
            .axis_iter(Axis(0))
            .map(|row| row.dot(&row).sqrt())
            .collect();
        let mut u = solved.mapv(|value| value as f32);
        for ((mut row, exact), &norm) in u.rows_mut().into_iter().zip(solved.rows()).zip(&norms) {
            match norm > 1e-12 {
                true => row.zip_mut_with(&exact, |value, exact| *value = (exact / norm) as f32),
                false => row.fill(0.0),
            }
        }
        drop(solved);
        let own = norms.mapv(|norm| norm as f32);
        let lambda = self.lambda.as_ref().unwrap_or(&own);
        let mut middle = &u * &lambda.view().insert_axis(Axis(1));
        for (&(row, column), &value) in self.basis.places.iter().zip(&self.values) {
            if value != 0.0 {
                middle.row_mut(column).scaled_add(value, &u.row(row));
            }
        }
        drop(u);
        let weight = middle.t().dot(&self.basis.v.t());
        Ok(weight
            .as_standard_layout()
            .into_owned()
            .into_raw_vec_and_offset()
            .0)
    }
}

impl ModuleAdapter for Frod {
    fn form(&self) -> Form<'_> {
        let shape = [self.out_features, self.basis.v.nrows()];
        let weight = FormTensor::derived("weight", &shape, TensorRole::InPlace, |base| {
            self.weight(base)
        });
        Form::Linear(LinearForm::replaced(weight))
    }

    fn trainable_params(&self) -> usize {
        self.basis.v.nrows() + self.values.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::ModuleWeights;
    use ndarray::array;

    fn merged(lambda: Option<Array1<f32>>, value: f32) -> Array2<f32> {
        let adapter = Frod {
            path: "x".to_owned(),
            basis: Arc::new(Basis {
                v: array![[1.0, 1.0], [0.0, 2.0]],
                places: vec![(0, 1)],
            }),
            lambda,
            values: array![value],
            out_features: 2,
        };
        let mut module = ModuleWeights {
            weight: array![[5.0, 4.0], [2.0, 0.0]],
            bias: None,
        };
        adapter.merge_into(&mut module).unwrap();
        module.weight
    }

    #[test]
    fn it_starts_as_the_weight_itself() {
        let difference: Array2<f32> = merged(None, 0.0) - array![[5.0, 4.0], [2.0, 0.0]];
        assert!(difference.iter().all(|value| value.abs() < 1e-5));
    }

    #[test]
    fn the_middle_is_a_diagonal_and_a_sparse_matrix() {
        // W V⁻ᵀ = [[3, 2], [2, 0]], so U = [[3, √13], [2, 0]] / √13; U₀ goes to column 1 as well.
        let root = 13_f32.sqrt();
        let u: Array2<f32> = array![[3.0 / root, 1.0], [2.0 / root, 0.0]];
        let expected = u
            .dot(&array![[1.0, 4.0], [0.0, 1.0]])
            .dot(&array![[1.0, 0.0], [1.0, 2.0]]);
        let difference = merged(Some(array![1.0, 1.0]), 4.0) - expected;
        assert!(
            difference.iter().all(|value| value.abs() < 1e-5),
            "{difference}"
        );
    }

    #[test]
    fn kinds_are_peft_s_categories() {
        assert_eq!(kind("model.layers.3.self_attn.q_proj"), "self_attn_q_proj");
        assert_eq!(kind("model.decoder.layers.0.fc1"), "fc1");
        assert_eq!(kind("lm_head"), "lm_head");
    }

    #[test]
    fn places_leave_the_diagonal_out() {
        let mut generator = TorchGenerator::new(4);
        let mut places = off_diagonal(&mut generator, 4, 12);
        places.sort_unstable();
        assert!(places.iter().all(|(row, column)| row != column));
        places.dedup();
        assert_eq!(places.len(), 12);
        assert_eq!(sparse_elements(64, 0.02), 81);
        assert_eq!(sparse_elements(4, 0.01), 1);
    }
}
