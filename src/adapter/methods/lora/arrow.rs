//! Arrow: an untrained router over separately trained LoRA adapters.
//!
//! Every expert `e` of a layer has a prototype `p_e`, the first right singular vector of `B_e A_e`.
//! A token `x` has the similarity `|p_e · x|` to each. The `top_k` largest similarities, divided by
//! `router_temperature`, give the coefficients `c_e` by a softmax, and
//! `y = W x + b + Σ_e c_e scaling_e B_e A_e x`. With `use_gks` the means of the general adapters'
//! `A` and `B` are first subtracted from every expert's.
//!
//! | file | tensors |
//! |---|---|
//! | the router's | `lora_A.weight`, `lora_B.weight`, which PEFT saves but doesn't use |
//! | `task_0/`, `task_1/`, … and `gks_0/`, …, in the router's folder or in its parent | LoRA's |
//!
//! PEFT computes prototypes by 15 power iterations from a vector drawn with `rng_seed`, and so does
//! this. Without a seed, which PEFT draws at random, it's 0 here. If the first two singular values
//! are close, 15 iterations don't converge to the vector.
//!
//! Sources: Ostapenko et al., arXiv:2405.11157; PEFT, `tuners/lora/arrow.py`.

use ndarray::{Array1, Array2, Axis, concatenate};

use super::arrow_config::{ArrowConfig, KEY};
use super::config::LoraConfig;
use super::expert::{Expert, Pair, folder_below};
use crate::adapter::form::{
    Form, FormTensor, Native, NativeForm, NativeSite, TensorRole, elements,
};
use crate::adapter::toolbox::tuner::{TargetModule, not_adaptable, target_module};
use crate::adapter::{AdapterError, AdapterTensors, Effects, Init, ModuleAdapter};
use crate::arch::Module;
use crate::graph::{Attr, Value};
use crate::json::{ConfigError, JsonObject};
use crate::model::BaseModel;
use crate::random::TorchGenerator;

/// The folders of the adapters that the configuration names.
///
/// # Errors
/// If the configuration or one of its names is wrong.
pub fn folders(config: &JsonObject) -> Result<Vec<std::path::PathBuf>, ConfigError> {
    let Some(arrow) = ArrowConfig::read(config)? else {
        return Ok(Vec::new());
    };
    let names = arrow.tasks.iter().map(|name| ("task_adapter_names", name));
    let names = names.chain(arrow.general.iter().map(|name| ("gks_adapter_names", name)));
    names
        .map(|(key, name)| expert_folder(config, key, name))
        .collect()
}

/// `<router>/<name>`, or `<router>/../<name>`, where PEFT saves a model's other adapters.
fn expert_folder(
    config: &JsonObject,
    key: &str,
    name: &str,
) -> Result<std::path::PathBuf, ConfigError> {
    let key = format!("{KEY}.{key}");
    let inside = folder_below(config, &key, name)?;
    let own = config.path().parent();
    let sibling = own.and_then(|own| {
        std::path::absolute(own)
            .ok()?
            .parent()
            .map(|p| p.join(name))
    });
    match sibling {
        Some(sibling) if !inside.is_dir() && sibling.is_dir() => Ok(sibling),
        _ if inside.is_dir() => Ok(inside),
        _ => {
            let reason = format!(
                "there's no folder `{name}` with that adapter in the router's folder or in its parent"
            );
            Err(config.refused(&key, &reason))
        }
    }
}

/// All experts, before their pairs are given to the layers' routers.
#[derive(Debug)]
pub struct Experts {
    arrow: ArrowConfig,
    tasks: Vec<Expert>,
    general: Vec<Expert>,
}

impl Experts {
    /// Reads the experts.
    ///
    /// # Errors
    /// If an expert is missing, or isn't a plain LoRA adapter.
    pub fn load(
        arrow: ArrowConfig,
        config: &JsonObject,
        base: &BaseModel,
        tensors: &AdapterTensors,
        effects: &mut Effects,
    ) -> Result<Self, AdapterError> {
        let mut seed = tensors.seed();
        let mut load = |key: &str, names: &[String]| {
            let load = |name: &String| {
                seed = seed.wrapping_add(1);
                let folder = expert_folder(config, key, name)?;
                let expert = Expert::load(&folder, base, seed, tensors.asked_values())?;
                effects.add_expert(&expert);
                Ok(expert)
            };
            names
                .iter()
                .map(load)
                .collect::<Result<Vec<_>, AdapterError>>()
        };
        Ok(Self {
            tasks: load("task_adapter_names", &arrow.tasks)?,
            general: load("gks_adapter_names", &arrow.general)?,
            arrow,
        })
    }

