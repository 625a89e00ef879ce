//! Several adapters over one unmerged graph, each of which can be bound to it.
//!
//! At each module, the graph has the form of the adapter with the most tensors there. The others'
//! forms must be parts of it: LoRA is a part of DoRA, and no adapter is a part of any. What an
//! adapter lacks has no effect ([`neutral`](super::neutral)).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use thiserror::Error;

use super::form::{Delta, Form, FormTensor, InputStage, LinearForm, Naming, OutputStage};
use super::{Adapter, Prompt, Replacement};
use crate::graph::{
    AbsorbedChange, Adaptation, AttentionPlace, AttentionSite, BeforeLayers, Carried,
    EmbeddingSite, ExpertSite, GraphBuilder, LinearSite, Value,
};

/// An adapter that can't share a graph with others, or can't be an input of one at all.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
#[non_exhaustive]
pub enum SetError {
    #[error("{peft_type} can't be kept beside a portable graph: {reason}")]
    Refused {
        peft_type: String,
        reason: &'static str,
    },
    #[error(
        "`{one}` and `{other}` don't fit one graph: {reason}; write a portable folder for each"
    )]
    Apart {
        one: String,
        other: String,
        reason: String,
    },
}

/// Adapters over one graph.
pub struct AdapterSet<'a> {
    adapters: Vec<&'a Adapter>,
    /// For each adapted module, the adapter whose form the graph has.
    leads: BTreeMap<String, &'a Adapter>,
}

impl fmt::Debug for AdapterSet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(
                self.leads
                    .iter()
                    .map(|(path, lead)| (path, &lead.peft_type)),
            )
            .finish()
    }
}

