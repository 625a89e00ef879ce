//! LoRA on stacked experts: `W'[e] = W[e] + scaling * B[e] A[e]`.
//!
//! | tensor | shape | of expert `e` |
//! |---|---|---|
//! | `lora_A.weight` | `[experts * r, in_features]` | rows `e r` to `(e + 1) r` |
//! | `lora_B.weight` | `[out_features, r * experts]` | columns `e`, `e + experts`, … |
//!
//! `gate_up_proj` has the rows of the gate and then those of up, with one `A` for both. If it's
//! adapted together with `down_proj`, its keys contain `base_layer`: PEFT wraps one and then the
//! other.
//!
//! Some families store each expert's matrix as `[in_features, out_features]`. PEFT knows that if
//! Transformers' class says so. Otherwise it takes the last axis for the inputs, and the pair is that
//! of the transposed weight.
//!
//! Adapters that were saved for single experts have a pair for each projection. PEFT combines those
//! of gate and up into one pair with the sum of both ranks: `A` one below the other, `B`
//! block-diagonal.
//!
//! Source: PEFT, `tuners/lora/layer.py` (`ParamWrapper`),
//! `utils/transformers_weight_conversion.py`.

use std::ops::Range;
use std::sync::Arc;

use ndarray::{Array3, ArrayView2, Axis, s};

use super::init::LoraInit;
use crate::adapter::form::{Form, FormTensor, LinearForm, TensorRole};
use crate::adapter::toolbox::stacked::Stack;
use crate::adapter::{AdapterError, AdapterTensors, Init, ModuleAdapter};
use crate::arch::Expert;

/// The factors of all experts of a layer.
#[derive(Debug)]
struct ExpertFactors {
    /// `[experts, r, in_features]`
    a: Array3<f32>,
    /// `[experts, out_features, r]`
    b: Array3<f32>,
    scaling: f32,
}

/// One projection of one expert.
#[derive(Debug)]
pub struct ExpertLinear {
    factors: Arc<ExpertFactors>,
    expert: usize,
    /// Its rows of `B`.
    rows: Range<usize>,
    /// The names of the graph's inputs for `A` and `B`.
    keys: [String; 2],
    /// The number of parameters that are counted here.
    trainable: usize,
}

/// A stacked tensor to adapt, and how.
#[derive(Debug, Clone, Copy)]
pub struct StackedTarget<'a> {
    /// Which tensor.
    pub stack: Stack,
    /// The prefix of its keys.
    pub key: &'a str,
    /// Rank.
    pub r: usize,
    /// What `B A` is multiplied by.
    pub scaling: f32,
    /// How a fresh adapter is initialised.
    pub init: LoraInit,
    /// Whether `A` and `B` are those of the transposed weight.
    pub swapped: bool,
}

/// Reads the tensors, and returns the adapter of each projection, by path.
///
/// # Errors
/// If one is missing or has another shape.
pub fn load(
    tensors: &mut AdapterTensors,
    target: StackedTarget,
    experts: &[Expert],
) -> Result<Vec<(String, ExpertLinear)>, AdapterError> {
    let single = target.stack.linears(&experts[0])[0];
    let (a, b) = match tensors.has(&format!("{}.lora_A.weight", single.source)) {
        true => of_single_experts(tensors, target, experts)?,
        false => stacked(tensors, target, experts)?,
    };
    let scaling = target.scaling;
    let factors = Arc::new(ExpertFactors { a, b, scaling });
    let mut all = Vec::new();
    for (index, expert) in experts.iter().enumerate() {
        let first = target.stack.linears(expert)[0];
        let place = first.path.rsplit_once('.').map_or("", |(place, _)| place);
        let a = tensors.full_key(&format!(
            "{place}.{}.lora_A.weight",
            target.stack.name(&experts[0])
        ));
        let mut row = 0;
        for linear in target.stack.linears(expert) {
            let rows = row..row + linear.out_features;
            row = rows.end;
            let of_a = if rows.start == 0 {
                linear.in_features
            } else {
                0
            };
            let adapter = ExpertLinear {
                trainable: target.r * (of_a + rows.len()),
                factors: Arc::clone(&factors),
                expert: index,
                rows,
                keys: [
                    a.clone(),
                    tensors.full_key(&format!("{}.lora_B.weight", linear.path)),
                ],
            };
            all.push((linear.path.clone(), adapter));
        }
    }
    Ok(all)
}

