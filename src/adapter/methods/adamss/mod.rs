//! AdaMSS: a low-rank pair for each cluster of a weight's rows, after a common projection of the
//! input.
//!
//! | tensor | shape |
//! |---|---|
//! | `adamss_A.{k}` | `[ρ_k, q]` |
//! | `adamss_B.{k}` | `[n_k, ρ_k]` |
//! | `adamss_newB` | `[q, in_features]`, one more column if the layer has a bias |
//!
//! `q = min(r, out_features, columns of newB)`. There are `K = min(num_subspaces, out_features)`
//! clusters, cluster `k` of `n_k` rows. For its rows, `[ΔW | Δb] = B_k A_k newB`. The file doesn't
//! hold which rows a cluster has: PEFT computes them from the base whenever it loads an adapter,
//! and so does this (`clusters.rs`). The file shows whether the result is that of training: `newB`
//! must span what the base's decomposition gives, and the clusters must have as many rows as `B`.
//! If not, the adapter is refused, unless there's a single cluster or every `B` is 0. If `q` equals
//! `out_features`, all clustered points are equally far apart, and PEFT's own clusters depend on
//! rounding.
//!
//! A fresh adapter's `newB` holds the right singular vectors of `[W | b]`, `A_k` those of its
//! cluster's rows of the left ones, and `B` is 0. Sums are taken in float32.
//!
//! Sources: Zheng et al., AdaMSS, NeurIPS 2025; PEFT, `tuners/adamss/`.

mod clusters;

use ndarray::{Array2, Axis, concatenate, s};
use rayon::prelude::*;

use self::clusters::{LowRank, clusters, low_rank};
use super::{Class, Method};
use crate::adapter::form::{Form, FormTensor, LinearForm, TensorRole, elements};
use crate::adapter::targets::QUERY_VALUE;
use crate::adapter::toolbox::components::failed;
use crate::adapter::toolbox::options::{factor, rank, seed};
use crate::adapter::toolbox::tuner::{Loading, TargetLinear, Tuner};
use crate::adapter::{AdapterError, AdapterTensors, Effects, Init, ModuleAdapter};
use crate::json::JsonObject;
use crate::model::BaseModel;

/// The options.
#[derive(Debug)]
struct Options {
    r: usize,
    num_subspaces: usize,
    subspace_rank: usize,
    seed: u64,
    identity: bool,
    /// Singular values below this share of the largest don't count for a fresh cluster's rank.
    threshold: Option<f32>,
}

/// The tensors of one layer.
#[derive(Debug)]
struct AdaMss {
    /// `[q, in_features]`, or one more column with a bias.
    new_b: Array2<f32>,
    clusters: Vec<Cluster>,
    in_features: usize,
}

#[derive(Debug)]
struct Cluster {
    /// `[ρ, q]`
    a: Array2<f32>,
    /// `[n, ρ]`
    b: Array2<f32>,
    /// The rows of the weight, `n`.
    rows: Vec<usize>,
}

/// One layer's tensors in the file.
#[derive(Debug)]
struct FileTensors {
    new_b: Array2<f32>,
    /// `A_k`, `B_k`
    pairs: Vec<(Array2<f32>, Array2<f32>)>,
}

/// The clusters that were computed for one layer.
#[derive(Debug)]
struct Clusters {
    parts: LowRank,
    /// The rows of each cluster.
    rows: Vec<Vec<usize>>,
}

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "ADAMSS",
    class: Class::Weight,
    variants: "use_dynamic_rank",
    refused: "clusters that differ from PEFT's",
    load,
};

