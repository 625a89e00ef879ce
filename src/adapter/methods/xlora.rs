//! X-LoRA: a mixture of LoRA adapters, weighted for every token by a classifier.
//!
//! | file | tensors |
//! |---|---|
//! | the mixture's | `base_model.internal_xlora_classifier.layers.{k}.weight`, `.bias` |
//! | each of `adapters`: a folder at its path, next to the mixture's, or in it | LoRA's |
//!
//! Every forward pass consists of two. In the first, the scaling pass, experts are scaled by
//! `scaling_pass_value` (0 by default, which is the base model). The classifier takes the last
//! hidden states of that pass, after the final norm, token by token. It has `xlora_depth` linear
//! layers with ReLU in between. Its outputs after a softmax (`enable_softmax`, divided by
//! `softmax_temperature`) are the experts' shares `σ_e`: one set for all layers, or one for each
//! (`layerwise_scalings`). With `top_k_lora` all but the largest are 0, and `enable_softmax_topk`
//! applies a softmax to those. The second pass computes
//! `y = W x + b + Σ_e σ_e * global_scaling_weight * scaling_e * B_e A_e x`.
//!
//! PEFT doesn't use a cache for it, and runs the whole sequence twice for each token. Both passes
//! are causal, so their values for a position don't change later. Here both passes have their own
//! cache, in one graph, with the same results.
//!
//! PEFT 0.21 omits tensors when it saves a mixture, since it takes `layers.0` for the expert `0`.
//! Such a file lacks its classifier, and is refused.
//!
//! Sources: Buehler and Buehler, arXiv:2402.07148; PEFT, `tuners/xlora/`.

use std::path::{Path, PathBuf};

use ndarray::{Array1, Array2, Axis, concatenate};

use super::lora::{Expert, Pair};
use super::{Class, Method};
use crate::adapter::folder::CONFIG;
use crate::adapter::form::{
    Form, FormTensor, Native, NativeForm, TensorRole, elements, keep_largest,
};
use crate::adapter::toolbox::options::factor;
use crate::adapter::toolbox::tuner::Loading;
use crate::adapter::{AdapterError, AdapterTensors, Effects, Init, ModuleAdapter, SideNetwork};
use crate::arch::{DecoderSpec, Layer};
use crate::graph::{Attr, BeforeLayers, Carried, GraphBuilder, Value};
use crate::json::{ConfigError, JsonObject};

/// The option that names the experts' folders.
const KEY: &str = "adapters";
/// The largest number of the classifier's layers.
const DEEPEST: usize = 64;
/// The largest width of the classifier.
const WIDEST: usize = 1 << 16;
/// The module path of the classifier's layers.
const CLASSIFIER: &str = "base_model.internal_xlora_classifier.layers";

/// The mixture: the classifier, and how its outputs become shares.
#[derive(Debug)]
struct Mixture {
    layers: Vec<LinearLayer>,
    experts: usize,
    /// The number of adapted layers, if each has its own shares.
    layerwise: Option<usize>,
    softmax: bool,
    top_k: Option<usize>,
    softmax_top_k: bool,
    /// Every expert's share in the scaling pass.
    scaling_pass: f32,
}

/// A linear layer of the classifier.
#[derive(Debug)]
struct LinearLayer {
    keys: [String; 2],
    weight: Array2<f32>,
    bias: Array1<f32>,
}

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "XLORA",
    class: Class::Unmergeable,
    variants: "layerwise_scalings, top_k_lora, enable_softmax_topk, scaling_pass_value",
    refused: "experts with variants of LoRA; scaling_pass_value together with top_k_lora",
    load,
};

/// Reads the adapter.
fn load(loading: Loading) -> Result<Effects, AdapterError> {
    let Loading {
        config,
        base,
        tensors,
        ..
    } = loading;
    let mut effects = Effects::default();
    let mut experts = Vec::new();
    for (index, folder) in folders(config)?.iter().enumerate() {
        let seed = tensors.seed().wrapping_add(index as u64 + 1);
        let expert = Expert::load(folder, base, seed, tensors.asked_values())?;
        effects.add_expert(&expert);
        experts.push(expert);
    }
    let modules = base.spec.modules().into_iter();
    let is_adapted = |path: &String| experts.iter().any(|expert| expert.pairs.contains_key(path));
    let adapted: Vec<String> = modules
        .map(|module| module.path)
        .filter(is_adapted)
        .collect();

    let width = base.spec.lm_head.in_features;
    let mixture = Mixture::read(config, tensors, experts.len(), adapted.len(), width)?;
    effects.shared_params = mixture.layers.iter().map(LinearLayer::elements).sum();
    let of_experts: usize = experts.iter().map(Expert::elements).sum();
    match config.flag("use_trainable_adapters", false)? {
        true => effects.shared_params += of_experts,
        false => effects.frozen_params += of_experts,
    }
    let global = factor(config, "global_scaling_weight", 1.0)? as f32;
    for (number, path) in adapted.into_iter().enumerate() {
        let pairs = experts.iter_mut().enumerate();
        let pairs = pairs.filter_map(|(index, expert)| Some((index, expert.pairs.remove(&path)?)));
        let mixed = Mixed {
            pairs: pairs.collect(),
            global,
            number: mixture.layerwise.map(|_| number),
        };
        effects.modules.insert(path, Box::new(mixed));
    }
    effects.unmergeable = Some("mixes its experts differently for every token");
    effects.side_network = Some(Box::new(mixture));
    Ok(effects)
}

