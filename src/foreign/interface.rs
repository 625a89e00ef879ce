//! How a graph is fed, from the names, types and shapes of its inputs and outputs.

use std::collections::{BTreeMap, BTreeSet};

use super::ForeignError;
use super::config::FolderConfig;
use super::graph_file::{GraphFile, Value};
use super::names::{self, Half};
use super::weights;
use crate::graph::proto::{Node, dtype, element};
use crate::prepared::{
    CacheTensor, CacheUse, ForeignGraph, ForeignGraphs, GraphFacts, IntegerInput, LogitsOf,
};
use crate::weights::Dtype;

/// ONNX Runtime's attention that can write into the buffers that it reads from.
const GROUP_QUERY: &str = "GroupQueryAttention";

/// Operators that compute a whole attention.
const ATTENTIONS: [&str; 4] = [
    GROUP_QUERY,
    "MultiHeadAttention",
    "PagedAttention",
    "Attention",
];

/// What another input of such a name needs.
const NO_INTEGERS: &str = "something else than the integers `[batch, tokens]` that can be given";

/// Where [`GROUP_QUERY`] takes the cached keys and values, and where it gives the new ones.
const GROUP_QUERY_PLACES: [(usize, usize); 2] = [(3, 1), (4, 2)];

/// The graphs of a folder, and the size of the vocabulary.
#[derive(Debug)]
pub struct Found {
    pub graphs: ForeignGraphs,
    pub vocab_size: usize,
}

/// Which layers' keys and values a graph takes or gives, by their names.
type Cache = BTreeMap<(usize, Half), Value>;

/// One graph: how it's fed, and what that was read from.
struct OneGraph<'a> {
    file: &'a GraphFile,
    fed: ForeignGraph,
    ids: Value,
    logits: Value,
    past: Cache,
    present: Cache,
}

/// Reads how the graph `prompt` is fed, and `step` where decode steps have one of their own.
///
/// # Errors
/// If one has an input that can't be fed, or lacks an output.
pub fn read(
    prompt: &GraphFile,
    step: Option<&GraphFile>,
    config: &FolderConfig,
) -> Result<Found, ForeignError> {
    let mut prompt = OneGraph::read(prompt, config)?;
    let mut step = step.map(|step| OneGraph::read(step, config)).transpose()?;
    if let Some(length) = prompt.ids.dims[1] {
        let needs = format!("prompts of exactly {length} tokens; export it with an open length");
        return Err(refused(prompt.file, &prompt.ids, needs));
    }
    let stepping = step.as_ref().unwrap_or(&prompt);
    if stepping.past.is_empty() {
        return Err(ForeignError::NoCache(stepping.file.path.clone()));
    }
    for place in stepping.past.keys() {
        if !prompt.present.contains_key(place) {
            return Err(ForeignError::NoOutput {
                graph: prompt.file.path.clone(),
                output: stepping.past[place].name.clone(),
                what: "which the graph of decode steps takes",
            });
        }
    }
    let mut cache = Vec::new();
    let mut cache_dtype = Dtype::Float32;
    for (place, taken) in &stepping.past {
        cache.push(stepping.cache_tensor(taken, &stepping.present[place], config)?);
        cache_dtype = match dtype(taken.element) {
            Some(dtype) => dtype,
            None => {
                let needs = "a cache of another type than float".to_owned();
                return Err(refused(stepping.file, taken, needs));
            }
        };
    }
    let shares = step.is_none() && config.shares_buffers != Some(false) && prompt.can_share();
    let mut fixed = stepping
        .past
        .values()
        .filter(|taken| taken.dims[2].is_some());
    if let (false, Some(fixed)) = (shares, fixed.next()) {
        let needs = format!("a cache of fixed length, which only `{GROUP_QUERY}` can be given");
        return Err(refused(stepping.file, fixed, needs));
    }
    let vocab_size = prompt.logits.dims[2].or(config.vocab_size);
    let vocab_size = vocab_size.ok_or_else(|| ForeignError::OpenSize {
        graph: prompt.file.path.clone(),
        tensor: prompt.logits.name.clone(),
        what: "the last dimension",
        key: "`vocab_size`",
    })?;
    let facts = GraphFacts {
        exporter: config
            .exporter
            .clone()
            .unwrap_or_else(|| prompt.file.producer.clone()),
        opset: prompt.file.opset,
        sessions: 1 + usize::from(step.is_some()),
        logits: prompt.fed.logits_of,
        cache: if shares {
            CacheUse::Shared
        } else {
            CacheUse::Copied
        },
        attention_mask: stepping.fed.mask.is_some(),
        position_ids: stepping.fed.positions.is_some(),
        attention: attention(stepping.file),
        quantized_bits: weights::size(stepping.file).quantized_bits,
    };
    let batch = stepping.ids.dims[0].or(prompt.ids.dims[0]);
    let places: Vec<(usize, Half)> = stepping.past.keys().copied().collect();
    prompt.give(&places);
    if let Some(step) = &mut step {
        step.give(&places);
    }
    Ok(Found {
        graphs: ForeignGraphs {
            facts,
            prompt: prompt.fed,
            step: step.map(|step| step.fed),
            cache,
            cache_dtype,
            batch,
        },
        vocab_size,
    })
}