    /// The router of `layer`, and its experts' parameters there, which PEFT counts and doesn't
    /// train.
    ///
    /// # Errors
    /// If the module isn't a linear layer, an expert doesn't adapt it with the router's rank, or
    /// the router's own tensors don't fit.
    pub fn of(
        &self,
        config: &JsonObject,
        lora: &LoraConfig,
        base: &BaseModel,
        tensors: &mut AdapterTensors,
        module: &Module,
    ) -> Result<(Box<dyn ModuleAdapter>, usize), AdapterError> {
        let Some(TargetModule::Linear(layer)) = target_module(base, module) else {
            return Err(not_adaptable(config, module, "linear layers"));
        };
        let (r, _) = lora.rank_and_scaling(config, layer.path())?;
        let mut trainable = 0;
        for (name, shape, init) in [
            (
                "lora_A.weight",
                [r, layer.in_features],
                Init::linear_default(layer.in_features),
            ),
            ("lora_B.weight", [layer.out_features, r], Init::Zeros),
        ] {
            trainable += tensors.matrix(&layer.key(name), shape, init)?.len();
        }
        let pairs = |experts: &[Expert]| {
            let pair = |expert: &Expert| match expert.pairs.get(layer.path()) {
                Some(pair) if pair.a.nrows() == r => Ok(pair.clone()),
                found => Err(AdapterError::Targets {
                    path: expert.config.path().to_owned(),
                    message: match found {
                        Some(pair) => format!(
                            "`{}` has rank {} in this adapter, expected {r}, the router's",
                            layer.path(),
                            pair.a.nrows()
                        ),
                        None => format!(
                            "`target_modules` leaves out `{}`, which the router targets",
                            layer.path()
                        ),
                    },
                }),
            };
            experts.iter().map(pair).collect::<Result<Vec<Pair>, _>>()
        };
        let (mut tasks, general) = (pairs(&self.tasks)?, pairs(&self.general)?);
        let frozen = tasks.iter().chain(&general).map(Pair::elements).sum();
        if !general.is_empty() {
            let count = general.len() as f32;
            let mean = |of: fn(&Pair) -> &Array2<f32>| {
                let first = Array2::zeros(of(&general[0]).raw_dim());
                general.iter().fold(first, |sum, pair| sum + of(pair)) / count
            };
            let (a, b) = (mean(|pair| &pair.a), mean(|pair| &pair.b));
            for task in &mut tasks {
                task.a -= &a;
                task.b -= &b;
            }
        }
        let router = Arrow {
            experts: tasks,
            top_k: self.arrow.top_k,
            temperature: self.arrow.temperature,
            seed: self.arrow.seed,
            trainable,
        };
        Ok((Box::new(router), frozen))
    }

    /// Checks that experts adapt no modules except the router's `targets`, as PEFT does.
    ///
    /// # Errors
    /// If an expert adapts another module.
    pub fn check_targets(&self, targets: &[Module]) -> Result<(), AdapterError> {
        let is_target = |path: &str| targets.iter().any(|module| module.path == path);
        for expert in self.tasks.iter().chain(&self.general) {
            let mut paths = expert.pairs.keys();
            if let Some(other) = paths.find(|path| !is_target(path)) {
                return Err(AdapterError::Targets {
                    path: expert.config.path().to_owned(),
                    message: format!(
                        "`target_modules` selects `{other}`, which the router doesn't target"
                    ),
                });
            }
        }
        Ok(())
    }
}

/// The router of one layer.
#[derive(Debug)]
pub struct Arrow {
    experts: Vec<Pair>,
    top_k: usize,
    temperature: f32,
    seed: u64,
    trainable: usize,
}