/// The folder of the expert whose path in `adapters` is `path`: at that path, next to the mixture's
/// folder, or a subfolder of the mixture's with the path's last segment. Paths are those of the
/// machine that trained it.
fn expert_folder(config: &JsonObject, path: &str) -> Result<PathBuf, ConfigError> {
    let written = Path::new(path);
    let own = config.path().parent().unwrap_or(Path::new("."));
    let own_path = std::path::absolute(own).unwrap_or_else(|_| own.to_owned());
    let siblings = own_path.parent().unwrap_or(&own_path);
    let last = Path::new(written.file_name().unwrap_or_default());
    let places = [
        own.join(written),
        written.to_owned(),
        siblings.join(written),
        siblings.join(last),
        own.join(last),
    ];
    let is_there = |place: &&PathBuf| !path.is_empty() && place.is_dir();
    let is_adapter = |place: &&PathBuf| is_there(place) && place.join(CONFIG).is_file();
    // A folder without a configuration is refused later, with the file's name.
    let found = places
        .iter()
        .find(is_adapter)
        .or(places.iter().find(is_there));
    found.cloned().ok_or_else(|| {
        let folder = own.join(last);
        let reason = format!(
            "the expert `{path}` is neither at that path, nor next to the adapter's folder, nor in it as `{}`: put it at `{}`",
            last.display(),
            folder.display()
        );
        config.refused(KEY, &reason)
    })
}

/// The folders of the experts, in the order of the classifier's outputs. PEFT gives the `i`-th
/// entry of `adapters` the name `i`, and orders the outputs by the entries' own keys, so the keys
/// have to be these numbers.
///
/// # Errors
/// If they aren't, or a folder is missing.
pub fn folders(config: &JsonObject) -> Result<Vec<PathBuf>, ConfigError> {
    let expected = "an object with the experts' folders under the names `0`, `1` and so on";
    let Some(object) = config.optional_object(KEY)? else {
        return Err(config.missing(KEY, expected));
    };
    let entries: Vec<_> = object.json().as_object().into_iter().flatten().collect();
    let mut found = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for (name, _) in &entries {
        let place = name
            .parse()
            .ok()
            .filter(|&place: &usize| place < entries.len());
        let entry = place.filter(|place| place.to_string() == **name && seen.insert(*place));
        let path = entry.map(|place| entries[place].1.as_str());
        let path = path.ok_or_else(|| config.wrong(KEY, expected))?;
        let path = path.ok_or_else(|| object.wrong(name, "a path"))?;
        found.push(expert_folder(config, path)?);
    }
    match found.is_empty() {
        true => Err(config.wrong(KEY, expected)),
        false => Ok(found),
    }
}

impl Mixture {
    fn read(
        config: &JsonObject,
        tensors: &mut AdapterTensors,
        experts: usize,
        adapted: usize,
        width: usize,
    ) -> Result<Self, AdapterError> {
        // PEFT's default is 4096, and it fails if the base's size differs.
        let given = config.optional_size("hidden_size")?;
        if given.is_some_and(|given| given != width) {
            let expected = format!("{width}, the width of the base's last hidden states");
            return Err(config.wrong("hidden_size", &expected).into());
        }
        let layerwise = config.flag("layerwise_scalings", false)?.then_some(adapted);
        let top_k = config.optional_size("top_k_lora")?;
        if top_k.is_some_and(|count| count > experts) {
            let expected = format!("at most {experts}, the number of experts");
            return Err(config.wrong("top_k_lora", &expected).into());
        }
        let temperature = factor(config, "softmax_temperature", 1.0)? as f32;
        if temperature <= 0.0 {
            let expected = "a positive number that float32 holds";
            return Err(config.wrong("softmax_temperature", expected).into());
        }
        let softmax_top_k = config.flag("enable_softmax_topk", false)?;
        let mut scaling_pass = factor(config, "scaling_pass_value", 0.0)? as f32;
        if scaling_pass != 0.0 {
            if top_k.is_some_and(|count| count < experts) {
                let reason =
                    "with `top_k_lora`, PEFT keeps whichever it finds first of equal shares";
                return Err(config.refused("scaling_pass_value", reason).into());
            }
            if softmax_top_k {
                scaling_pass = 1.0 / experts as f32;
            }
        }
        let softmax = config.flag("enable_softmax", true)?;
        let mut layers = classifier(config, tensors, width, experts * layerwise.unwrap_or(1))?;
        if let Some(last) = layers.last_mut().filter(|_| softmax) {
            // Divided here, so that the graph is the same for every temperature.
            last.weight /= temperature;
            last.bias /= temperature;
        }
        Ok(Self {
            layers,
            experts,
            layerwise,
            softmax,
            top_k: top_k.filter(|&count| count < experts),
            softmax_top_k,
            scaling_pass,
        })
    }

