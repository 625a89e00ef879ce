//! The formats of quantized weights, `[out_features, in_features]`. Each has a file.
//!
//! Scales are computed in float32, and stored in the dtype of the products' inputs: float32 on a
//! CPU, float16 or bfloat16 on a GPU.

mod int4;
mod int8;
mod k_quant;
mod nf4;
mod search;
mod searched;
mod steps;

use serde::{Deserialize, Serialize};

use super::encoding::Encoding;
use super::operator::Operator;
use crate::weights::Dtype;

macro_rules! formats {
    ($($name:ident: $spec:expr,)*) => {
        /// The format of a quantized weight.
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
        )]
        #[serde(into = "&'static str", try_from = "String")]
        #[allow(missing_docs, reason = "each format's file describes it")]
        pub enum Format { $($name,)* }

        impl Format {
            /// All formats. Of those with one scheme, the usual one is the first.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            fn spec(self) -> &'static FormatSpec {
                match self {
                    $(Self::$name => {
                        const SPEC: FormatSpec = $spec;
                        &SPEC
                    })*
                }
            }
        }
    };
}

formats! {
    Int4: int4::blocks(128, "4bit"),
    Int8: int8::blocks(128, "8bit"),
    Nf4: nf4::FORMAT,
    Int4Blocks16: int4::blocks(16, "4bit-block-16"),
    Int4Blocks32: int4::blocks(32, "4bit-block-32"),
    Int4Blocks64: int4::blocks(64, "4bit-block-64"),
    Int4Blocks256: int4::blocks(256, "4bit-block-256"),
    Int8Blocks16: int8::blocks(16, "8bit-block-16"),
    Int8Blocks32: int8::blocks(32, "8bit-block-32"),
    Int8Blocks64: int8::blocks(64, "8bit-block-64"),
    Int8Blocks256: int8::blocks(256, "8bit-block-256"),
    Search: search::blocks(128, "4bit-search"),
    SearchBlocks16: search::blocks(16, "4bit-search-block-16"),
    SearchBlocks32: search::blocks(32, "4bit-search-block-32"),
    SearchBlocks64: search::blocks(64, "4bit-search-block-64"),
    SearchBlocks256: search::blocks(256, "4bit-search-block-256"),
    KQuant: k_quant::blocks(128, "4bit-k_quant"),
    KQuantBlocks16: k_quant::blocks(16, "4bit-k_quant-block-16"),
    KQuantBlocks32: k_quant::blocks(32, "4bit-k_quant-block-32"),
    KQuantBlocks64: k_quant::blocks(64, "4bit-k_quant-block-64"),
    KQuantBlocks256: k_quant::blocks(256, "4bit-k_quant-block-256"),
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
    /// Quantizes whole rows. Arguments: the values, the number of columns, and the encoding.
    quantize: fn(&[f32], usize, Encoding) -> Quantized,
    /// Whether each block has a zero point of its own.
    has_zeros: bool,
    /// What the head, keys and values have by default.
    sensitive: Sensitive,
    /// Whether `GatherBlockQuantized` can look up rows, so that a token embedding can have this
    /// format.
    has_row_lookup: bool,
    /// The largest allowed difference between merged and unmerged logits.
    tolerance: Tolerance,
}

/// What the head, keys and values have by default. Rounding them costs the most for their size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sensitive {
    /// The format of the other weights.
    Same,
    /// [`Format::Int8`].
    EightBits,
    /// The head stays float; keys and values have the format of the other weights.
    FloatHead,
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
    /// The code of zero of each block, packed like codes, each row from a whole byte on; empty for
    /// formats whose zero is in the middle.
    pub zeros: Vec<u8>,
}

impl Format {
    /// The formats that `--quantize` names; options lead to the others.
    pub const NAMED: [Self; 3] = [Self::Int4, Self::Int8, Self::Nf4];

    /// This format by another algorithm (`quantization_scheme`), or with blocks of another size.
    ///
    /// # Errors
    /// If there's no such format.
    pub fn with(self, algorithm: Option<&str>, block_size: Option<usize>) -> Result<Self, String> {
        let keys = self.keys();
        let algorithm = algorithm.unwrap_or(keys.scheme);
        let block_size = block_size.unwrap_or(self.encoding().block_size());
        let like = |format: &Self| {
            let of = format.keys();
            of.switch == keys.switch && of.scheme == algorithm
        };
        let sizes: Vec<String> = Self::ALL
            .iter()
            .filter(|format| like(format))
            .map(|format| format.encoding().block_size().to_string())
            .collect();
        let mut all = Self::ALL.iter().copied();
        let name = self.name();
        all.find(|format| like(format) && format.encoding().block_size() == block_size)
            .ok_or_else(|| match sizes.is_empty() {
                true => format!("there's no `{name}` by `{algorithm}`"),
                false => format!(
                    "there's no `{name}` by `{algorithm}` in blocks of {block_size}, but of {}",
                    sizes.join(", ")
                ),
            })
    }

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

    /// What the head, keys and values have by default, where the other weights have this format.
    pub fn sensitive(self) -> Sensitive {
        self.spec().sensitive
    }

