//! BOFT: the input is rotated by a product of `N` block rotations in butterfly order, and the
//! product with the weight is scaled: `y = s ∘ W (x · M) + b`, `M = M_{N-1} ⋯ M_0`.
//!
//! | tensor | shape |
//! |---|---|
//! | `boft_R` | `[N, D, b, b]`, `D b = in_features` |
//! | `boft_s` | `[out_features, 1]` |
//!
//! A block is the Cayley transform `(I − S)(I + S)⁻¹` of its skew-symmetric part
//! `S = (R − Rᵀ) / 2`. Level `k` cuts the inputs into `D / 2^k` runs. In each run, the chunks of
//! `b / 2` inputs with even indices come before those with odd ones. Without its CUDA extension
//! PEFT makes a single level, whatever `boft_n_butterfly_factor` is, so the tensor's shape in the
//! file tells the number. Rotations are computed in float64.
//!
//! Sources: Liu et al., arXiv:2311.06243; PEFT, `tuners/boft/`.

use ndarray::{Array1, Array3, Array4, Axis};

use super::{Class, Method};
use crate::adapter::form::{
    Form, FormTensor, InputStage, LinearForm, Native, NativeForm, NativeSite, TensorRole, elements,
    inverse,
};
use crate::adapter::targets::QUERY_VALUE;
use crate::adapter::toolbox::options::rank;
use crate::adapter::toolbox::skew::{cayley, skew_part, stack};
use crate::adapter::toolbox::tuner::{Loading, TargetLinear, Tuner};
use crate::adapter::{AdapterError, Effects, Init, ModuleAdapter};
use crate::graph::{Attr, Value};
use crate::json::{ConfigError, JsonObject};

/// The tensors of one layer.
#[derive(Debug)]
struct Boft {
    /// Keys of `boft_R` and `boft_s`.
    keys: [String; 2],
    /// `[N, D, b, b]`
    r: Array4<f32>,
    /// The Cayley transforms of `r`, by level: `[D, b, b]`.
    levels: Vec<Array3<f32>>,
    /// `[out_features]`
    s: Array1<f32>,
}

/// Names of the levels' rotations in the graph.
const ROTATIONS: [&str; 8] = [
    "rotation_0",
    "rotation_1",
    "rotation_2",
    "rotation_3",
    "rotation_4",
    "rotation_5",
    "rotation_6",
    "rotation_7",
];

/// The block sizes and levels that the options ask for.
#[derive(Debug)]
struct Cut {
    size: usize,
    count: usize,
    factor: usize,
}

impl Cut {
    fn read(config: &JsonObject) -> Result<Self, ConfigError> {
        let whole = |key: &str, default: usize| match config.get(key) {
            Some(value) if value.as_u64() == Some(0) => Ok(0),
            _ => rank(config, key, default),
        };
        let cut = Self {
            size: whole("boft_block_size", 4)?,
            count: whole("boft_block_num", 0)?,
            // Without its CUDA extension PEFT uses 1, whatever the option is.
            factor: whole("boft_n_butterfly_factor", 1)?.max(1),
        };
        if (cut.size == 0) == (cut.count == 0) {
            let expected = "positive, or 0 with a positive `boft_block_num`";
            return Err(config.wrong("boft_block_size", expected));
        }
        if cut.factor > ROTATIONS.len() {
            let expected = format!("at most {}", ROTATIONS.len());
            return Err(config.wrong("boft_n_butterfly_factor", &expected));
        }
        Ok(cut)
    }

    /// The blocks `[D, b]` of `layer`, with `levels` levels.
    fn of(
        &self,
        config: &JsonObject,
        layer: &TargetLinear,
        levels: usize,
    ) -> Result<[usize; 2], ConfigError> {
        let width = layer.in_features;
        let (key, given) = match self.size {
            0 => ("boft_block_num", self.count),
            size => ("boft_block_size", size),
        };
        if !width.is_multiple_of(given) {
            let expected = format!("a divisor of {width}, the inputs of `{}`", layer.path());
            return Err(config.wrong(key, &expected));
        }
        let [count, size] = match self.size {
            0 => [self.count, width / self.count],
            size => [width / size, size],
        };
        if levels > 1 && (!size.is_multiple_of(2) || !count.is_multiple_of(1 << (levels - 1))) {
            let expected = format!(
                "fewer levels: `{}` has {count} blocks of {size}, and {levels} levels need an even size \
                 and a multiple of {} blocks",
                layer.path(),
                1 << (levels - 1)
            );
            return Err(config.wrong("boft_n_butterfly_factor", &expected));
        }
        Ok([count, size])
    }
}

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "BOFT",
    class: Class::Weight,
    variants: "",
    refused: "more than 8 levels (`boft_n_butterfly_factor`)",
    load,
};

