//! OFT: rotates blocks of the input, `x_k ← x_k · R_k`, so `W' = W · blockdiag(R)ᵀ`.
//!
//! | tensor | shape |
//! |---|---|
//! | `oft_R.weight` | `[in_features / b, b (b - 1) / 2]`, or one row with `block_share` |
//! | `oft_embedding_R.weight` | as above, with `embedding_dim`; `E' = E · blockdiag(R)` |
//!
//! A row is the upper triangle of a skew-symmetric matrix `S`. The exact rotation is
//! `R = (I − S)(I + S)⁻¹`. With `use_cayley_neumann` it's the first terms of
//! `(I + S)(I − S)⁻¹ = I + 2S + 2S² + …`, with half of the last term. That's the inverse rotation,
//! so adapters for one can't be used with the other. With `coft`, an `S` with a norm above
//! `eps / √rows` is scaled down to it. Rotations are computed in float64.
//!
//! Sources: Qiu et al., arXiv:2306.07280 and arXiv:2506.19847; PEFT, `tuners/oft/`.

use ndarray::{Array2, Array3};

use super::{Class, Method};
use crate::adapter::form::{
    EmbeddingForm, Form, FormTensor, InputStage, LinearForm, Native, NativeForm, TensorRole,
    elements, rotate_input,
};
use crate::adapter::targets::QUERY_VALUE;
use crate::adapter::toolbox::options::{factor, rank};
use crate::adapter::toolbox::skew::{cayley, skew, stack};
use crate::adapter::toolbox::tuner::{Loading, TargetModule, Tuner};
use crate::adapter::{AdapterError, Effects, Init, ModuleAdapter};
use crate::json::{ConfigError, JsonObject};

/// The options that change inference.
#[derive(Debug)]
struct OftConfig {
    size: BlockSize,
    /// The number of terms of the series; `None` for the exact rotation.
    terms: Option<usize>,
    /// With `coft`, the largest norm of `S`.
    largest: Option<f64>,
    block_share: bool,
    init: Init,
}

/// How a width is cut into blocks.
#[derive(Debug, Clone, Copy)]
enum BlockSize {
    Of(usize),
    Count(usize),
}

/// The rotations of one module.
#[derive(Debug)]
struct Oft {
    key: String,
    /// `[rows, b (b - 1) / 2]`
    r: Array2<f32>,
    /// The number of blocks, and their size `b`.
    blocks: [usize; 2],
    terms: Option<usize>,
    largest: Option<f64>,
    embedding: bool,
}

impl OftConfig {
    fn read(config: &JsonObject) -> Result<Self, ConfigError> {
        let whole = |key: &str, default: usize| match config.get(key) {
            Some(value) if value.as_u64() == Some(0) => Ok(0),
            _ => rank(config, key, default),
        };
        let size = match (whole("r", 0)?, whole("oft_block_size", 32)?) {
            (0, size) if size > 0 => BlockSize::Of(size),
            (count, 0) if count > 0 => BlockSize::Count(count),
            _ => {
                let expected = "0 with a positive `r`, or positive with an `r` of 0";
                return Err(config.wrong("oft_block_size", expected));
            }
        };
        let neumann = config.flag("use_cayley_neumann", true)?;
        let terms = config.optional_size_up_to("num_cayley_neumann_terms", 1000)?;
        let largest = match config.flag("coft", false)? {
            true => Some(factor(config, "eps", 6e-5)?),
            false => None,
        };
        Ok(Self {
            size,
            terms: neumann.then_some(terms.unwrap_or(5)),
            largest,
            block_share: config.flag("block_share", false)?,
            init: match config.flag("init_weights", true)? {
                true => Init::Zeros,
                false => Init::Normal(0.1),
            },
        })
    }
}

impl BlockSize {
    /// The number of blocks and their size. A number that doesn't divide the width is replaced by
    /// the nearest divisor, the smaller of two.
    fn cut(self, width: usize) -> [usize; 2] {
        let nearest = |wanted: usize| {
            if wanted >= width {
                return width;
            }
            let divides = |size: &usize| width.is_multiple_of(*size);
            let lower = (1..=wanted).rev().find(divides).unwrap_or(1);
            let higher = (wanted..=width).find(divides).unwrap_or(width);
            if wanted - lower <= higher - wanted {
                lower
            } else {
                higher
            }
        };
        match self {
            Self::Of(size) => {
                let size = nearest(size);
                [width / size, size]
            }
            Self::Count(count) => {
                let count = nearest(count);
                [count, width / count]
            }
        }
    }
}

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "OFT",
    class: Class::Weight,
    variants: "exact and Cayley-Neumann, coft, block_share, embeddings",
    refused: "",
    load,
};