/// Reads the adapter. Decompositions take most of the time; layers go through them in parallel.
fn load(loading: Loading) -> Result<Effects, AdapterError> {
    let options = Options::read(loading.config)?;
    let base = loading.base;
    let tuner = Tuner::open(loading, QUERY_VALUE, None)?;
    let layers = tuner.layers()?;
    let has_values = tuner.tensors.has_values();
    let mut stored = Vec::new();
    for layer in &layers {
        stored.push(match tuner.tensors.is_fresh() {
            true => None,
            false => Some(FileTensors::read(&options, tuner.tensors, layer)?),
        });
    }
    let found = layers.par_iter().zip(&stored).map(|(layer, stored)| {
        let compares = |stored: &FileTensors| has_values && stored.needs_rows();
        let needed = stored.as_ref().is_none_or(compares);
        let find = || match has_values {
            true => options.find(base, layer),
            false => Ok(options.without_values(layer)),
        };
        needed.then(find).transpose()
    });
    let found: Vec<Option<Clusters>> = found.collect::<Result<_, AdapterError>>()?;
    let mut all = stored.into_iter().zip(found);
    tuner.adapt(|tensors, layer| match all.next() {
        Some((Some(stored), found)) => stored.adapter(tensors, layer, found),
        Some((None, Some(found))) => options.fresh(tensors, layer, found),
        _ => unreachable!("there's one for each layer, and a fresh one is computed"),
    })
}

impl Options {
    fn read(config: &JsonObject) -> Result<Self, AdapterError> {
        let identity = match config.get("init_weights") {
            None => !config
                .json()
                .as_object()
                .is_some_and(|all| all.contains_key("init_weights")),
            Some(serde_json::Value::Bool(false)) => false,
            Some(serde_json::Value::String(name)) if name == "orthogonal" => true,
            Some(_) => return Err(config.wrong("init_weights", "`orthogonal` or null").into()),
        };
        let threshold = match config.flag("use_dynamic_rank", false)? {
            true => Some(factor(config, "svd_threshold", 0.1)? as f32),
            false => None,
        };
        Ok(Self {
            r: rank(config, "r", 100)?,
            num_subspaces: rank(config, "num_subspaces", 5)?,
            subspace_rank: rank(config, "subspace_rank", 1)?,
            seed: seed(config, "random_seed", 0)?,
            identity,
            threshold,
        })
    }
}

impl Options {
    /// Rows of `newB`.
    fn q(&self, layer: &TargetLinear) -> usize {
        let columns = layer.in_features + usize::from(layer.bias);
        self.r.min(layer.out_features).min(columns)
    }

    fn clusters(&self, layer: &TargetLinear) -> usize {
        self.num_subspaces.min(layer.out_features)
    }

    /// Decomposes `[W | b]` and clusters its rows, as PEFT does.
    fn find(&self, base: &BaseModel, layer: &TargetLinear) -> Result<Clusters, AdapterError> {
        let matrix = with_bias(base, layer)?;
        let parts = low_rank(&matrix, self.q(layer), self.seed).map_err(failed(layer.path()))?;
        let rows = clusters(&parts.u, self.clusters(layer));
        Ok(Clusters { parts, rows })
    }

    /// Clusters with the sizes that [`find`](Self::find) gives. Parameter counts don't depend on
    /// which rows a cluster has, except with `use_dynamic_rank`, or if a cluster has fewer rows
    /// than `subspace_rank`.
    fn without_values(&self, layer: &TargetLinear) -> Clusters {
        let (q, count) = (self.q(layer), self.clusters(layer));
        let sizes = (0..count).map(|k| (layer.out_features + k) / count);
        Clusters {
            parts: LowRank {
                u: Array2::zeros((layer.out_features, q)),
                vt: Array2::zeros((q, layer.in_features + usize::from(layer.bias))),
            },
            rows: one_by_one(&sizes.collect::<Vec<_>>()),
        }
    }

    fn fresh(
        &self,
        tensors: &mut AdapterTensors,
        layer: &TargetLinear,
        found: Clusters,
    ) -> Result<AdaMss, AdapterError> {
        let mut made = Vec::new();
        for (k, rows) in found.rows.into_iter().enumerate() {
            let own = found.parts.u.select(Axis(0), &rows);
            // The right singular vectors of the cluster's rows, from their Gram matrix.
            let gram = match tensors.has_values() {
                true => own.t().dot(&own),
                false => Array2::eye(self.q(layer)),
            };
            let gram = crate::decomposition::svd(&gram).map_err(failed(layer.path()))?;
            let largest = gram.s.first().copied().unwrap_or(0.0);
            let counted = match self.threshold {
                Some(share) => gram
                    .s
                    .iter()
                    .filter(|&&value| value > share * largest)
                    .count(),
                None => rows.len(),
            };
            let rank = counted.min(rows.len()).min(self.subspace_rank);
            let rank = rank.clamp(1, self.q(layer));
            let init = match self.identity {
                true => Init::Zeros,
                false => Init::Normal(0.01),
            };
            let key = layer.key(&format!("adamss_B.{k}"));
            made.push(Cluster {
                a: gram.vt.slice(s![..rank, ..]).to_owned(),
                b: tensors.matrix(&key, [rows.len(), rank], init)?,
                rows,
            });
        }
        Ok(AdaMss {
            new_b: found.parts.vt,
            clusters: made,
            in_features: layer.in_features,
        })
    }
}

