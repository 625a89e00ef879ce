//! The keys on quantization: PEFT's `use_4bit` and `use_8bit`, and six more.

use super::ParametersError;
use crate::quantize::{Accuracy, Format, FormatChoice, Parts, Quantization, Switch};

/// The keys on quantization, as files and options set them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QuantizationKeys {
    /// What `--quantize` asks for; it replaces the next three keys.
    pub weights: Option<FormatChoice>,
    /// `use_4bit`
    pub use_4bit: Option<bool>,
    /// `use_8bit`
    pub use_8bit: Option<bool>,
    /// `quantization_scheme`
    pub scheme: Option<&'static str>,
    /// `quantization_block_size`
    pub block_size: Option<usize>,
    /// `quantization_head`
    pub head: Option<FormatChoice>,
    /// `quantization_kv_proj`
    pub kv_proj: Option<Format>,
    /// `quantization_embedding`
    pub embedding: Option<FormatChoice>,
    /// `quantization_accuracy_level`
    pub accuracy: Option<Accuracy>,
}

/// Values of `quantization_scheme`.
pub fn schemes() -> Vec<&'static str> {
    let mut names: Vec<&str> = Vec::new();
    for format in Format::ALL {
        let scheme = format.keys().scheme;
        if !names.contains(&scheme) {
            names.push(scheme);
        }
    }
    names
}

impl QuantizationKeys {
    /// These keys, completed by those of `others`.
    pub fn or(self, others: Self) -> Self {
        Self {
            weights: self.weights.or(others.weights),
            use_4bit: self.use_4bit.or(others.use_4bit),
            use_8bit: self.use_8bit.or(others.use_8bit),
            scheme: self.scheme.or(others.scheme),
            block_size: self.block_size.or(others.block_size),
            head: self.head.or(others.head),
            kv_proj: self.kv_proj.or(others.kv_proj),
            embedding: self.embedding.or(others.embedding),
            accuracy: self.accuracy.or(others.accuracy),
        }
    }

    /// Sets the weights' format, whatever the keys say; `None` quantizes nothing.
    pub fn set(&mut self, weights: Option<Format>) {
        self.weights = Some(weights.into());
        self.scheme = None;
        self.block_size = None;
        if weights.is_none() {
            self.head = None;
            self.kv_proj = None;
            self.embedding = None;
            self.accuracy = None;
        }
    }

    /// The keys that resolve to `quantization`.
    pub fn of(quantization: Option<Quantization>) -> Self {
        let mut keys = Self::default();
        keys.set(quantization.map(|found| found.weights));
        let Some(found) = quantization else {
            return keys;
        };
        keys.head = Some(found.head.into());
        keys.kv_proj = Some(found.kv_proj.unwrap_or(found.weights));
        keys.embedding = Some(found.embedding.into());
        let usual = Quantization::with(found.weights, keys.parts());
        if usual != Ok(found) {
            keys.accuracy = Some(found.accuracy);
        }
        keys
    }

    fn parts(self) -> Parts {
        Parts {
            head: self.head,
            kv_proj: self.kv_proj,
            embedding: self.embedding,
            accuracy: self.accuracy,
        }
    }

    /// Resolves the keys.
    ///
    /// # Errors
    /// If two keys contradict each other, or one would have no effect.
    pub fn resolve(self) -> Result<Option<Quantization>, ParametersError> {
        let failed = |message: String| ParametersError::Quantization { message };
        if let Some(weights) = self.format().map_err(failed)? {
            return Quantization::with(weights, self.parts())
                .map(Some)
                .map_err(|message| failed(format!("`quantization_accuracy_level`: {message}")));
        }
        let scheme = self.scheme.filter(|scheme| *scheme != schemes()[0]);
        let without_effect = [
            scheme.map(|scheme| format!("`quantization_scheme` `{scheme}`")),
            self.block_size
                .map(|_| "`quantization_block_size`".to_owned()),
            self.head.map(|_| "`quantization_head`".to_owned()),
            self.kv_proj.map(|_| "`quantization_kv_proj`".to_owned()),
            self.embedding
                .map(|_| "`quantization_embedding`".to_owned()),
            self.accuracy
                .map(|_| "`quantization_accuracy_level`".to_owned()),
        ];
        match without_effect.into_iter().flatten().next() {
            None => Ok(None),
            Some(key) => Err(failed(format!(
                "{key} does nothing without `use_4bit` or `use_8bit` (`--quantize`)"
            ))),
        }
    }

    /// The weights' format; `None` if nothing is quantized.
    fn format(self) -> Result<Option<Format>, String> {
        if let Some(asked) = self.weights {
            let named = asked.format();
            return named
                .map(|format| format.with(self.scheme, self.block_size))
                .transpose();
        }
        let is_on = |key: Option<bool>| key == Some(true);
        let switch = match (is_on(self.use_4bit), is_on(self.use_8bit)) {
            (true, true) => return Err("`use_4bit` and `use_8bit` are both `true`".to_owned()),
            (true, false) => Some((Switch::Use4Bit, "use_4bit")),
            (false, true) => Some((Switch::Use8Bit, "use_8bit")),
            (false, false) => None,
        };
        let mut formats = Format::ALL.iter().copied();
        let has_switch = |format: &Format| format.keys().switch == switch.map(|(switch, _)| switch);
        let Some(scheme) = self.scheme else {
            let found = switch.and_then(|_| formats.find(has_switch));
            return found
                .map(|format| format.with(None, self.block_size))
                .transpose();
        };
        let has_scheme = |format: &Format| format.keys().scheme == scheme;
        let found = formats.find(|format| has_switch(format) && has_scheme(format));
        let other = Format::ALL.iter().find(|format| has_scheme(format));
        match (found, other, switch) {
            (None, Some(other), Some((_, key))) => {
                let bits = other.encoding().bits();
                Err(format!(
                    "`quantization_scheme` is `{scheme}`, which has {bits} bits, but `{key}` is `true`"
                ))
            }
            _ => found
                .map(|format| format.with(None, self.block_size))
                .transpose(),
        }
    }
}