/// Reads the adapter.
fn load(loading: Loading) -> Result<Effects, AdapterError> {
    let oft = OftConfig::read(loading.config)?;
    Tuner::open(loading, QUERY_VALUE, Some("oft_only"))?.adapt_any(|tensors, target| {
        let (key, width, embedding) = match target {
            TargetModule::Linear(layer) => (layer.key("oft_R.weight"), layer.in_features, false),
            TargetModule::Embedding(table) => (
                table.key("oft_embedding_R.weight"),
                table.embedding_dim,
                true,
            ),
        };
        let [count, size] = oft.size.cut(width);
        let rows = if oft.block_share { 1 } else { count };
        Ok(Box::new(Oft {
            key: tensors.full_key(&key),
            r: tensors.matrix(&key, [rows, size * (size - 1) / 2], oft.init)?,
            blocks: [count, size],
            terms: oft.terms,
            largest: oft.largest,
            embedding,
        }))
    })
}

impl Oft {
    /// The rotations, `[n, b, b]`.
    fn rotations(&self) -> Array3<f32> {
        let [count, size] = self.blocks;
        let largest = self.largest.map(|eps| eps / (self.r.nrows() as f64).sqrt());
        let turn = |row: ndarray::ArrayView1<f32>| {
            let mut s = skew(&row.to_vec(), size);
            let norm = (&s * &s).sum().sqrt();
            if let Some(largest) = largest
                && norm > largest
            {
                s *= largest / norm;
            }
            match self.terms {
                Some(terms) => neumann(&s, terms),
                None => cayley(&s),
            }
        };
        let rows: Vec<Array2<f64>> = self.r.rows().into_iter().map(turn).collect();
        let of = |index: usize| rows[index % rows.len()].clone();
        let blocks: Vec<Array2<f64>> = (0..count).map(of).collect();
        stack(&blocks, size)
    }
}

/// `I + 2 (S + … + S^(t-2)) + S^(t-1)`. As in PEFT, 3 terms give the same as 4.
pub fn neumann(s: &Array2<f64>, terms: usize) -> Array2<f64> {
    let mut sum = Array2::eye(s.nrows());
    if terms < 2 {
        return sum;
    }
    sum.scaled_add(2.0, s);
    if terms == 2 {
        return sum;
    }
    let mut power = s.dot(s);
    sum.scaled_add(2.0, &power);
    for _ in 3..terms.saturating_sub(1) {
        power = power.dot(s);
        sum.scaled_add(2.0, &power);
    }
    sum + power.dot(s)
}

/// For each element of a skew-symmetric matrix, row by row: the index of its value in the upper
/// triangle, and its sign.
fn skew_indices(size: usize) -> (Vec<i64>, Vec<f32>) {
    let mut order = vec![0; size * size];
    let mut signs = vec![0.0; size * size];
    let places = (0..size).flat_map(|row| (row + 1..size).map(move |column| (row, column)));
    for (index, (row, column)) in places.enumerate() {
        for (place, sign) in [(row * size + column, 1.0), (column * size + row, -1.0)] {
            order[place] = index as i64;
            signs[place] = sign;
        }
    }
    (order, signs)
}

