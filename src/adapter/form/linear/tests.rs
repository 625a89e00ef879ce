use ndarray::{Array1, Array2, Array3, array};

use super::*;
use crate::adapter::ModuleWeights;
use crate::adapter::form::TensorRole;

fn merged(form: &LinearForm, weight: Array2<f32>, bias: Option<Array1<f32>>) -> ModuleWeights {
    let mut module = ModuleWeights { weight, bias };
    form.merge_into(&mut module).unwrap();
    module
}

/// Expected values: `y` by the stages, element by element.
#[test]
fn stages_merge_in_their_order() {
    let (a, b) = (array![[1.0, -1.0]], array![[2.0], [0.5]]);
    let (scale, gain, out) = (array![3.0, 0.5], array![2.0, 4.0], array![10.0, 100.0]);
    let bias = array![1.0, 2.0];
    let form = LinearForm {
        input: vec![InputStage::Scale(FormTensor::stored(
            "v",
            &scale,
            TensorRole::Factor,
        ))],
        gain: Some(FormTensor::stored("g", &gain, TensorRole::Factor)),
        bias: Some(FormTensor::stored("b", &bias, TensorRole::InPlace)),
        output: Some(OutputStage::Scale(FormTensor::stored(
            "l",
            &out,
            TensorRole::Factor,
        ))),
        ..LinearForm::low_rank(
            FormTensor::stored("A", &a, TensorRole::Term),
            FormTensor::scaled("B", &b, 2.0, TensorRole::Term),
        )
    };
    let module = merged(
        &form,
        array![[1.0, 2.0], [3.0, 4.0]],
        Some(array![9.0, 9.0]),
    );
    // Row 0: ([3, 1] + 4·[1, −1])·2·10; row 1: ([9, 2] + [1, −1])·4·100.
    assert_eq!(module.weight, array![[140.0, -60.0], [4000.0, 400.0]]);
    assert_eq!(module.bias, Some(array![10.0, 200.0]));
}

#[test]
fn a_rotation_turns_row_vectors_in_the_order_given() {
    let blocks: Array3<f32> = array![[[0.0, 1.0], [-1.0, 0.0]]];
    let rotation = |order| LinearForm {
        input: vec![InputStage::Rotation {
            blocks: FormTensor::stored("R", &blocks, TensorRole::Map),
            order,
        }],
        ..LinearForm::default()
    };
    // x·R = (−x₁, x₀); y = W (x·R).
    let plain = merged(&rotation(None), array![[1.0, 10.0]], None);
    assert_eq!(plain.weight, array![[10.0, -1.0]]);
    // The blocks see (x₁, x₀), which becomes (−x₀, x₁): back in place, (x₁, −x₀).
    let turned = merged(&rotation(Some(vec![1, 0])), array![[1.0, 10.0]], None);
    assert_eq!(turned.weight, array![[-10.0, 1.0]]);
}

#[test]
fn a_kronecker_product_is_added_block_by_block() {
    let (outer, inner) = (array![[1.0, 2.0]], array![[1.0], [10.0]]);
    let form = LinearForm {
        delta: Some(Delta::Kronecker {
            outer: FormTensor::stored("w1", &outer, TensorRole::Term),
            inner: FormTensor::stored("w2", &inner, TensorRole::Term),
        }),
        ..LinearForm::default()
    };
    let module = merged(&form, Array2::ones((2, 2)), None);
    assert_eq!(module.weight, array![[2.0, 3.0], [11.0, 21.0]]);
}

#[test]
fn pairs_of_outputs_turn_with_their_bias() {
    let (own, other) = (array![2.0, 3.0], array![-1.0, 1.0]);
    let form = LinearForm {
        output: Some(OutputStage::Pairs {
            own: FormTensor::stored("c", &own, TensorRole::Factor),
            other: FormTensor::stored("t", &other, TensorRole::Term),
            order: vec![1, 0],
        }),
        ..LinearForm::default()
    };
    let module = merged(&form, array![[1.0], [10.0]], Some(array![1.0, 2.0]));
    assert_eq!(module.weight, array![[-8.0], [31.0]]);
    assert_eq!(module.bias, Some(array![0.0, 7.0]));
}

#[test]
fn the_smaller_of_pair_and_weight_is_chosen() {
    let (a, b) = (Array2::zeros((1, 4)), Array2::zeros((4, 1)));
    let (c, d) = (Array2::zeros((2, 4)), Array2::zeros((4, 2)));
    let weight = || FormTensor::derived("W", &[4, 4], TensorRole::InPlace, |_| unreachable!());
    let choose = |a, b| {
        LinearForm::low_rank_or_weight(
            FormTensor::stored("A", a, TensorRole::Term),
            FormTensor::stored("B", b, TensorRole::Term),
            weight(),
        )
    };
    assert!(choose(&a, &b).weight.is_none());
    assert!(choose(&c, &d).delta.is_none());
}
