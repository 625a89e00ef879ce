//! `README.md`: the model card.

use std::fmt::Write;
use std::fs;

use super::data::{DATA, Weights};
use super::genai::{self, SpecialTokens};
use crate::files::read_to_string;
use crate::graph::ACTIVE_FROM_INPUT;
use crate::model::{BaseModel, ModelId};
use crate::prepared::{AdapterSummary, GRAPH, Manifest, Portable, Variant};
use crate::weights::ONNX_ADAPTER;

/// The file's name.
pub const CARD: &str = "README.md";

/// What the card tells.
#[derive(Debug)]
pub struct Card<'a> {
    /// The base model.
    pub base: &'a BaseModel,
    /// The folder's manifest.
    pub manifest: &'a Manifest,
    /// Ids with a meaning for generation.
    pub tokens: &'a SpecialTokens,
    /// How the weights came into the folder.
    pub weights: Weights,
    /// What was checked, and the adapters beside the graph.
    pub portable: &'a Portable,
}

impl Card<'_> {
    /// The card's text.
    pub fn text(&self) -> String {
        let mut text = self.header();
        let _ = write!(text, "# {}\n\n{}\n", self.title(), self.made_from());
        let _ = write!(text, "\n## Checked\n\n{}\n", self.checked());
        let _ = write!(text, "\n## Use\n\n{}\n", self.usage());
        text
    }

    /// The metadata that model hubs read.
    fn header(&self) -> String {
        let mut lines = vec!["library_name: onnxruntime".to_owned()];
        if let ModelId::Hub(id) = &self.base.id {
            lines.push(format!(
                "base_model: {}",
                id.to_string().split('@').next().unwrap_or("")
            ));
            let relation = match (self.manifest.variant, &self.manifest.quantization) {
                (Variant::Base, Some(_)) => Some("quantized"),
                (Variant::Base, None) | (Variant::Exported, _) => None,
                (Variant::Merged, _) => Some("finetune"),
                (Variant::Unmerged, _) => Some("adapter"),
            };
            lines.extend(relation.map(|relation| format!("base_model_relation: {relation}")));
        }
        lines.extend(license(self.base));
        lines.push("pipeline_tag: text-generation".to_owned());
        lines.push("tags:\n- onnx\n- onnxruntime-genai".to_owned());
        if self.adapters().next().is_some() {
            lines.push("- peft".to_owned());
        }
        format!("---\n{}\n---\n\n", lines.join("\n"))
    }

    fn base_name(&self) -> String {
        match &self.base.id {
            // Where it was on the machine that wrote this says nothing elsewhere.
            ModelId::Local(path) => {
                let full = fs::canonicalize(path).unwrap_or_else(|_| path.clone());
                let name = full
                    .file_name()
                    .map(|name| name.to_string_lossy().into_owned());
                name.unwrap_or_else(|| path.display().to_string())
            }
            other => other.to_string(),
        }
    }

    fn title(&self) -> String {
        let base = self.base_name();
        let names: Vec<&str> = self.adapters().map(|(name, _)| name).collect();
        match names.is_empty() {
            true => base,
            false => format!("{base} with {}", names.join(", ")),
        }
    }

    /// The merged adapter, or those beside the graph, with their names.
    fn adapters(&self) -> impl Iterator<Item = (&str, &AdapterSummary)> {
        let merged = self.manifest.adapter.iter();
        let merged = merged.map(|adapter| (adapter.experiment.as_str(), adapter));
        let beside = self.portable.adapters.iter();
        merged.chain(beside.map(|own| (own.name.as_str(), &own.adapter)))
    }

    fn made_from(&self) -> String {
        let manifest = self.manifest;
        let mut rows = vec![("Base model", format!("`{}`", self.base_name()))];
        for (name, adapter) in self.adapters() {
            let drawn = match adapter.fresh {
                true => "; not trained: its values were drawn at random",
                false => "",
            };
            let options = options(adapter);
            let method = &adapter.peft_type;
            rows.push(("Adapter", format!("`{name}` ({method}{drawn}{options})")));
        }
        rows.push((
            "Variant",
            match manifest.variant {
                Variant::Base => "the base alone",
                Variant::Merged => "the adapter is merged into the weights",
                Variant::Unmerged => "adapters are inputs of the graph",
                Variant::Exported => "exported by another program",
            }
            .to_owned(),
        ));
        rows.push(("Weights", format!("{}, rounded once", manifest.dtype)));
        if let Some(quantization) = &manifest.quantization {
            let label = quantization.quantization.label();
            let count = quantization.quantized_weights;
            let float = quantization.float.join(", ");
            rows.push((
                "Quantized",
                format!("{label}: {count} weights; not quantized: {float}"),
            ));
        }
        rows.push(("Parameters", manifest.base_params.to_string()));
        rows.push(("Positions", manifest.max_position_embeddings.to_string()));
        rows.push((
            "Written by",
            format!("peft-bench {}", env!("CARGO_PKG_VERSION")),
        ));
        let mut text = "| | |\n| --- | --- |\n".to_owned();
        for (name, value) in rows {
            let _ = writeln!(text, "| {name} | {value} |");
        }
        for (name, adapter) in self.adapters() {
            for note in &adapter.notes {
                let _ = write!(text, "\nNote on `{name}`: {note}.\n");
            }
        }
        text
    }

    fn checked(&self) -> String {
        if self.portable.checks.is_empty() {
            return "**Nothing was checked** when this folder was written (`--no-check`)."
                .to_owned();
        }
        let items: Vec<String> = self
            .portable
            .checks
            .iter()
            .map(|one| format!("- {one}"))
            .collect();
        format!(
            "Of a prompt and {} new tokens, when this folder was written:\n\n{}",
            super::check::TOKENS,
            items.join("\n")
        )
    }

    /// What's to know about adapters beside the graph.
    fn adapter_notes(&self) -> String {
        if self.portable.adapters.is_empty() {
            return String::new();
        }
        let mut text = "- **Adapters**: one for each generator. A second `set_active_adapter` is accepted, and the first one stays: make a
  new generator for another. With none active the graph computes what the base computes.
"
        .to_owned();
        let invoked = self.portable.adapters.iter();
        for own in invoked.filter(|own| own.adapter.invocation.is_some()) {
            let ids = own.adapter.invocation.as_deref().unwrap_or_default();
            let _ = writeln!(
                text,
                "- `{}` acts from its invocation tokens {ids:?} on, and not without them. Say where they last begin in the prompt \
                 (`2**63 - 1`: never),\n  before it's appended: `generator.set_model_input(\"{ACTIVE_FROM_INPUT}\", np.array([[position]], \
                 dtype=np.int64))`.",
                own.name
            );
        }
        text
    }

    fn usage(&self) -> String {
        let data = match self.weights {
            Weights::Copied => format!("`{DATA}`"),
            Weights::Linked => "`weights-….safetensors` (hard links: a copy of the folder is complete, and as large as \
                                the checkpoint that it was made from)"
                .to_owned(),
        };
        let (pad, length) = (self.tokens.pad, genai::usual_length(self.manifest));
        let (load, activate) = match self.portable.adapters.first() {
            Some(own) => (
                format!(
                    "adapters = og.Adapters(model)\nadapters.load(\"{folder}/{name}.{ONNX_ADAPTER}\", \"{name}\")\n",
                    folder = Portable::ADAPTERS,
                    name = own.name
                ),
                format!("generator.set_active_adapter(adapters, \"{}\")\n", own.name),
            ),
            None => (String::new(), String::new()),
        };
        let adapters = self.adapter_notes();
        format!(
            "`{GRAPH}` refers to {data} in this folder and to nothing outside it. The folder can be moved and copied.

```python
import onnxruntime_genai as og  # or Optimum's ORTModelForCausalLM, or ONNX Runtime itself

model = og.Model(\".\")
tokenizer = og.Tokenizer(model)
{load}params = og.GeneratorParams(model)
params.set_search_options(max_length=200)
generator = og.Generator(model, params)
{activate}generator.append_tokens(tokenizer.encode(\"Once upon a time\"))
while not generator.is_done():
    generator.generate_next_token()
print(tokenizer.decode(generator.get_sequence(0)))
```

{adapters}- `peft-bench measure .` measures it, `peft-bench verify .` checks its files against `{manifest}` and runs it.
- **Batches** of prompts of unequal lengths are padded on the right. With left padding results are wrong: the graph's
  attention counts tokens from the left.
- `pad_token_id` in `{config}` is {pad}, one more than the last id of the vocabulary. onnxruntime-genai takes that id
  away wherever it stands in a prompt, so it's one that no prompt contains; the graph takes any such id.
- `max_length` in `{config}` is {length}: the cache is made for so many positions. The model has {positions}; raise it
  with `set_search_options`, at the cost of memory.
- `logits` are those of each sequence's last position, `[batch, 1, {vocab}]`; `next_token` is their argmax.",
            manifest = Manifest::FILE,
            config = genai::CONFIG,
            positions = self.manifest.max_position_embeddings,
            vocab = self.manifest.vocab_size,
        )
    }
}

/// The options of an adapter that say what it is.
fn options(adapter: &AdapterSummary) -> String {
    let keys = [
        "r",
        "lora_alpha",
        "use_dora",
        "use_rslora",
        "target_modules",
    ];
    let set = keys.into_iter().filter_map(|key| {
        let value = adapter.config.get(key)?;
        let is_set = !value.is_null() && *value != serde_json::json!(false);
        is_set.then(|| format!(", `{key}` {value}"))
    });
    set.collect()
}

/// The license, as the base's own model card states it.
fn license(base: &BaseModel) -> Vec<String> {
    let text = read_to_string(&base.folder.join(CARD)).unwrap_or_default();
    let mut lines = text.lines();
    if lines.next() != Some("---") {
        return Vec::new();
    }
    let header = lines.take_while(|line| *line != "---");
    header
        .filter(|line| line.starts_with("license"))
        .map(str::to_owned)
        .collect()
}