/// Reads the adapter.
fn load(loading: Loading) -> Result<Effects, AdapterError> {
    let config = loading.config;
    let cut = Cut::read(config)?;
    let identity = config.flag("init_weights", true)?;
    Tuner::open(loading, QUERY_VALUE, Some("boft_only"))?.adapt(|tensors, layer| {
        let [key_r, key_s] = ["boft_R", "boft_s"].map(|name| layer.key(name));
        let levels = match tensors.shape(&key_r).as_deref() {
            Some(&[1, ..]) => 1,
            _ => cut.factor,
        };
        let [count, size] = cut.of(config, layer, levels)?;
        let [init_r, init_s] = match identity {
            true => [Init::Zeros, Init::Constant(1.0)],
            // PEFT draws both from N(0, 0.1²) and N(1, 0.1²).
            false => [Init::Normal(0.1), Init::Around(1.0, 0.1)],
        };
        let shape = [levels, count, size, size];
        let r = tensors.take(&key_r, &shape, init_r)?;
        let levels = r.chunks_exact(count * size * size).map(|level| {
            let blocks: Vec<_> = level
                .chunks_exact(size * size)
                .map(|block| {
                    let block = ndarray::ArrayView2::from_shape((size, size), block);
                    cayley(&skew_part(block.expect("chunks have this size")))
                })
                .collect();
            stack(&blocks, size)
        });
        Ok(Boft {
            levels: levels.collect(),
            s: tensors
                .take(&key_s, &[layer.out_features, 1], init_s)?
                .into(),
            keys: [&key_r, &key_s].map(|key| tensors.full_key(key)),
            r: Array4::from_shape_vec(shape, r).expect("`take` gives as many values as asked for"),
        })
    })
}

/// The input at each position of level `level`'s blocks.
fn butterfly(count: usize, size: usize, level: usize) -> Vec<usize> {
    let run = size << level;
    let half = size / 2;
    let mut indices = Vec::with_capacity(count * size);
    for start in (0..count * size).step_by(run) {
        let chunks = 0..run / half;
        let evens = chunks.clone().step_by(2);
        for chunk in evens.chain(chunks.skip(1).step_by(2)) {
            indices.extend((0..half).map(|place| start + chunk * half + place));
        }
    }
    // P[row, indices[row]] = 1, and row vectors are multiplied by P from the right.
    inverse(&indices)
}

/// The nodes of the Cayley transforms `(I − S)(I + S)⁻¹` of blocks `[blocks, b, b]`.
///
/// The factors commute, so the transforms solve `(I + S) Q = I − S`, by Gauss–Jordan elimination.
/// It needs no pivoting: `S` is skew-symmetric, so every pivot is at least 1.
fn cayley_nodes(site: &mut NativeSite, r: &Value, size: usize) -> Value {
    let half = site.scalar("half", 0.5);
    let turned = site.transpose("R/transposed", r, &[0, 2, 1]);
    let twice = site.op("Sub", "2 S", &[r, &turned]);
    let s = site.op("Mul", "S", &[&twice, &half]);
    let identity = site.identity("I", size);
    let left = site.op("Add", "I + S", &[&identity, &s]);
    let right = site.op("Sub", "I - S", &[&identity, &s]);
    let name = site.name("system");
    let attrs = [("axis", Attr::Int(2))];
    let mut system = site.graph.op("Concat", &name, &[&left, &right], &attrs);
    for k in 0..size {
        let at = |what: &str| format!("{k}/{what}");
        let row = site.select(&at("row"), &system, 1, &[k]);
        let pivot = site.select(&at("pivot"), &row, 2, &[k]);
        let row = site.op("Div", &at("scaled"), &[&row, &pivot]);
        let column = site.select(&at("column"), &system, 2, &[k]);
        // Subtracting the unit vector makes the pivot's own row the scaled one.
        let unit = site.select(&at("unit"), &identity, 1, &[k]);
        let others = site.op("Sub", &at("others"), &[&column, &unit]);
        let outer = site.op("MatMul", &at("outer"), &[&others, &row]);
        system = site.op("Sub", &at("system"), &[&system, &outer]);
    }
    let right: Vec<usize> = (size..2 * size).collect();
    site.select("cayley", &system, 2, &right)
}

/// The blocks `[N D, b, b]` as `N` block-diagonal matrices, `[N, D b, D b]`.
fn block_diagonal(site: &mut NativeSite, blocks: &Value, count: usize, size: usize) -> Value {
    let [side, count_dim] = [size, count].map(|size| size as i64);
    let places = site.identity("places", count);
    let places = site.reshape("places/spread", &places, &[count_dim, 1, count_dim, 1]);
    let blocks = site.reshape("blocks", blocks, &[-1, count_dim, side, 1, side]);
    let spread = site.op("Mul", "blocks/spread", &[&places, &blocks]);
    let width = count_dim * side;
    site.reshape("matrices", &spread, &[-1, width, width])
}

/// With larger blocks, elimination would need too many nodes.
const LARGEST_NATIVE_BLOCK: usize = 32;

