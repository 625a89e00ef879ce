//! The form of methods whose delta has no small factors: a full weight, made from the base's,
//! replaces it. The graph gets no further node.

use ndarray::Array2;

use crate::adapter::AdapterError;
use crate::adapter::form::{FormTensor, LinearForm, TensorRole};

/// A form that replaces the weight, of this `shape`, by the base's after `change`.
pub fn changed_weight<'a>(
    shape: [usize; 2],
    change: impl Fn(&mut Array2<f32>) -> Result<(), AdapterError> + Send + Sync + 'a,
) -> LinearForm<'a> {
    LinearForm::replaced(changed_tensor(shape, change))
}

/// The tensor of [`changed_weight`].
pub fn changed_tensor<'a>(
    shape: [usize; 2],
    change: impl Fn(&mut Array2<f32>) -> Result<(), AdapterError> + Send + Sync + 'a,
) -> FormTensor<'a> {
    FormTensor::derived("weight", &shape, TensorRole::InPlace, move |base| {
        let mut weight = base.weight()?.as_standard_layout().into_owned();
        change(&mut weight)?;
        Ok(weight.into_raw_vec_and_offset().0)
    })
}
