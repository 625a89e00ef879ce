//! The formats of quantized weights, `[out_features, in_features]`. Each has a file.
//!
//! Scales are computed in float32, and stored in the dtype of the products' inputs: float32 on a
//! CPU, float16 or bfloat16 on a GPU.

mod int4;
mod int8;
mod nf4;
mod steps;

use serde::{Deserialize, Serialize};

use super::encoding::Encoding;
use super::operator::Operator;
use crate::weights::Dtype;

macro_rules! formats {
    ($($name:ident: $file:ident,)*) => {
        /// The format of a quantized weight.
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
        )]
        #[serde(into = "&'static str", try_from = "String")]
        #[allow(missing_docs, reason = "each format's file describes it")]
        pub enum Format { $($name,)* }

        impl Format {
            /// All formats.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            fn spec(self) -> &'static FormatSpec {
                match self { $(Self::$name => &$file::FORMAT,)* }
            }
        }
    };
}

formats! {
    Int4: int4,
    Int8: int8,
    Nf4: nf4,
}

/// The properties of a format; its file defines them.
#[derive(Debug)]
struct FormatSpec {
    /// Its name in options, folders and results.
    name: &'static str,
    /// What `--help` says of it.
    about: &'static str,
    /// The keys of a parameters file that choose it.
    keys: Keys,
    /// How its values are encoded.
    encoding: Encoding,
    /// Quantizes whole rows. Arguments: the values, and the number of columns.
    quantize: fn(&[f32], usize) -> Quantized,
    /// Whether the head has this format by default, like the other weights.
    quantizes_head: bool,
    /// Whether `GatherBlockQuantized` can look up rows, so that a token embedding can have this
    /// format.
    has_row_lookup: bool,
    /// The largest allowed difference between merged and unmerged logits.
    tolerance: Tolerance,
}

/// The keys of a parameters file that choose a format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keys {
    /// PEFT's key that must be `true`; `None` if `quantization_scheme` is enough.
    pub switch: Option<Switch>,
    /// `quantization_scheme`. If the key is missing, the first format with the switch is chosen.
    pub scheme: &'static str,
}

/// PEFT's keys on quantization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// `use_4bit`
    Use4Bit,
    /// `use_8bit`
    Use8Bit,
}

/// The largest allowed difference between the logits of merged and unmerged variants, relative to
/// the logits' root mean square. It's the effect of requantizing a model with random weights.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    /// For models without experts.
    pub dense: f32,
    /// For models with experts: a small difference may send a token to other experts.
    pub routed: f32,
}

/// Codes and scales.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantized {
    /// Packed.
    pub codes: Vec<u8>,
    /// One per block.
    pub scales: Vec<f32>,
}