impl FileTensors {
    fn read(
        options: &Options,
        tensors: &mut AdapterTensors,
        layer: &TargetLinear,
    ) -> Result<Self, AdapterError> {
        let q = options.q(layer);
        let columns = layer.in_features + usize::from(layer.bias);
        let new_b = tensors.matrix(&layer.key("adamss_newB"), [q, columns], Init::Zeros)?;
        let mut pairs = Vec::new();
        for k in 0..options.clusters(layer) {
            let keys = ["A", "B"].map(|name| layer.key(&format!("adamss_{name}.{k}")));
            // Each cluster has its own rank and number of rows.
            let first = |key: &str| tensors.shape(key).and_then(|shape| shape.first().copied());
            let rank = first(&keys[0]).unwrap_or(options.subspace_rank);
            let rows = first(&keys[1]).unwrap_or(layer.out_features);
            let a = tensors.matrix(&keys[0], [rank, q], Init::Zeros)?;
            let b = tensors.matrix(&keys[1], [rows, rank], Init::Zeros)?;
            pairs.push((a, b));
        }
        let stored = Self { new_b, pairs };
        let sum: usize = stored.sizes().iter().sum();
        match sum == layer.out_features {
            true => Ok(stored),
            false => Err(tensors.layout(format!(
                "the tensors `{}` have {sum} rows together, expected {}, those of the weight",
                tensors.full_key(&layer.key("adamss_B")),
                layer.out_features
            ))),
        }
    }

    /// The number of rows of each cluster.
    fn sizes(&self) -> Vec<usize> {
        self.pairs.iter().map(|(_, b)| b.nrows()).collect()
    }

    /// Whether the result depends on which rows a cluster has.
    fn needs_rows(&self) -> bool {
        let is_zero = |b: &Array2<f32>| b.iter().all(|&value| value == 0.0);
        self.pairs.len() > 1 && !self.pairs.iter().all(|(_, b)| is_zero(b))
    }

    fn adapter(
        self,
        tensors: &AdapterTensors,
        layer: &TargetLinear,
        found: Option<Clusters>,
    ) -> Result<AdaMss, AdapterError> {
        let rows = match found {
            Some(found) => self.checked(tensors, layer, found)?,
            None => one_by_one(&self.sizes()),
        };
        let clusters = self.pairs.into_iter().zip(rows);
        Ok(AdaMss {
            new_b: self.new_b,
            clusters: clusters
                .map(|((a, b), rows)| Cluster { a, b, rows })
                .collect(),
            in_features: layer.in_features,
        })
    }

    /// The rows that were found, if they agree with the file.
    fn checked(
        &self,
        tensors: &AdapterTensors,
        layer: &TargetLinear,
        found: Clusters,
    ) -> Result<Vec<Vec<usize>>, AdapterError> {
        /// How much of a unit vector may lie outside the span.
        const OUTSIDE: f32 = 0.02;
        let advice = "PEFT clusters a weight's rows when it loads an adapter, from the base's weights and random numbers that \
                      differ between CPUs and GPUs; merge the adapter where it was trained (`merge_and_unload`) \
                      and measure that checkpoint";
        let inside = self.new_b.dot(&found.parts.vt.t());
        let fits = self.new_b.rows().into_iter().zip(inside.rows());
        let fits = fits.into_iter().all(|(row, inside)| {
            let (length, kept) = (row.dot(&row), inside.dot(&inside));
            length > 0.0 && kept >= (1.0 - OUTSIDE) * length
        });
        if !fits {
            return Err(tensors.layout(format!(
                "tensor `{}` doesn't belong to this base's weight and `random_seed`: {advice}",
                tensors.full_key(&layer.key("adamss_newB"))
            )));
        }
        let counts: Vec<usize> = found.rows.iter().map(Vec::len).collect();
        let sizes = self.sizes();
        match counts == sizes {
            true => Ok(found.rows),
            false => Err(tensors.layout(format!(
                "the tensors `{}` have {sizes:?} rows, but the clusters of this base's weight have {counts:?}: {advice}",
                tensors.full_key(&layer.key("adamss_B"))
            ))),
        }
    }
}