impl ModuleAdapter for Arrow {
    fn form(&self) -> Form<'_> {
        let (count, first) = (self.experts.len(), &self.experts[0]);
        let (r, columns) = first.a.dim();
        let rows = first.b.nrows();
        let tensors = vec![
            FormTensor::derived(
                "prototypes",
                &[count, columns],
                TensorRole::Map,
                move |_| {
                    let vectors = self.experts.iter();
                    let vectors = vectors.flat_map(|pair| prototype(pair, self.seed).into_iter());
                    Ok(vectors.map(|value| value / self.temperature).collect())
                },
            ),
            FormTensor::derived("A", &[count * r, columns], TensorRole::Term, |_| {
                Ok(self
                    .experts
                    .iter()
                    .flat_map(|pair| elements(&pair.a))
                    .collect())
            }),
            FormTensor::derived("B", &[rows, count * r], TensorRole::Term, |_| {
                let scaled: Vec<_> = self
                    .experts
                    .iter()
                    .map(|pair| &pair.b * pair.scaling)
                    .collect();
                let views: Vec<_> = scaled.iter().map(|b| b.view()).collect();
                let all = concatenate(Axis(1), &views).expect("all have the router's rank");
                Ok(elements(&all))
            }),
        ];
        Form::Native(NativeForm::new(tensors, move |site| {
            let [prototypes, a, b] = [0, 1, 2].map(|index| site.inputs[index].clone());
            let x = site.x.clone();
            let products = site.matmul_transposed("prototypes/MatMul", &x, &prototypes);
            let similarity = site.op("Abs", "similarity", &[&products]);
            let shares = self.shares(site, &similarity);
            let inner = site.matmul_transposed("A/MatMul", &x, &a);
            let inner = site.weigh_blocks("weighed", &inner, &shares, r);
            let delta = site.matmul_transposed("B/MatMul", &inner, &b);
            site.base_plus(&delta)
        }))
    }

    fn native(&self) -> Native<'_> {
        Native::Reduced
    }

    fn trainable_params(&self) -> usize {
        self.trainable
    }
}

impl Arrow {
    /// The experts' coefficients from `|p_e · x| / router_temperature`, `[batch, sequence, E]`: 0
    /// except for the `top_k` largest.
    fn shares(&self, site: &mut NativeSite, similarity: &Value) -> Value {
        let mut scores = similarity.clone();
        if self.top_k < self.experts.len() {
            scores = site.keep_largest("kept", similarity, self.top_k, f32::NEG_INFINITY);
        }
        let name = site.name("shares");
        site.graph
            .op("Softmax", &name, &[&scores], &[("axis", Attr::Int(-1))])
    }
}

/// The first right singular vector of `B A`, `[in_features]`, as approximated by 15 power
/// iterations.
fn prototype(pair: &Pair, seed: u64) -> Array1<f32> {
    const ITERATIONS: usize = 15;
    const EPSILON: f32 = 1e-8;
    let normed = |v: Array1<f32>| {
        let norm = v.dot(&v).sqrt();
        v / (norm + EPSILON)
    };
    let squared = pair.b.t().dot(&pair.b);
    let start = TorchGenerator::new(seed).normal(pair.a.ncols(), 1.0);
    let step = |v: Array1<f32>, _| normed(pair.a.t().dot(&squared.dot(&pair.a.dot(&v))));
    (0..ITERATIONS).fold(normed(start.into()), step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn a_prototype_is_the_direction_that_is_stretched_most() {
        let pair = Pair {
            a: array![[3.0, 4.0, 0.0], [0.0, 0.0, 1.0]],
            b: array![[2.0, 0.0], [0.0, 0.5]],
            scaling: 1.0,
        };
        let found = prototype(&pair, 7);
        let expected = array![0.6, 0.8, 0.0];
        let sign = found[0].signum();
        assert!(
            (found * sign - expected)
                .iter()
                .all(|d: &f32| d.abs() < 1e-5)
        );
    }

    #[test]
    fn a_fresh_expert_has_no_direction() {
        let pair = Pair {
            a: array![[1.0, 2.0]],
            b: array![[0.0]],
            scaling: 1.0,
        };
        assert_eq!(prototype(&pair, 0), array![0.0, 0.0]);
    }
}