impl<'a> OneGraph<'a> {
    fn read(file: &'a GraphFile, config: &FolderConfig) -> Result<Self, ForeignError> {
        let names = &config.names;
        let (mut past, mut present) = (Cache::new(), Cache::new());
        let (mut ids, mut mask, mut positions) = (None, None, None);
        for value in file.inputs() {
            if value.name == names.ids {
                ids = Some((integers(file, &value)?, value));
            } else if value.name == names.mask {
                mask = Some(integers(file, &value)?);
            } else if value.name == names.positions {
                positions = Some(integers(file, &value)?);
            } else if let Some(place) = names::place(&value.name, &names.past) {
                past.insert(place, value);
            } else {
                return Err(refused(file, &value, names::needs(&value.name)));
            }
        }
        let mut logits = None;
        for value in file.outputs() {
            if value.name == names.logits {
                logits = Some(value);
            } else if let Some(place) = names::place(&value.name, &names.present) {
                present.insert(place, value);
            }
        }
        check_halves(file, &past, &present)?;
        let (ids_fed, ids) = ids.ok_or_else(|| ForeignError::NoInput {
            graph: file.path.clone(),
            input: names.ids.clone(),
            what: "the tokens",
        })?;
        let logits = logits.ok_or_else(|| ForeignError::NoOutput {
            graph: file.path.clone(),
            output: names.logits.clone(),
            what: "the logits",
        })?;
        let (Some(logits_dtype), 3) = (dtype(logits.element), logits.dims.len()) else {
            return Err(ForeignError::Output {
                graph: file.path.clone(),
                kind: logits.kind(),
                output: logits.name,
                expected: "float [batch, tokens, vocabulary]",
            });
        };
        let fed = ForeignGraph {
            file: file.path.clone(),
            ids: ids_fed,
            mask,
            positions,
            past: past.values().map(|value| value.name.clone()).collect(),
            present: Vec::new(),
            logits_of: match logits.dims[1] {
                Some(1) => LogitsOf::LastPosition,
                _ => LogitsOf::AllPositions,
            },
            logits: logits.name.clone(),
            logits_dtype,
        };
        Ok(Self {
            file,
            fed,
            ids,
            logits,
            past,
            present,
        })
    }

    /// Lists the outputs that continue the cache at `places`.
    fn give(&mut self, places: &[(usize, Half)]) {
        let names = places.iter().map(|place| self.present[place].name.clone());
        self.fed.present = names.collect();
    }

    /// The shape of the keys or values that it takes as `taken` and gives as `given`.
    fn cache_tensor(
        &self,
        taken: &Value,
        given: &Value,
        config: &FolderConfig,
    ) -> Result<CacheTensor, ForeignError> {
        if taken.dims.len() != 4 {
            let needs = "another shape than `[batch, heads, length, width]`".to_owned();
            return Err(refused(self.file, taken, needs));
        }
        let of_both = |axis: usize| taken.dims[axis].or(given.dims.get(axis).copied().flatten());
        let open = |what, key| ForeignError::OpenSize {
            graph: self.file.path.clone(),
            tensor: taken.name.clone(),
            what,
            key,
        };
        let heads = of_both(1).or(config.kv_heads);
        let width = of_both(3).or(config.head_size);
        Ok(CacheTensor {
            heads: heads.ok_or_else(|| open("the number of heads", "`num_key_value_heads`"))?,
            length: taken.dims[2],
            width: width.ok_or_else(|| open("the width of a head", "`head_size`"))?,
        })
    }

    /// Whether each key and value goes straight into an attention that can update it in place, and
    /// comes straight out of it.
    fn can_share(&self) -> bool {
        let mut users: BTreeMap<&str, Vec<&Node>> = BTreeMap::new();
        for node in &self.file.graph.node {
            for input in node.input.iter().collect::<BTreeSet<_>>() {
                users.entry(input).or_default().push(node);
            }
        }
        self.past.iter().all(|(place, past)| {
            let present = &self.present[place];
            let users = users.get(past.name.as_str()).map_or(&[][..], Vec::as_slice);
            let is_updated = |node: &Node| {
                node.op_type == GROUP_QUERY
                    && GROUP_QUERY_PLACES.iter().any(|&(taken, given)| {
                        node.input.get(taken) == Some(&past.name)
                            && node.output.get(given) == Some(&present.name)
                    })
            };
            matches!(users, [only] if is_updated(only))
        })
    }
}

/// Checks that each layer has keys and values, and that what's taken is given again.
fn check_halves(file: &GraphFile, past: &Cache, present: &Cache) -> Result<(), ForeignError> {
    for (place, value) in past {
        let (layer, half) = *place;
        let other = match half {
            Half::Key => Half::Value,
            Half::Value => Half::Key,
        };
        let missing = if !past.contains_key(&(layer, other)) {
            "the other half of the layer's cache, which the graph doesn't take"
        } else if !present.contains_key(place) {
            "an output that continues it, which the graph doesn't have"
        } else {
            continue;
        };
        return Err(refused(file, value, missing.to_owned()));
    }
    Ok(())
}

fn refused(file: &GraphFile, value: &Value, needs: String) -> ForeignError {
    ForeignError::Input {
        graph: file.path.clone(),
        input: value.name.clone(),
        kind: value.kind(),
        needs,
    }
}

/// An input of integers, one for each token of each sequence.
fn integers(file: &GraphFile, value: &Value) -> Result<IntegerInput, ForeignError> {
    let is_narrow = match value.element {
        element::INT64 => false,
        element::INT32 => true,
        _ => return Err(refused(file, value, NO_INTEGERS.to_owned())),
    };
    if value.dims.len() != 2 {
        return Err(refused(file, value, NO_INTEGERS.to_owned()));
    }
    Ok(IntegerInput {
        name: value.name.clone(),
        is_narrow,
    })
}

/// The operator of attention.
fn attention(file: &GraphFile) -> Option<String> {
    let operators: BTreeSet<&str> = file
        .graph
        .node
        .iter()
        .map(|node| node.op_type.as_str())
        .collect();
    let found = ATTENTIONS.iter().find(|name| operators.contains(**name));
    found.map(|name| (*name).to_owned())
}