impl AdaMss {
    fn rank(&self) -> usize {
        self.clusters.iter().map(|cluster| cluster.a.nrows()).sum()
    }

    /// `A_k newB`, one below the other: `[Σ ρ_k, in_features]`, or one more column with a bias.
    fn projections(&self) -> Array2<f32> {
        let parts: Vec<_> = self.clusters.iter().map(|k| k.a.dot(&self.new_b)).collect();
        let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
        concatenate(Axis(0), &views).expect("all are as wide as `newB`")
    }

    /// Each `B_k`, in the rows of its cluster and the columns of its projection:
    /// `[out_features, Σ ρ_k]`.
    fn scattered(&self) -> Array2<f32> {
        let out: usize = self.clusters.iter().map(|cluster| cluster.rows.len()).sum();
        let mut all = Array2::zeros((out, self.rank()));
        let mut first = 0;
        for cluster in &self.clusters {
            let columns = first..first + cluster.a.nrows();
            for (&row, values) in cluster.rows.iter().zip(cluster.b.rows()) {
                all.slice_mut(s![row, columns.clone()]).assign(&values);
            }
            first = columns.end;
        }
        all
    }
}

/// Rows in ascending order, cluster after cluster.
fn one_by_one(sizes: &[usize]) -> Vec<Vec<usize>> {
    let mut first = 0;
    let mut next = |&size: &usize| {
        first += size;
        (first - size..first).collect()
    };
    sizes.iter().map(&mut next).collect()
}

/// `[W | b]`, or `W` if there's no bias.
fn with_bias(base: &BaseModel, layer: &TargetLinear) -> Result<Array2<f32>, AdapterError> {
    let source = &layer.module.source;
    let matrix = base.full_matrix(&format!("{source}.weight"))?;
    if !layer.bias {
        return Ok(matrix);
    }
    let bias = base.tensor(&layer.module.tensor("bias"))?.to_f32()?;
    let column = Array2::from_shape_vec((bias.len(), 1), bias);
    let column = column.expect("a column has a single width");
    concatenate(Axis(1), &[matrix.view(), column.view()]).map_err(|_| AdapterError::Targets {
        path: base.folder.clone(),
        message: format!("the bias of `{source}` isn't as long as its weight has rows"),
    })
}

impl ModuleAdapter for AdaMss {
    fn form(&self) -> Form<'_> {
        let out: usize = self.clusters.iter().map(|cluster| cluster.rows.len()).sum();
        let (rank, columns) = (self.rank(), self.in_features);
        let bias = (self.new_b.ncols() > columns).then(|| {
            FormTensor::derived("bias", &[out], TensorRole::InPlace, move |module| {
                let change = self.scattered().dot(&self.projections().column(columns));
                let own = module.bias()?.expect("`newB` has a column for it");
                Ok((own + &change).to_vec())
            })
        });
        Form::Linear(LinearForm {
            bias,
            ..LinearForm::low_rank(
                FormTensor::derived("A", &[rank, columns], TensorRole::Term, move |_| {
                    Ok(elements(
                        &self.projections().slice(s![.., ..columns]).to_owned(),
                    ))
                }),
                FormTensor::derived("B", &[out, rank], TensorRole::Term, |_| {
                    Ok(elements(&self.scattered()))
                }),
            )
        })
    }

    fn trainable_params(&self) -> usize {
        let pairs = self.clusters.iter();
        pairs.map(|cluster| cluster.a.len() + cluster.b.len()).sum()
    }
}