    /// This format in the largest blocks of at most its size of which rows of each of `columns`
    /// consist, more than one each; this format where there are none.
    pub fn in_whole_blocks(self, columns: &[usize]) -> Self {
        let size = self.encoding().block_size();
        let keys = self.keys();
        let fits = |format: &&Self| {
            let of = format.encoding().block_size();
            let whole = |columns: &usize| *columns > of && columns.is_multiple_of(of);
            format.keys() == keys && of <= size && columns.iter().all(whole)
        };
        let found = Self::ALL.iter().filter(fits);
        found
            .max_by_key(|format| format.encoding().block_size())
            .copied()
            .unwrap_or(self)
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

    /// The shape of the zero points (bytes); `None` if zero is in the middle.
    pub fn zeros_shape(self, rows: usize, columns: usize) -> Option<Vec<usize>> {
        let has_zeros = self.spec().has_zeros;
        has_zeros.then(|| self.encoding().zeros_shape(rows, columns))
    }

    /// Bytes of codes, scales in `scales_type`, and zero points together.
    pub fn bytes(self, rows: usize, columns: usize, scales_type: Dtype) -> u64 {
        let zeros = self.zeros_shape(rows, columns);
        let zeros = zeros.map_or(0, |shape| shape.iter().product::<usize>());
        self.encoding().bytes(rows, columns, scales_type) + zeros as u64
    }

    /// Whether codes are symmetric around zero.
    pub fn is_symmetric(self) -> bool {
        self.encoding().is_symmetric() && !self.spec().has_zeros
    }

    /// Quantizes whole rows. If others follow them, they must fill whole blocks
    /// ([`Encoding::rows_at_once`]).
    ///
    /// Every value must be finite.
    pub fn quantize(self, values: &[f32], columns: usize) -> Quantized {
        (self.spec().quantize)(values, columns, self.encoding())
    }

    /// The dequantized values.
    pub fn dequantize(self, made: &Quantized, rows: usize, columns: usize) -> Vec<f32> {
        let Quantized {
            codes,
            scales,
            zeros,
        } = made;
        let zeros = self.spec().has_zeros.then_some(zeros.as_slice());
        let encoding = self.encoding();
        encoding.dequantize(codes, scales, zeros, rows, columns)
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
            let formats = [Format::Int4Blocks32, Format::Int8Blocks32, Format::Nf4];
            for (format, name) in formats.into_iter().zip(["4bit", "8bit", "nf4"]) {
                let label = format!("{matrix}.{name}");
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
                let made = format.dequantize(&found, rows, columns);
                assert_eq!(made, dequantized.to_f32().unwrap(), "{label}");
            }
        }
    }

    /// What onnxruntime's search makes of the same values, bit for bit.
    #[test]
    fn searched_codes_scales_and_zero_points_are_those_of_onnxruntime() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/quantized");
        let file = SafetensorsFile::open(&fixtures.join("k_quant.safetensors")).unwrap();
        let names = file.names();
        let all: Vec<&str> = names
            .iter()
            .filter_map(|name| name.strip_suffix(".codes"))
            .collect();
        assert_eq!(all.len(), 15);
        for label in all {
            let (matrix, size) = label.split_once('.').unwrap();
            let format = Format::Int4.with(Some("k_quant"), size.parse().ok());
            let weight = file
                .get(&format!("{matrix}.w"))
                .map(|w| w.to_f32().unwrap());
            let shape = file.get(&format!("{matrix}.w")).unwrap().shape.to_vec();
            let found = format.unwrap().quantize(&weight.unwrap(), shape[1]);
            let part = |part: &str| file.get(&format!("{label}.{part}")).unwrap().bytes.to_vec();
            let scales: Vec<u8> = found.scales.iter().flat_map(|s| s.to_le_bytes()).collect();
            assert_eq!(scales, part("scales"), "{label}");
            assert_eq!(found.zeros, part("zeros"), "{label}");
            assert_eq!(found.codes, part("codes"), "{label}");
        }
    }

    #[test]
    fn another_algorithm_or_block_size_is_found_or_refused_by_name() {
        let k_quant = Format::Int4.with(Some("k_quant"), Some(64));
        assert_eq!(k_quant, Ok(Format::KQuantBlocks64));
        assert_eq!(Format::Int8.with(None, Some(64)), Ok(Format::Int8Blocks64));
        let wrong = Format::Int8.with(Some("k_quant"), None).unwrap_err();
        assert!(wrong.contains("`8bit` by `k_quant`"), "{wrong}");
        let wrong = Format::Nf4.with(None, Some(32)).unwrap_err();
        assert!(wrong.ends_with("but of 64"), "{wrong}");
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
                zeros: Vec::new(),
            };
            for part in values.chunks(rows * columns) {
                let part = format.quantize(part, columns);
                parts.codes.extend(part.codes);
                parts.scales.extend(part.scales);
                parts.zeros.extend(part.zeros);
            }
            assert_eq!(parts, whole, "{format:?}");
        }
    }
}
