//! The names that exporters give to inputs and outputs.

/// A key or a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Half {
    /// The keys of a layer.
    Key,
    /// The values of a layer.
    Value,
}

/// Names with a layer's number at `%d`: of its keys and of its values.
pub type Pattern = [String; 2];

/// The names of what's bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// The tokens.
    pub ids: String,
    /// The attention mask.
    pub mask: String,
    /// The tokens' positions.
    pub positions: String,
    /// The logits.
    pub logits: String,
    /// Cached keys and values that are taken.
    pub past: Vec<Pattern>,
    /// Keys and values that are given.
    pub present: Vec<Pattern>,
}

/// Of onnxruntime-genai's builder, Optimum and this program; then of Transformers' exporter.
const PAST: [[&str; 2]; 2] = [
    ["past_key_values.%d.key", "past_key_values.%d.value"],
    ["input.cache.layers.%d.keys", "input.cache.layers.%d.values"],
];

/// As [`PAST`]; Transformers' graphs for prompts take no cache, and call what they give otherwise.
const PRESENT: [[&str; 2]; 3] = [
    ["present.%d.key", "present.%d.value"],
    [
        "output.cache.layers.%d.keys",
        "output.cache.layers.%d.values",
    ],
    ["cache.layers.%d.keys", "cache.layers.%d.values"],
];

impl Default for Names {
    fn default() -> Self {
        let owned = |pattern: &[&str; 2]| pattern.map(str::to_owned);
        Self {
            ids: "input_ids".to_owned(),
            mask: "attention_mask".to_owned(),
            positions: "position_ids".to_owned(),
            logits: "logits".to_owned(),
            past: PAST.iter().map(owned).collect(),
            present: PRESENT.iter().map(owned).collect(),
        }
    }
}

/// The layer, and which half of its cache it is, if `name` follows one of `patterns`.
pub fn place(name: &str, patterns: &[Pattern]) -> Option<(usize, Half)> {
    patterns.iter().find_map(|[key, value]| {
        let of = |pattern: &str, half| Some((layer(name, pattern)?, half));
        of(key, Half::Key).or_else(|| of(value, Half::Value))
    })
}

fn layer(name: &str, pattern: &str) -> Option<usize> {
    let (before, after) = pattern.split_once("%d")?;
    let number = name.strip_prefix(before)?.strip_suffix(after)?;
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| number.parse().ok())?
}

/// What an input needs that this program can't give.
pub fn needs(name: &str) -> String {
    const KNOWN: [(&str, &str); 9] = [
        (
            "use_cache_branch",
            "a choice between two graphs in one file, which isn't made here; export it again without merging them (with \
             Optimum: `--no-post-process`)",
        ),
        (
            "inputs_embeds",
            "embeddings that another graph makes of the tokens",
        ),
        (
            "cumulative_length",
            "the state of a cache of fixed length, which is kept by the exporter's own program",
        ),
        (
            "cache_position",
            "the place of the tokens in a cache of fixed length",
        ),
        (
            "conv",
            "the state of a convolution, which isn't a cache of keys and values",
        ),
        (
            "recurrent",
            "a recurrent state, which isn't a cache of keys and values",
        ),
        (
            "ssm",
            "a recurrent state, which isn't a cache of keys and values",
        ),
        ("encoder", "what an encoder made"),
        ("pixel_values", "an image"),
    ];
    let known = KNOWN.iter().find(|(part, _)| name.contains(part));
    let what = known.map_or(
        "something that isn't known here under this name",
        |(_, what)| what,
    );
    what.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_layer_and_half() {
        let names = Names::default();
        for (name, layer, half) in [
            ("past_key_values.11.value", 11, Half::Value),
            ("input.cache.layers.0.keys", 0, Half::Key),
        ] {
            assert_eq!(place(name, &names.past), Some((layer, half)));
            assert_eq!(place(name, &names.present), None);
        }
        let present = "cache.layers.3.values";
        assert_eq!(place(present, &names.present), Some((3, Half::Value)));
        for other in [
            "past_key_values..key",
            "past_key_values.+1.key",
            "past_key_values.0.conv",
            "input.cache.layers.0.cumulative_length",
        ] {
            assert_eq!(place(other, &names.past), None, "{other}");
        }
    }
}