/// `[experts, r, in_features]` and `[experts, out_features, r]`, from a file with one pair for all
/// experts.
fn stacked(
    tensors: &mut AdapterTensors,
    target: StackedTarget,
    experts: &[Expert],
) -> Result<(Array3<f32>, Array3<f32>), AdapterError> {
    let StackedTarget { key, r, .. } = target;
    let linears = target.stack.linears(&experts[0]);
    let (count, columns) = (experts.len(), linears[0].in_features);
    let rows: usize = linears.iter().map(|linear| linear.out_features).sum();
    let [rows, columns] = match target.swapped {
        true => [columns, rows],
        false => [rows, columns],
    };
    let [init_a, init_b] = match target.init {
        LoraInit::Gaussian => [Init::Normal(1.0 / r as f32), Init::Zeros],
        LoraInit::Random => [
            Init::linear_default(columns),
            Init::linear_default(count * r),
        ],
        _ => [Init::linear_default(columns), Init::Zeros],
    };
    let a = tensors.take(
        &format!("{key}.lora_A.weight"),
        &[count * r, columns],
        init_a,
    )?;
    let b = tensors.take(&format!("{key}.lora_B.weight"), &[rows, r * count], init_b)?;
    let a = Array3::from_shape_vec((count, r, columns), a);
    let a = a.expect("`take` gives as many values as asked for");
    let b = match tensors.has_values() {
        true => {
            let b = Array3::from_shape_vec((rows, r, count), b);
            let b = b.expect("`take` gives as many values as asked for");
            b.permuted_axes([2, 0, 1]).as_standard_layout().into_owned()
        }
        false => Array3::zeros((count, rows, r)),
    };
    if !target.swapped {
        return Ok((a, b));
    }
    let turned = |x: Array3<f32>| x.permuted_axes([0, 2, 1]).as_standard_layout().into_owned();
    Ok((turned(b), turned(a)))
}

/// `[experts, r, in_features]` and `[experts, out_features, r]`, from a file with a pair for each
/// projection of each expert.
fn of_single_experts(
    tensors: &mut AdapterTensors,
    target: StackedTarget,
    experts: &[Expert],
) -> Result<(Array3<f32>, Array3<f32>), AdapterError> {
    let linears = target.stack.linears(&experts[0]);
    let parts = linears.len();
    if !target.r.is_multiple_of(parts) {
        let message = format!(
            "`{}` of single experts has an even rank, not {} (from `rank_pattern`)",
            target.stack.name(&experts[0]),
            target.r
        );
        return Err(tensors.layout(message));
    }
    let r = target.r / parts;
    let rows: usize = linears.iter().map(|linear| linear.out_features).sum();
    let mut a = Array3::zeros((experts.len(), target.r, linears[0].in_features));
    let mut b = Array3::zeros((experts.len(), rows, target.r));
    for (index, expert) in experts.iter().enumerate() {
        let mut row = 0;
        for (part, linear) in target.stack.linears(expert).into_iter().enumerate() {
            let (out, input) = (linear.out_features, linear.in_features);
            let key = |name: &str| format!("{}.{name}.weight", linear.source);
            let ranks = part * r..(part + 1) * r;
            let own = tensors.matrix(&key("lora_A"), [r, input], Init::Zeros)?;
            a.slice_mut(s![index, ranks.clone(), ..]).assign(&own);
            let own = tensors.matrix(&key("lora_B"), [out, r], Init::Zeros)?;
            b.slice_mut(s![index, row..row + out, ranks]).assign(&own);
            row += out;
        }
    }
    Ok((a, b))
}

impl ExpertLinear {
    /// `[r, in_features]`
    fn a(&self) -> ArrayView2<'_, f32> {
        self.factors.a.index_axis(Axis(0), self.expert)
    }

    /// `[out_features, r]`
    fn b(&self) -> ArrayView2<'_, f32> {
        let rows = self.rows.clone();
        self.factors.b.slice(s![self.expert, rows, ..])
    }
}

impl ModuleAdapter for ExpertLinear {
    fn form(&self) -> Form<'_> {
        let (a, b) = (self.a(), self.b());
        let scaling = self.factors.scaling;
        let a = FormTensor::derived("lora_A", a.shape(), TensorRole::Term, move |_| {
            Ok(a.iter().copied().collect())
        });
        let b = FormTensor::derived("lora_B", b.shape(), TensorRole::Term, move |_| {
            Ok(b.iter().map(|value| value * scaling).collect())
        });
        let (a, b) = (a.keyed(&self.keys[0]), b.keyed(&self.keys[1]));
        Form::Linear(LinearForm::low_rank(a, b))
    }

    fn trainable_params(&self) -> usize {
        self.trainable
    }
}