impl Format {
    /// The format of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|format| format.name() == name)
    }

    /// Its name in options, folders and results.
    pub fn name(self) -> &'static str {
        self.spec().name
    }

    /// What `--help` says of it.
    pub fn about(self) -> &'static str {
        self.spec().about
    }

    /// The keys of a parameters file that choose it.
    pub fn keys(self) -> Keys {
        self.spec().keys
    }

    /// How its values are encoded.
    pub fn encoding(self) -> Encoding {
        self.spec().encoding
    }

    /// The operator that multiplies with such weights.
    pub fn operator(self) -> &'static Operator {
        self.encoding().operator()
    }

    /// Whether the head has this format by default, like the other weights.
    pub fn quantizes_head(self) -> bool {
        self.spec().quantizes_head
    }

    /// Whether a token embedding can have the format.
    pub fn has_row_lookup(self) -> bool {
        self.spec().has_row_lookup
    }

    /// The largest allowed difference between the logits of merged and unmerged variants.
    pub fn tolerance(self) -> Tolerance {
        self.spec().tolerance
    }

    /// Shapes of codes (bytes) and scales of a weight of `rows` × `columns`.
    pub fn shapes(self, rows: usize, columns: usize) -> [Vec<usize>; 2] {
        self.encoding().shapes(rows, columns)
    }

    /// Bytes of codes and of scales in `scales_type` together.
    pub fn bytes(self, rows: usize, columns: usize, scales_type: Dtype) -> u64 {
        let [codes, scales] = self.shapes(rows, columns);
        let count = |shape: &[usize]| shape.iter().product::<usize>() as u64;
        count(&codes) + scales_type.size() as u64 * count(&scales)
    }

    /// Quantizes whole rows. If others follow them, they must fill whole blocks
    /// ([`Encoding::rows_at_once`]).
    ///
    /// Every value must be finite.
    pub fn quantize(self, values: &[f32], columns: usize) -> Quantized {
        (self.spec().quantize)(values, columns)
    }

    /// The dequantized values.
    pub fn dequantize(self, codes: &[u8], scales: &[f32], rows: usize, columns: usize) -> Vec<f32> {
        self.encoding().dequantize(codes, scales, rows, columns)
    }

    /// Number of rows that are quantized at a time: about `elements`, and whole blocks.
    pub fn rows_at_once(self, columns: usize, elements: usize) -> usize {
        self.encoding().rows_at_once(columns, elements)
    }
}

impl From<Format> for &'static str {
    fn from(format: Format) -> Self {
        format.name()
    }
}

impl TryFrom<String> for Format {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Self::named(&name).ok_or_else(|| format!("no quantization format `{name}`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::SafetensorsFile;
    use std::path::Path;

    /// What onnxruntime's quantizers (and bitsandbytes') make of the same values, bit for bit.
    #[test]
    fn codes_scales_and_dequantized_values_are_those_of_others() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/quantized");
        let file = SafetensorsFile::open(&fixtures.join("quantized.safetensors")).unwrap();
        let names = file.names();
        let matrices: Vec<&str> = names
            .iter()
            .filter_map(|name| name.strip_suffix(".w"))
            .collect();
        assert_eq!(matrices.len(), 5);
        for matrix in matrices {
            let name = format!("{matrix}.w");
            let weight = file.get(&name).unwrap();
            let [rows, columns] = weight.shape[..] else {
                panic!("{name}")
            };
            let values = weight.to_f32().unwrap();
            for &format in Format::ALL {
                let label = format!("{matrix}.{}", format.name());
                let [codes, scales, dequantized] =
                    ["codes", "scales", "dequantized"].map(|part| format!("{label}.{part}"));
                let [codes, scales, dequantized] =
                    [&codes, &scales, &dequantized].map(|name| file.get(name).unwrap());
                assert_eq!(
                    format.shapes(rows, columns),
                    [codes.shape.to_vec(), scales.shape.to_vec()],
                    "{label}"
                );
                let found = format.quantize(&values, columns);
                let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                let expected = scales.to_f32().unwrap();
                assert_eq!(bits(&found.scales), bits(&expected), "{label}");
                assert_eq!(found.codes, codes.bytes, "{label}");
                let made = format.dequantize(&found.codes, &found.scales, rows, columns);
                assert_eq!(made, dequantized.to_f32().unwrap(), "{label}");
            }
        }
    }

    #[test]
    fn rows_quantized_apart_are_the_same() {
        let columns = 48;
        let values: Vec<f32> = (0..columns * 128)
            .map(|i| ((i * 37 % 101) as f32) - 50.0)
            .collect();
        for &format in Format::ALL {
            let whole = format.quantize(&values, columns);
            let rows = format.rows_at_once(columns, 100);
            let mut parts = Quantized {
                codes: Vec::new(),
                scales: Vec::new(),
            };
            for part in values.chunks(rows * columns) {
                let part = format.quantize(part, columns);
                parts.codes.extend(part.codes);
                parts.scales.extend(part.scales);
            }
            assert_eq!(parts, whole, "{format:?}");
        }
    }
}
