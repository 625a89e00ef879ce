//! AdaMSS: a low-rank pair for each cluster of a weight's rows, on a common projection of the input.
//!
//! | tensor | shape |
//! |---|---|
//! | `adamss_A.{k}` | `[ρ_k, q]` |
//! | `adamss_B.{k}` | `[n_k, ρ_k]` |
//! | `adamss_newB` | `[q, in_features]`, with a bias one column more |
//!
//! `q = min(r, out_features, columns of newB)`; there are `K = min(num_subspaces, out_features)` clusters, cluster `k` of
//! `n_k` rows. Row by row `[ΔW | Δb] = B_k A_k newB`. Which rows a cluster has isn't in the file: PEFT works it out from
//! the base whenever it loads an adapter, and so it's done here (`clusters.rs`). The file tells whether that comes out as
//! it did: `newB` has to span what the base's decomposition gives, and the clusters have to have as many rows as `B`.
//! Where they haven't, the adapter is refused, unless there's a single cluster, or every `B` is 0. With `q` equal to
//! `out_features` the points that are clustered are all equally far apart, and PEFT's own clusters depend on rounding.
//!
//! Fresh, `newB` holds the right singular vectors of `[W | b]`, `A_k` those of its cluster's rows of the left ones, and
//! `B` is 0. Sums are taken in float32.
//!
//! Sources: Zheng et al., AdaMSS, NeurIPS 2025; PEFT, `tuners/adamss/`.

mod clusters;

use ndarray::{Array2, Axis, concatenate, s};

use self::clusters::{LowRank, clusters, low_rank};
use super::components::failed;
use super::form::{Form, LinearForm, Part, Role, elements};
use super::options::{factor, rank, seed};
use super::targets::QUERY_VALUE;
use super::tuner::{Layer, Loading, Tuner};
use super::{AdapterError, AdapterTensors, Effects, Init, ModuleAdapter};
use crate::json_object::JsonObject;
use crate::model::BaseModel;

/// The options.
#[derive(Debug)]
struct Options {
    r: usize,
    num_subspaces: usize,
    subspace_rank: usize,
    seed: u64,
    identity: bool,
    /// Singular values below this share of the largest don't count towards a fresh cluster's rank.
    threshold: Option<f32>,
}

