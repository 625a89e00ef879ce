//! MiSS: adds row `c mod r` of a block to column `c` of the weight, so inputs are first summed by
//! their index mod `r`.
//!
//! | `init_weights` | tensor `miss_block` | |
//! |---|---|---|
//! | `true`, `false` | `[r, out_features]` | `W'[:, c] = W[:, c] + block[c mod r]` |
//! | `mini` | `[r, mini_r]` | as above, with the block repeated along the outputs |
//! | `bat` | `[out_features / r, r, r]` | block `(p, q)` of `W`, `r × r`: `W_pq + W_pq R_p + R_p` |
//!
//! The option also selects the arithmetic of trained adapters. Sums are taken in float32.
//!
//! Sources: Kang and Yin, arXiv:2409.15371; PEFT, `tuners/miss/`.

use ndarray::{Array2, Array3, Axis, s};

use super::{Class, Method};
use crate::adapter::form::{
    BaseModule, Delta, Form, FormTensor, LinearForm, Native, TensorRole, elements,
};
use crate::adapter::targets::QUERY_VALUE;
use crate::adapter::toolbox::options::rank;
use crate::adapter::toolbox::tuner::{Loading, Tuner};
use crate::adapter::{AdapterError, Effects, Init, ModuleAdapter, ModuleWeights};

/// The block of one layer.
#[derive(Debug)]
enum Block {
    /// `[r, out_features / copies]`
    Folded { block: Array2<f32>, copies: usize },
    /// `[out_features / r, r, r]`
    Affine(Array3<f32>),
}

/// The tensor of one layer.
#[derive(Debug)]
struct Miss {
    key: String,
    block: Block,
    out_features: usize,
    in_features: usize,
}

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "MISS",
    class: Class::Weight,
    variants: "mini, bat",
    refused: "",
    load,
};

/// Reads the adapter.
fn load(loading: Loading) -> Result<Effects, AdapterError> {
    let config = loading.config;
    let r = rank(config, "r", 64)?;
    let mini_r = rank(config, "mini_r", 1)?;
    let variant = match config.get("init_weights") {
        None | Some(serde_json::Value::Bool(_)) => None,
        Some(serde_json::Value::String(name)) if name == "bat" || name == "mini" => {
            Some(name.as_str())
        }
        Some(_) => {
            let expected = "`true`, `false`, `bat` or `mini`";
            return Err(config.wrong("init_weights", expected).into());
        }
    };
    let identity = config.get("init_weights") != Some(&serde_json::Value::Bool(false));
    Tuner::open(loading, QUERY_VALUE, Some("miss_only"))?.adapt(|tensors, layer| {
        let key = layer.key("miss_block");
        let (rows, columns) = (layer.out_features, layer.in_features);
        let expected = |what: &str| format!("{what} of `{}`", layer.path());
        if r > columns {
            let expected = expected(&format!("at most {columns}, the inputs"));
            return Err(config.wrong("r", &expected).into());
        }
        let block = match variant {
            Some("bat") => {
                if !rows.is_multiple_of(r) || !columns.is_multiple_of(r) {
                    let both = format!("a divisor of {rows} and {columns}, outputs and inputs");
                    return Err(config.wrong("r", &expected(&both)).into());
                }
                Block::Affine(tensors.cube(&key, [rows / r, r, r], Init::Zeros)?)
            }
            Some(_) => {
                if !rows.is_multiple_of(mini_r) {
                    let divisor = expected(&format!("a divisor of {rows}, the outputs"));
                    return Err(config.wrong("mini_r", &divisor).into());
                }
                Block::Folded {
                    block: tensors.matrix(&key, [r, mini_r], Init::Zeros)?,
                    copies: rows / mini_r,
                }
            }
            None => {
                let init = match identity {
                    true => Init::Zeros,
                    false => Init::linear_default(rows),
                };
                Block::Folded {
                    block: tensors.matrix(&key, [r, rows], init)?,
                    copies: 1,
                }
            }
        };
        Ok(Miss {
            key: tensors.full_key(&key),
            block,
            out_features: rows,
            in_features: columns,
        })
    })
}

/// `W_pq ← W_pq + W_pq R_p + R_p`
fn add_affine(weight: &mut Array2<f32>, blocks: &Array3<f32>) {
    let r = blocks.len_of(Axis(1));
    for (p, block) in blocks.axis_iter(Axis(0)).enumerate() {
        for start in (0..weight.ncols()).step_by(r) {
            let mut place = weight.slice_mut(s![p * r..(p + 1) * r, start..start + r]);
            let delta = place.dot(&block) + block;
            place += &delta;
        }
    }
}

impl ModuleAdapter for Miss {
    fn form(&self) -> Form<'_> {
        Form::Linear(match &self.block {
            Block::Folded { block, copies } => LinearForm {
                delta: Some(Delta::Folded {
                    block: FormTensor::stored(&self.key, block, TensorRole::Term),
                    copies: *copies,
                    in_features: self.in_features,
                }),
                ..LinearForm::default()
            },
            Block::Affine(blocks) => {
                let shape = [self.out_features, self.in_features];
                let weight = |base: &BaseModule| {
                    let mut weight = base.weight()?.clone();
                    add_affine(&mut weight, blocks);
                    Ok(elements(&weight))
                };
                LinearForm::replaced(FormTensor::derived(
                    "weight",
                    &shape,
                    TensorRole::InPlace,
                    weight,
                ))
            }
        })
    }

    fn merge_into(&self, module: &mut ModuleWeights) -> Result<(), AdapterError> {
        match &self.block {
            Block::Folded { .. } => self.form().merge_into(module),
            Block::Affine(blocks) => {
                add_affine(&mut module.weight, blocks);
                Ok(())
            }
        }
    }

    fn native(&self) -> Native<'_> {
        match self.block {
            Block::Folded { .. } => Native::Reduced,
            Block::Affine(_) => Native::Missing,
        }
    }

    fn trainable_params(&self) -> usize {
        match &self.block {
            Block::Folded { block, .. } => block.len(),
            Block::Affine(blocks) => blocks.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    fn merged(block: Block, weight: Array2<f32>) -> Array2<f32> {
        let (out_features, in_features) = weight.dim();
        let adapter = Miss {
            key: "miss_block".to_owned(),
            block,
            out_features,
            in_features,
        };
        let mut module = ModuleWeights { weight, bias: None };
        adapter.merge_into(&mut module).unwrap();
        module.weight
    }

    #[test]
    fn columns_take_turns_at_the_rows_of_the_block() {
        let block = Block::Folded {
            block: array![[1.0, 2.0], [10.0, 20.0]],
            copies: 1,
        };
        let expected = array![[1.0, 10.0, 1.0], [2.0, 20.0, 2.0]];
        assert_eq!(merged(block, Array2::zeros((2, 3))), expected);
    }

    #[test]
    fn a_mini_block_is_repeated_along_the_outputs() {
        let block = Block::Folded {
            block: array![[1.0, 2.0]],
            copies: 2,
        };
        let expected = array![[1.0], [2.0], [1.0], [2.0]];
        assert_eq!(merged(block, Array2::zeros((4, 1))), expected);
    }

    #[test]
    fn bat_changes_each_block_by_itself() {
        let block = Block::Affine(array![[[2.0]], [[0.5]]]);
        let weight = array![[1.0, 2.0], [4.0, 6.0]];
        assert_eq!(merged(block, weight), array![[5.0, 8.0], [6.5, 9.5]]);
    }
}