impl ModuleAdapter for Oft {
    fn form(&self) -> Form<'_> {
        let [count, size] = self.blocks;
        let blocks = FormTensor::derived("rotation", &[count, size, size], TensorRole::Map, |_| {
            Ok(elements(&self.rotations()))
        });
        if self.embedding {
            return Form::Embedding(EmbeddingForm {
                rotation: Some(blocks),
                ..EmbeddingForm::default()
            });
        }
        Form::Linear(LinearForm {
            input: vec![InputStage::Rotation {
                blocks,
                order: None,
            }],
            ..LinearForm::default()
        })
    }

    /// Sums the series in every step.
    fn native(&self) -> Native<'_> {
        let (Some(terms), None, false) = (self.terms, self.largest, self.embedding) else {
            return Native::Missing;
        };
        let [_, size] = self.blocks;
        if terms < 2 || size < 2 {
            return Native::Missing;
        }
        let tensors = vec![FormTensor::stored(&self.key, &self.r, TensorRole::Term)];
        Native::Own(NativeForm::new(tensors, move |site| {
            let vector = site.inputs[0].clone();
            let (order, signs) = skew_indices(size);
            let name = site.name("skew");
            let order = site
                .graph
                .constant_i64(&format!("{name}/order"), &order, false);
            let signs_name = format!("{name}/signs");
            let signs = site.graph.constant_f32(&signs_name, &[size * size], &signs);
            let signs = site.graph.to_compute(&format!("{name}/cast"), &signs);
            let spread = site
                .graph
                .gather(&format!("{name}/spread"), &vector, &order, 1);
            let signed = site.op("Mul", "skew/signed", &[&spread, &signs]);
            let side = size as i64;
            let s = site.graph.reshape(&name, &signed, &[-1, side, side]);

            let two = site.scalar("two", 2.0);
            let identity = site.identity("identity", size);
            let double = site.op("Mul", "S/2", &[&s, &two]);
            let mut sum = site.op("Add", "S/sum", &[&identity, &double]);
            if terms > 2 {
                let mut power = site.op("MatMul", "S2", &[&s, &s]);
                let double = site.op("Mul", "S2/2", &[&power, &two]);
                sum = site.op("Add", "S2/sum", &[&sum, &double]);
                for k in 3..terms.saturating_sub(1) {
                    let name = |what: &str| format!("S{k}{what}");
                    power = site.op("MatMul", &name(""), &[&power, &s]);
                    let double = site.op("Mul", &name("/2"), &[&power, &two]);
                    sum = site.op("Add", &name("/sum"), &[&sum, &double]);
                }
                power = site.op("MatMul", "S_last", &[&power, &s]);
                sum = site.op("Add", "S_last/sum", &[&sum, &power]);
            }
            let name = site.name("input_0");
            let x = rotate_input(site.graph, &name, site.x, &sum, size, None);
            site.base(&x)
        }))
    }

    fn trainable_params(&self) -> usize {
        self.r.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::ModuleWeights;
    use ndarray::array;

    #[test]
    fn a_width_is_cut_by_the_nearest_divisor() {
        assert_eq!(BlockSize::Of(32).cut(64), [2, 32]);
        assert_eq!(BlockSize::Of(5).cut(12), [3, 4]);
        assert_eq!(BlockSize::Of(9).cut(12), [2, 6]);
        assert_eq!(BlockSize::Of(11).cut(12), [1, 12]);
        assert_eq!(BlockSize::Of(99).cut(12), [1, 12]);
        assert_eq!(BlockSize::Count(4).cut(12), [4, 3]);
    }

    #[test]
    fn the_series_nears_the_inverse_of_the_exact_rotation() {
        let s = skew(&[0.1, -0.2, 0.05], 3);
        let inverse = cayley(&s).t().to_owned();
        let error = |terms| (neumann(&s, terms) - &inverse).mapv(f64::abs).sum();
        assert!(error(5) < error(4) && error(4) < error(2) && error(30) < 1e-12);
        assert_eq!(neumann(&s, 3), neumann(&s, 4));
        assert_eq!(neumann(&s, 1), Array2::<f64>::eye(3));
    }

    #[test]
    fn inputs_turn_block_by_block() {
        let adapter = Oft {
            key: "R".to_owned(),
            r: array![[1.0]],
            blocks: [2, 2],
            terms: None,
            largest: None,
            embedding: false,
        };
        let mut module = ModuleWeights {
            weight: array![[1.0, 2.0, 3.0, 4.0]],
            bias: None,
        };
        adapter.merge_into(&mut module).unwrap();
        // R = [[0, −1], [1, 0]], shared: x·R = (x₁, −x₀).
        assert_eq!(module.weight, array![[-2.0, 1.0, -4.0, 3.0]]);
    }

    #[test]
    fn coft_limits_the_norm() {
        let adapter = Oft {
            key: "R".to_owned(),
            r: array![[3.0], [0.001]],
            blocks: [2, 2],
            terms: Some(2),
            largest: Some(0.02),
            embedding: false,
        };
        let rotations = adapter.rotations();
        // ‖S‖ = √2 s, and it's limited to 0.02 / √2.
        assert!((rotations[[0, 0, 1]] - 0.02).abs() < 1e-6);
        assert!((rotations[[1, 0, 1]] - 0.002).abs() < 1e-9);
    }
}