    /// The shares in the scaling pass, equal for all tokens: `[1, 1, E]`, or `[1, 1, layers, E]`.
    fn first_shares(&self, graph: &mut GraphBuilder) -> Value {
        let mut shape = vec![1, 1, self.experts];
        if let Some(layers) = self.layerwise {
            shape.insert(2, layers);
        }
        graph.filled(
            "/scaling_pass/xlora/scaling_pass",
            &shape,
            self.scaling_pass,
        )
    }

    /// Adds the classifier of `hidden`, `[batch, sequence, hidden_size]`; returns the shares,
    /// `[batch, sequence, E]` or `[batch, sequence, layers, E]`.
    fn shares(&self, graph: &mut GraphBuilder, hidden: &Value) -> Value {
        let mut x = hidden.clone();
        for (index, layer) in self.layers.iter().enumerate() {
            let name = format!("/xlora/layers.{index}");
            if index > 0 {
                x = graph.op("Relu", &format!("{name}/Relu"), &[&x], &[]);
            }
            let mut input = |key: &String, shape: &[usize]| {
                let dims: Vec<_> = shape.iter().map(|&size| size.into()).collect();
                graph.input(key, &dims)
            };
            let weight = input(&layer.keys[0], layer.weight.shape());
            let bias = input(&layer.keys[1], layer.bias.shape());
            x = graph.matmul_transposed(&format!("{name}/MatMul"), &x, &weight);
            x = graph.add(&format!("{name}/Add"), &x, &bias);
        }
        // ONNX Runtime fuses a softmax right after an addition into `BiasSoftmax`, which needs
        // cuDNN on a GPU.
        let experts = self.experts as i64;
        x = match self.layerwise {
            Some(layers) => {
                let shape = [0, 0, layers as i64, experts];
                graph.reshape("/xlora/layerwise", &x, &shape)
            }
            None => graph.reshape("/xlora/shares", &x, &[0, 0, experts]),
        };
        let last = [("axis", Attr::Int(-1))];
        if self.softmax {
            x = graph.op("Softmax", "/xlora/Softmax", &[&x], &last);
        }
        if let Some(count) = self.top_k {
            x = keep_largest(graph, "/xlora/kept", &x, count, 0.0);
        }
        if self.softmax_top_k {
            // Shares of 0 are excluded. A first softmax may round to 0, too.
            let zero = graph.filled("/xlora/zero", &[], 0.0);
            let lowest = graph.filled("/xlora/lowest", &[], f32::NEG_INFINITY);
            let none = graph.is_zero("/xlora/none", &x);
            let kept = graph.op("Where", "/xlora/some", &[&none, &lowest, &x], &[]);
            let kept = graph.op("Softmax", "/xlora/kept/Softmax", &[&kept], &last);
            x = graph.op("Where", "/xlora/shares/some", &[&none, &zero, &kept], &[]);
        }
        x
    }
}

impl SideNetwork for Mixture {
    fn tensors(&self) -> Vec<FormTensor<'_>> {
        let tensors = self.layers.iter().flat_map(|layer| {
            let [weight, bias] = &layer.keys;
            [
                FormTensor::stored(weight, &layer.weight, TensorRole::Map),
                FormTensor::stored(bias, &layer.bias, TensorRole::Map),
            ]
        });
        tensors.collect()
    }

    fn layers<'a>(&'a self, spec: &'a DecoderSpec) -> &'a [Layer] {
        &spec.layers
    }

    fn repeats_decoder(&self) -> bool {
        true
    }

    /// Adds the scaling pass, with experts unless their shares are 0, and the classifier.
    fn before_layers(&self, decoder: &mut BeforeLayers) -> Carried {
        let first = (self.scaling_pass != 0.0).then(|| self.first_shares(decoder.graph));
        let hidden = decoder.layers("/scaling_pass", first);
        Carried {
            token_gate: Some(self.shares(decoder.graph, &hidden)),
            state: None,
        }
    }
}

