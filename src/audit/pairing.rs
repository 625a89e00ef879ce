//! Which tensor of a checkpoint is which parameter. Checkpoints of the same model differ in the
//! prefixes of names, in whether a tied head has a tensor of its own, in how experts are stacked,
//! and in buffers.

use std::collections::{BTreeMap, BTreeSet};

use crate::arch::{DecoderSpec, Module, bare};
use crate::model::BaseModel;
use crate::weights::TensorView;

/// Buffers that older releases of Transformers stored; nothing reads them.
const BUFFERS: [&str; 3] = [".inv_freq", ".attn.masked_bias", ".attn.bias"];

/// A checkpoint's tensors by parameter.
#[derive(Debug)]
pub struct Pairing<'a> {
    theirs: &'a BaseModel,
    /// Their modules, by name without enclosing modules.
    modules: BTreeMap<String, Module>,
}

impl<'a> Pairing<'a> {
    /// Those of `theirs`.
    pub fn of(theirs: &'a BaseModel) -> Self {
        let modules = theirs.spec.modules().into_iter();
        Self {
            theirs,
            modules: modules.map(|m| (bare(&m.path).to_owned(), m)).collect(),
        }
    }

    /// The tensor of the parameter `name` of the module at `path`, if there is one. A tensor with a
    /// row per token is cut to the expected number of `rows`.
    pub fn find(&self, path: &str, name: &str, rows: usize) -> Option<TensorView<'a>> {
        let module = self.modules.get(bare(path))?;
        let found = self.theirs.tensor(&module.tensor(name)).ok()?;
        let source = module.tensor(name);
        Some(match self.theirs.spec.has_row_a_token(&source) {
            true => found.first_rows(rows),
            false => found,
        })
    }

    /// Whether their head has no tensor of its own.
    pub fn is_tied(&self) -> bool {
        self.theirs.spec.tied()
    }

    /// Their tensors that belong to no parameter of `expected`, the modules with their parameters'
    /// names, nor to the rest of `base`; each with the base's tensor of the same name where it has
    /// one. Then the tensors of the base's other towers that they lack.
    pub fn others(
        &self,
        base: &'a BaseModel,
        expected: &BTreeSet<String>,
    ) -> (Vec<(TensorView<'a>, Option<TensorView<'a>>)>, Vec<String>) {
        let expected: BTreeSet<&str> = expected.iter().map(|place| bare(place)).collect();
        let mut used: BTreeSet<&str> = BTreeSet::new();
        for module in self.theirs.spec.modules() {
            let own = module.parameters();
            let names = own.iter().map(|(name, _)| *name);
            // A bias that the model doesn't have may be there, if it's zero.
            for name in names.chain(["weight", "bias"]) {
                let Ok(found) = self.theirs.tensor(&module.tensor(name)) else {
                    continue;
                };
                let place = format!("{}.{name}", module.path);
                let is_expected = expected.contains(bare(&place));
                let is_zero = || found.bytes.iter().all(|byte| *byte == 0);
                if is_expected || is_zero() {
                    let slice = self.theirs.store.slice(found.name);
                    used.insert(slice.map_or(found.name, |slice| slice.whole.as_str()));
                }
            }
        }
        let head = self.theirs.spec.stored_name(&self.theirs.spec.lm_head.path);
        let is_copy_of_head = |tensor: &TensorView| {
            let name = self.theirs.spec.embed_tokens.source.as_str();
            let embedding = self.theirs.tensor(&format!("{name}.weight"));
            tensor.name == format!("{head}.weight")
                && embedding.is_ok_and(|embedding| embedding.bytes == tensor.bytes)
        };
        let store = &base.store;
        let of_base: BTreeMap<&str, &str> = store.names().map(|name| (bare(name), name)).collect();
        let mut extra = Vec::new();
        for name in self.theirs.store.names() {
            let Some(tensor) = self.theirs.store.find(name) else {
                continue;
            };
            let ignored = BUFFERS.iter().any(|end| name.ends_with(end)) || is_copy_of_head(&tensor);
            if used.contains(name) || ignored {
                continue;
            }
            let own = of_base.get(bare(name)).and_then(|name| store.find(name));
            extra.push((tensor, own));
        }
        (extra, self.lacking_towers(base))
    }

    /// Names of tensors of the base's other towers that they lack. A text model alone has none.
    fn lacking_towers(&self, base: &BaseModel) -> Vec<String> {
        if base.spec.tower.is_none() || self.theirs.spec.tower.is_none() {
            return Vec::new();
        }
        let first = |name: &str| bare(name).split('.').next().map(str::to_owned);
        let text: BTreeSet<Option<String>> = top_modules(&base.spec, first);
        let theirs: BTreeSet<&str> = self.theirs.store.names().map(bare).collect();
        let names = base
            .store
            .names()
            .filter(|name| !text.contains(&first(name)));
        let lacking = names.filter(|name| !theirs.contains(bare(name)));
        lacking.map(str::to_owned).collect()
    }
}

fn top_modules(
    spec: &DecoderSpec,
    first: impl Fn(&str) -> Option<String>,
) -> BTreeSet<Option<String>> {
    spec.modules()
        .iter()
        .map(|module| first(&module.path))
        .collect()
}