impl ModuleAdapter for Boft {
    fn form(&self) -> Form<'_> {
        let single = self.levels.len() == 1;
        // x · M_{N-1} ⋯ M_0: the last level is applied first.
        let stages = self.levels.iter().enumerate().rev().map(|(level, blocks)| {
            let (count, size) = (blocks.len_of(Axis(0)), blocks.len_of(Axis(1)));
            InputStage::Rotation {
                blocks: FormTensor::derived(
                    ROTATIONS[level],
                    blocks.shape(),
                    TensorRole::Map,
                    |_| Ok(elements(blocks)),
                ),
                order: (!single).then(|| butterfly(count, size, level)),
            }
        });
        Form::Linear(LinearForm {
            input: stages.collect(),
            gain: Some(FormTensor::stored(
                &self.keys[1],
                &self.s,
                TensorRole::Factor,
            )),
            ..LinearForm::default()
        })
    }

    /// Every forward pass solves for the transforms, writes them out as matrices of the layer's
    /// width, and multiplies these with each other and then with the input. PEFT's products with
    /// permutation matrices are gathers here, and its product with the identity is left out.
    fn native(&self) -> Native<'_> {
        let (levels, count, size, _) = self.r.dim();
        if size > LARGEST_NATIVE_BLOCK {
            return Native::Missing;
        }
        let tensors = vec![
            FormTensor::stored(&self.keys[0], &self.r, TensorRole::Term),
            FormTensor::stored(&self.keys[1], &self.s, TensorRole::Factor),
        ];
        Native::Own(NativeForm::new(tensors, move |site| {
            let (r, s) = (site.inputs[0].clone(), site.inputs[1].clone());
            let side = size as i64;
            let r = site.reshape("R", &r, &[-1, side, side]);
            let blocks = cayley_nodes(site, &r, size);
            let matrices = block_diagonal(site, &blocks, count, size);
            let mut rotation: Option<Value> = None;
            for level in 0..levels {
                let name = |what: &str| format!("level_{level}/{what}");
                let mut matrix = site.nth(&name("matrix"), &matrices, 0, level as i64);
                if level > 0 {
                    let places = inverse(&butterfly(count, size, level));
                    matrix = site.select(&name("rows"), &matrix, 0, &places);
                    matrix = site.select(&name("columns"), &matrix, 1, &places);
                }
                rotation = Some(match rotation {
                    Some(before) => site.op("MatMul", &name("product"), &[&matrix, &before]),
                    None => matrix,
                });
            }
            let rotation = rotation.expect("there's a level");
            let x = site.x.clone();
            let x = site.op("MatMul", "rotated", &[&x, &rotation]);
            let product = site.product(&x);
            let y = site.op("Mul", "gain", &[&product, &s]);
            site.biased(&y)
        }))
    }

    fn trainable_params(&self) -> usize {
        self.levels.iter().map(Array3::len).sum::<usize>() + self.s.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::ModuleWeights;
    use ndarray::{Array2, array};

    /// Values of PEFT's `block_butterfly_perm(8, 4 / 2^level, 1, 1)`, inverted.
    #[test]
    fn chunks_at_even_places_come_first() {
        assert_eq!(butterfly(4, 2, 0), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(inverse(&butterfly(4, 2, 1)), [0, 2, 1, 3, 4, 6, 5, 7]);
        assert_eq!(inverse(&butterfly(4, 2, 2)), [0, 2, 4, 6, 1, 3, 5, 7]);
        assert_eq!(inverse(&butterfly(2, 4, 1)), [0, 1, 4, 5, 2, 3, 6, 7]);
    }

    #[test]
    fn levels_are_multiplied_last_first() {
        let quarter = array![[0.0, 1.0], [-1.0, 0.0]];
        let level = |turns: [f32; 2]| {
            let block = |turn: f32| Array2::eye(2) * (1.0 - turn) + &quarter * turn;
            ndarray::stack(Axis(0), &[block(turns[0]).view(), block(turns[1]).view()]).unwrap()
        };
        let adapter = Boft {
            keys: ["R", "s"].map(str::to_owned),
            r: Array4::zeros((2, 2, 2, 2)),
            levels: vec![level([1.0, 0.0]), level([1.0, 0.0])],
            s: array![10.0],
        };
        let mut module = ModuleWeights {
            weight: array![[1.0, 2.0, 3.0, 4.0]],
            bias: Some(array![7.0]),
        };
        adapter.merge_into(&mut module).unwrap();
        // Level 1 rotates inputs 0 and 2: x → (−x₂, x₁, x₀, x₃); then level 0 rotates 0 and 1:
        // (−x₁, −x₂, x₀, x₃).
        assert_eq!(module.weight, array![[30.0, -10.0, -20.0, 40.0]]);
        assert_eq!(module.bias, Some(array![7.0]));
    }
}