/// Reads the classifier's layers, from `width` to `outputs`. PEFT numbers activations and dropout
/// as well.
fn classifier(
    config: &JsonObject,
    tensors: &mut AdapterTensors,
    width: usize,
    outputs: usize,
) -> Result<Vec<LinearLayer>, AdapterError> {
    let depth = config
        .optional_size_up_to("xlora_depth", DEEPEST)?
        .unwrap_or(1);
    let inner = config
        .optional_size_up_to("xlora_size", WIDEST)?
        .unwrap_or(2048);
    let dropout = factor(config, "xlora_dropout_p", 0.2)?;
    let step = if dropout > 0.0 { 3 } else { 2 };
    (0..depth)
        .map(|index| {
            let columns = if index == 0 { width } else { inner };
            let rows = if index + 1 == depth { outputs } else { inner };
            let keys = ["weight", "bias"].map(|name| format!("{CLASSIFIER}.{}.{name}", index * step));
            if !tensors.is_fresh() && !tensors.has(&keys[0]) {
                return Err(tensors.layout(format!(
                    "tensor `{}` is missing: PEFT omits parts of the classifier when it saves an X-LoRA adapter; \
                    save its whole state dict",
                    keys[0]
                )));
            }
            let init = Init::linear_default(columns);
            Ok(LinearLayer {
                weight: tensors.matrix(&keys[0], [rows, columns], init)?,
                bias: tensors.vector(&keys[1], rows, init)?,
                keys,
            })
        })
        .collect()
}

impl LinearLayer {
    fn elements(&self) -> usize {
        self.weight.len() + self.bias.len()
    }
}

/// The experts of one layer.
#[derive(Debug)]
struct Mixed {
    /// Each pair with the index of its expert.
    pairs: Vec<(usize, Pair)>,
    global: f32,
    /// The layer's index among the adapted ones, if each has its own shares.
    number: Option<usize>,
}

impl ModuleAdapter for Mixed {
    fn form(&self) -> Form<'_> {
        let rank: usize = self.pairs.iter().map(|(_, pair)| pair.a.nrows()).sum();
        let (rows, columns) = (self.pairs[0].1.b.nrows(), self.pairs[0].1.a.ncols());
        let tensors = vec![
            FormTensor::derived("A", &[rank, columns], TensorRole::Term, |_| {
                let all = self.pairs.iter().flat_map(|(_, pair)| elements(&pair.a));
                Ok(all.collect())
            }),
            FormTensor::derived("B", &[rows, rank], TensorRole::Term, |_| {
                let scaled = |(_, pair): &(usize, Pair)| &pair.b * (pair.scaling * self.global);
                let scaled: Vec<Array2<f32>> = self.pairs.iter().map(scaled).collect();
                let views: Vec<_> = scaled.iter().map(|b| b.view()).collect();
                let all = concatenate(Axis(1), &views).expect("all are of one layer");
                Ok(elements(&all))
            }),
        ];
        // The expert of each row of `A`.
        let owners = self.pairs.iter();
        let owners = owners.flat_map(|(index, pair)| vec![*index as i64; pair.a.nrows()]);
        let owners: Vec<i64> = owners.collect();
        Form::Native(NativeForm::new(tensors, move |site| {
            let [a, b] = [0, 1].map(|index| site.inputs[index].clone());
            let mut shares = site.token_gate();
            if let Some(number) = self.number {
                let name = site.name("number");
                let number = site.graph.constant_i64(&name, &[number as i64], true);
                let name = site.name("own_shares");
                shares = site.graph.gather(&name, &shares, &number, 2);
            }
            let name = site.name("owners");
            let owners = site.graph.constant_i64(&name, &owners, false);
            let name = site.name("shares");
            let shares = site.graph.gather(&name, &shares, &owners, -1);
            let x = site.x.clone();
            let inner = site.matmul_transposed("A/MatMul", &x, &a);
            let inner = site.op("Mul", "shared", &[&inner, &shares]);
            let delta = site.matmul_transposed("B/MatMul", &inner, &b);
            site.base_plus(&delta)
        }))
    }

    fn native(&self) -> Native<'_> {
        Native::Reduced
    }

    /// Experts are counted with the classifier, by [`load`].
    fn trainable_params(&self) -> usize {
        0
    }
}