/// The tensors of one layer.
#[derive(Debug)]
struct AdaMss {
    /// `[q, in_features]`, or a column more.
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

/// Reads the adapter.
pub fn load(loading: Loading) -> Result<Effects, AdapterError> {
    let config = loading.config;
    let options = Options::read(config)?;
    let base = loading.base;
    Tuner::open(loading, QUERY_VALUE, None)?
        .adapt(|tensors, layer| AdaMss::read(&options, base, tensors, layer))
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

impl AdaMss {
    fn read(
        options: &Options,
        base: &BaseModel,
        tensors: &mut AdapterTensors,
        layer: &Layer,
    ) -> Result<Self, AdapterError> {
        let columns = layer.in_features + usize::from(layer.bias);
        let q = options.r.min(layer.out_features).min(columns);
        let count = options.num_subspaces.min(layer.out_features);
        if tensors.is_fresh() {
            return Self::fresh(options, base, tensors, layer, q, count);
        }
        let new_b = tensors.matrix(&layer.key("adamss_newB"), [q, columns], Init::Zeros)?;
        let mut pairs = Vec::new();
        for k in 0..count {
            let keys = ["A", "B"].map(|name| layer.key(&format!("adamss_{name}.{k}")));
            // Ranks and rows are the cluster's own.
            let own = tensors
                .shape(&keys[0])
                .and_then(|shape| shape.first().copied());
            let rank = own.unwrap_or(options.subspace_rank);
            let rows = tensors
                .shape(&keys[1])
                .and_then(|shape| shape.first().copied());
            let rows = rows.unwrap_or(layer.out_features);
            let a = tensors.matrix(&keys[0], [rank, q], Init::Zeros)?;
            let b = tensors.matrix(&keys[1], [rows, rank], Init::Zeros)?;
            pairs.push((a, b));
        }
        let sizes: Vec<usize> = pairs.iter().map(|(_, b)| b.nrows()).collect();
        if sizes.iter().sum::<usize>() != layer.out_features {
            return Err(tensors.layout(format!(
                "the tensors `{}` have {} rows together, expected {}, those of the weight",
                tensors.full_key(&layer.key("adamss_B")),
                sizes.iter().sum::<usize>(),
                layer.out_features
            )));
        }
        let does_nothing = pairs
            .iter()
            .all(|(_, b)| b.iter().all(|&value| value == 0.0));
        let rows = match count == 1 || does_nothing {
            true => one_by_one(&sizes),
            false => found_again(options, base, tensors, layer, &new_b, &sizes)?,
        };
        let clusters = pairs.into_iter().zip(rows);
        Ok(Self {
            new_b,
            clusters: clusters
                .map(|((a, b), rows)| Cluster { a, b, rows })
                .collect(),
            in_features: layer.in_features,
        })
    }

    fn fresh(
        options: &Options,
        base: &BaseModel,
        tensors: &mut AdapterTensors,
        layer: &Layer,
        q: usize,
        count: usize,
    ) -> Result<Self, AdapterError> {
        let LowRank { u, vt } = decomposed(options, base, layer, q)?;
        let mut made = Vec::new();
        for (k, rows) in clusters(&u, count).into_iter().enumerate() {
            let own = u.select(Axis(0), &rows);
            // The right singular vectors of the cluster's rows, by its Gram matrix.
            let gram =
                crate::decomposition::svd(&own.t().dot(&own)).map_err(failed(layer.path()))?;
            let largest = gram.s.first().copied().unwrap_or(0.0);
            let counted = match options.threshold {
                Some(share) => gram
                    .s
                    .iter()
                    .filter(|&&value| value > share * largest)
                    .count(),
                None => rows.len(),
            };
            let rank = counted
                .min(rows.len())
                .min(options.subspace_rank)
                .clamp(1, q);
            let init = match options.identity {
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
        Ok(Self {
            new_b: vt,
            clusters: made,
            in_features: layer.in_features,
        })
    }

    fn rank(&self) -> usize {
        self.clusters.iter().map(|cluster| cluster.a.nrows()).sum()
    }

    /// `A_k newB`, one below the other: `[Σ ρ_k, in_features]`, with a bias one column more.
    fn projections(&self) -> Array2<f32> {
        let parts: Vec<_> = self.clusters.iter().map(|k| k.a.dot(&self.new_b)).collect();
        let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
        concatenate(Axis(0), &views).expect("all are as wide as `newB`")
    }

    /// `B_k` in the rows of its cluster and the columns of its projections: `[out_features, Σ ρ_k]`.
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

/// Rows in the order of the clusters.
fn one_by_one(sizes: &[usize]) -> Vec<Vec<usize>> {
    let mut first = 0;
    let mut next = |&size: &usize| {
        first += size;
        (first - size..first).collect()
    };
    sizes.iter().map(&mut next).collect()
}

/// `[W | b]`, decomposed as PEFT does it.
fn decomposed(
    options: &Options,
    base: &BaseModel,
    layer: &Layer,
    q: usize,
) -> Result<LowRank, AdapterError> {
    let source = &layer.module.source;
    let mut matrix = base.matrix(&format!("{source}.weight"))?;
    if layer.bias {
        let bias = base.tensor(&format!("{source}.bias"))?.to_f32()?;
        let column = Array2::from_shape_vec((bias.len(), 1), bias);
        let column = column.expect("a column has a single width");
        matrix = concatenate(Axis(1), &[matrix.view(), column.view()]).map_err(|_| {
            AdapterError::Targets {
                path: base.folder.clone(),
                message: format!("the bias of `{source}` isn't as long as its weight has rows"),
            }
        })?;
    }
    low_rank(&matrix, q, options.seed).map_err(failed(layer.path()))
}

/// The rows of each cluster, worked out from the base and compared with what the file has.
fn found_again(
    options: &Options,
    base: &BaseModel,
    tensors: &AdapterTensors,
    layer: &Layer,
    new_b: &Array2<f32>,
    sizes: &[usize],
) -> Result<Vec<Vec<usize>>, AdapterError> {
    /// Of a unit vector, how much may lie outside the span.
    const OUTSIDE: f32 = 0.02;
    let advice = "PEFT groups a weight's rows anew when it loads an adapter, by the base's weights and numbers that differ \
                  between processors and GPUs; merge the adapter where it was trained (`merge_and_unload`) and measure that \
                  checkpoint";
    let found = decomposed(options, base, layer, new_b.nrows())?;
    let inside = new_b.dot(&found.vt.t());
    let fits = new_b
        .rows()
        .into_iter()
        .zip(inside.rows())
        .all(|(row, inside)| {
            let (length, kept) = (row.dot(&row), inside.dot(&inside));
            length > 0.0 && kept >= (1.0 - OUTSIDE) * length
        });
    if !fits {
        return Err(tensors.layout(format!(
            "tensor `{}` isn't of this base's weight and `random_seed`: {advice}",
            tensors.full_key(&layer.key("adamss_newB"))
        )));
    }
    let rows = clusters(&found.u, sizes.len());
    let counts: Vec<usize> = rows.iter().map(Vec::len).collect();
    match counts == sizes {
        true => Ok(rows),
        false => Err(tensors.layout(format!(
            "the tensors `{}` have {sizes:?} rows, where the clusters of this base's weight have {counts:?}: {advice}",
            tensors.full_key(&layer.key("adamss_B"))
        ))),
    }
}

impl ModuleAdapter for AdaMss {
    fn form(&self) -> Form<'_> {
        let out: usize = self.clusters.iter().map(|cluster| cluster.rows.len()).sum();
        let (rank, columns) = (self.rank(), self.in_features);
        let bias = (self.new_b.ncols() > columns).then(|| {
            Part::derived("bias", &[out], Role::InPlace, move |module| {
                let change = self.scattered().dot(&self.projections().column(columns));
                let own = module.bias()?.expect("`newB` has a column for it");
                Ok((own + &change).to_vec())
            })
        });
        Form::Linear(LinearForm {
            bias,
            ..LinearForm::low_rank(
                Part::derived("A", &[rank, columns], Role::Term, move |_| {
                    Ok(elements(
                        &self.projections().slice(s![.., ..columns]).to_owned(),
                    ))
                }),
                Part::derived("B", &[out, rank], Role::Term, |_| {
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