impl<'a> AdapterSet<'a> {
    /// Puts `adapters` together; each has a name, for messages.
    ///
    /// # Errors
    /// If one can't be an input of a graph that others run, or two don't fit one graph.
    pub fn new(adapters: &[(&str, &'a Adapter)]) -> Result<Self, SetError> {
        for (_, adapter) in adapters {
            if let Some(reason) = refusal(adapter) {
                return Err(SetError::Refused {
                    peft_type: adapter.peft_type.clone(),
                    reason,
                });
            }
        }
        if let [first, others @ ..] = adapters {
            for other in others {
                together(*first, *other)?;
            }
        }
        let mut leads: BTreeMap<String, (&str, &'a Adapter)> = BTreeMap::new();
        for &(name, adapter) in adapters {
            for (path, _) in adapter.modules() {
                let Some(&(other, lead)) = leads.get(path) else {
                    leads.insert(path.to_owned(), (name, adapter));
                    continue;
                };
                let part_of = |part: &Adapter, whole: &Adapter| {
                    let forms = (part.unmerged_form(path), whole.unmerged_form(path));
                    let (Some(part_form), Some(whole_form)) = forms else {
                        return Ok(());
                    };
                    is_part(
                        (&part_form, &part.naming(path)),
                        (&whole_form, &whole.naming(path)),
                    )
                };
                if part_of(adapter, lead).is_ok() {
                    continue;
                }
                match part_of(lead, adapter) {
                    Ok(()) => leads.insert(path.to_owned(), (name, adapter)),
                    Err(reason) => {
                        return Err(SetError::Apart {
                            one: other.to_owned(),
                            other: name.to_owned(),
                            reason: format!("at `{path}`, {reason}"),
                        });
                    }
                };
            }
        }
        let set = Self {
            adapters: adapters.iter().map(|(_, adapter)| *adapter).collect(),
            leads: leads
                .into_iter()
                .map(|(path, (_, lead))| (path, lead))
                .collect(),
        };
        set.check_inputs(adapters)?;
        Ok(set)
    }

    /// All adapters.
    pub fn adapters(&self) -> &[&'a Adapter] {
        &self.adapters
    }

    /// The adapted modules' paths, each with the adapter whose form the graph has there.
    pub fn leads(&self) -> impl Iterator<Item = (&str, &'a Adapter)> {
        self.leads.iter().map(|(path, lead)| (path.as_str(), *lead))
    }

    fn lead(&self, path: &str) -> Option<&'a Adapter> {
        self.leads.get(path).copied()
    }

    /// Whether the form at the module of the parameter `name` replaces it itself.
    pub fn replaces(&self, name: &str) -> bool {
        name.rsplit_once('.').is_some_and(|(path, parameter)| {
            let form = self.lead(path).and_then(|lead| lead.unmerged_form(path));
            form.is_some_and(|form| form.replaces(parameter))
        })
    }

    /// Parameters of the base that an adapter replaces, by name.
    pub fn replacements(&self) -> BTreeMap<&str, &'a Replacement> {
        let mut all = BTreeMap::new();
        for adapter in &self.adapters {
            for (name, replacement) in adapter.used_replacements() {
                if !self.replaces(name) {
                    all.entry(name).or_insert(replacement);
                }
            }
        }
        all
    }

    /// Checks that the graph has every input of every adapter.
    fn check_inputs(&self, adapters: &[(&str, &'a Adapter)]) -> Result<(), SetError> {
        let mut names: BTreeSet<String> = BTreeSet::new();
        for (path, lead) in &self.leads {
            if let Some(form) = lead.unmerged_form(path) {
                let naming = lead.naming(path);
                names.extend(form.tensors().iter().map(|tensor| naming.input(tensor)));
            }
        }
        let replaced = self.replacements();
        names.extend(replaced.values().map(|found| found.input.clone()));
        for (name, adapter) in adapters {
            let inputs = adapter.inputs();
            let own = adapter.side_network().is_some();
            if let Some(lost) = inputs
                .iter()
                .find(|input| !own && !names.contains(&input.name))
            {
                return Err(SetError::Apart {
                    one: (*name).to_owned(),
                    other: "the others".to_owned(),
                    reason: format!("another form takes the place of its tensor `{}`", lost.name),
                });
            }
        }
        Ok(())
    }
}

/// Why `adapter` can't be an input of a graph that others run; `None` if it can.
fn refusal(adapter: &Adapter) -> Option<&'static str> {
    match adapter.prompt() {
        Some(Prompt::Prefix(_)) => {
            return Some(
                "its rows lie in the cache, which onnxruntime-genai fills itself, so that it would silently run the base",
            );
        }
        Some(Prompt::Virtual(_)) => {
            return Some(
                "it adds virtual tokens, which aren't counted in onnxruntime-genai's attention mask",
            );
        }
        None => {}
    }
    if adapter.effects.whole_calls {
        return Some(
            "what it computes for a token depends on all tokens of a call, so a prompt in two parts gives another result",
        );
    }
    None
}

/// Checks what concerns the graph as a whole.
fn together(one: (&str, &Adapter), other: (&str, &Adapter)) -> Result<(), SetError> {
    let apart = |reason: &str| {
        Err(SetError::Apart {
            one: one.0.to_owned(),
            other: other.0.to_owned(),
            reason: reason.to_owned(),
        })
    };
    let (a, b) = (one.1, other.1);
    if shape_of(a) != shape_of(b) {
        return apart("they give the model different layers or vocabularies");
    }
    if a.side_network().is_some() || b.side_network().is_some() {
        return apart("one has a network beside the decoder");
    }
    if a.invocation().is_some() != b.invocation().is_some() {
        return apart("one acts from its invocation on, the other always");
    }
    Ok(())
}

/// The modules of the model that an adapter runs on, and the base's modules that they are.
fn shape_of(adapter: &Adapter) -> (usize, Vec<(String, String)>) {
    let modules = adapter.spec.modules().into_iter();
    let modules = modules.map(|module| (module.path, module.source));
    (adapter.spec.vocab_size, modules.collect())
}

/// Checks that the form `part` is what's left of the form `whole` where further tensors have no
/// effect.
fn is_part(part: (&Form, &Naming), whole: (&Form, &Naming)) -> Result<(), String> {
    let same = |a: &FormTensor, b: &FormTensor, rank: Option<usize>| {
        same_input(&part.1.input(a), a, &whole.1.input(b), b, rank)
    };
    let differ = || Err("their forms differ".to_owned());
    match (part.0, whole.0) {
        (Form::Linear(a), Form::Linear(b)) => is_part_of_linear(a, b, &same),
        (Form::Embedding(a), Form::Embedding(b)) => {
            if a.multiplies != b.multiplies {
                return differ();
            }
            match (&a.delta, &b.delta) {
                (Some((a, down)), Some((b, up))) => {
                    same(a, b, Some(0))?;
                    same(down, up, Some(1))?;
                }
                (None, _) => {}
                (Some(_), None) => return lacks("low-rank change"),
            }
            optional(&a.rotation, &b.rotation, "rotation", &same)?;
            optional(&a.gain, &b.gain, "gain", &same)
        }
        (Form::Tokens(a), Form::Tokens(b)) => match a.indices == b.indices {
            true => same(&a.rows, &b.rows, None),
            false => Err("they replace the rows of different tokens".to_owned()),
        },
        (Form::Attention(a), Form::Attention(b)) => {
            let place = |place: AttentionPlace| place == AttentionPlace::Heads;
            if place(a.place) != place(b.place) {
                return differ();
            }
            same(&a.keys, &b.keys, None)?;
            same(&a.values, &b.values, None)
        }
        _ => differ(),
    }
}

type Same<'s> = &'s dyn Fn(&FormTensor, &FormTensor, Option<usize>) -> Result<(), String>;

fn is_part_of_linear(a: &LinearForm, b: &LinearForm, same: Same) -> Result<(), String> {
    if !a.input.is_empty() && a.input.len() != b.input.len() {
        return Err("their inputs are changed in different steps".to_owned());
    }
    for (a, b) in a.input.iter().zip(&b.input) {
        match (a, b) {
            (InputStage::Scale(a), InputStage::Scale(b)) => same(a, b, None)?,
            (
                InputStage::Rotation { blocks: a, order },
                InputStage::Rotation {
                    blocks: b,
                    order: other,
                },
            ) if order == other => same(a, b, None)?,
            _ => return Err("their inputs are changed in different ways".to_owned()),
        }
    }
    optional(&a.weight, &b.weight, "replaced weight", same)?;
    match (&a.delta, &b.delta) {
        (None, _) => {}
        (Some(_), None) => return lacks("added product"),
        (Some(Delta::LowRank { a, b }), Some(Delta::LowRank { a: down, b: up })) => {
            same(a, down, Some(0))?;
            same(b, up, Some(1))?;
        }
        (
            Some(Delta::Kronecker { outer, inner }),
            Some(Delta::Kronecker {
                outer: other_outer,
                inner: other_inner,
            }),
        ) => {
            same(outer, other_outer, None)?;
            same(inner, other_inner, None)?;
        }
        (
            Some(Delta::Folded { block, copies, .. }),
            Some(Delta::Folded {
                block: other,
                copies: other_copies,
                ..
            }),
        ) if copies == other_copies => same(block, other, None)?,
        _ => return Err("their added products have different forms".to_owned()),
    }
    optional(&a.gain, &b.gain, "gain", same)?;
    optional(&a.bias, &b.bias, "bias", same)?;
    match (&a.output, &b.output) {
        (None, _) => Ok(()),
        (Some(OutputStage::Scale(a)), Some(OutputStage::Scale(b))) => same(a, b, None),
        (
            Some(OutputStage::Pairs { own, other, order }),
            Some(OutputStage::Pairs {
                own: its_own,
                other: its_other,
                order: its_order,
            }),
        ) if order == its_order => {
            same(own, its_own, None)?;
            same(other, its_other, None)
        }
        _ => Err("their outputs are changed in different ways".to_owned()),
    }
}

fn optional(
    a: &Option<FormTensor>,
    b: &Option<FormTensor>,
    what: &str,
    same: Same,
) -> Result<(), String> {
    match (a, b) {
        (None, _) => Ok(()),
        (Some(a), Some(b)) => same(a, b, None),
        (Some(_), None) => lacks(what),
    }
}

fn lacks(what: &str) -> Result<(), String> {
    Err(format!("only one has a {what}"))
}

/// Checks that two tensors are the same input; `rank` is an axis of any size.
fn same_input(
    a_name: &str,
    a: &FormTensor,
    b_name: &str,
    b: &FormTensor,
    rank: Option<usize>,
) -> Result<(), String> {
    if a_name != b_name {
        return Err(format!("one has `{a_name}`, the other `{b_name}`"));
    }
    let rank = rank.or(a.rank_axis);
    let sizes = a.shape.iter().zip(&b.shape).enumerate();
    let same = sizes
        .into_iter()
        .all(|(axis, (a, b))| a == b || Some(axis) == rank);
    match same && a.shape.len() == b.shape.len() {
        true => Ok(()),
        false => Err(format!(
            "`{a_name}` has shapes {:?} and {:?}",
            a.shape, b.shape
        )),
    }
}

impl Adaptation for AdapterSet<'_> {
    fn has_virtual_tokens(&self) -> bool {
        false
    }

    fn runs_whole_sequences(&self) -> bool {
        false
    }

    fn takes_whole_calls(&self) -> bool {
        false
    }

    fn embedding(&self, graph: &mut GraphBuilder, site: &EmbeddingSite) -> Option<Value> {
        self.lead(site.path)?.embedding(graph, site)
    }

    fn linear(&self, graph: &mut GraphBuilder, site: &LinearSite) -> Option<Value> {
        self.lead(site.path)?.linear(graph, site)
    }

    fn absorbed(&self, graph: &mut GraphBuilder, path: &str) -> Option<AbsorbedChange> {
        self.lead(path)?.absorbed(graph, path)
    }

    fn expert(&self, graph: &mut GraphBuilder, site: ExpertSite, product: &Value) -> Option<Value> {
        self.lead(site.path)?.expert(graph, site, product)
    }

    fn adapts_attention(&self, path: &str) -> bool {
        let lead = self.lead(path);
        lead.is_some_and(|lead| lead.adapts_attention(path))
    }

    fn attention(
        &self,
        graph: &mut GraphBuilder,
        site: &AttentionSite,
    ) -> Option<(Value, AttentionPlace)> {
        self.lead(site.path)?.attention(graph, site)
    }

    fn before_layers(&self, decoder: &mut BeforeLayers) -> Carried {
        // Several have no side networks, and act from an invocation on all alike.
        match self.adapters.first() {
            Some(first) => first.before_layers(decoder),
            None => Carried::default(),
        }
    }

    fn enter_layer(
        &self,
        graph: &mut GraphBuilder,
        index: usize,
        hidden: &Value,
        state: &mut Value,
    ) -> Option<Value> {
        self.adapters
            .first()?
            .enter_layer(graph, index, hidden, state)
    }
}
