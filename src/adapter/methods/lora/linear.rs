//! LoRA on a linear layer: `y = g * (W x + scaling * (B A x + b_B)) + b`, `g = 1` without DoRA.

use ndarray::linalg::general_mat_mul;
use ndarray::{Array1, Array2, ArrayView1, Axis};

use super::residual::Residual;
use crate::adapter::form::{
    BaseModule, Form, FormTensor, LinearForm, Native, NativeForm, TensorRole, elements, scale_rows,
};
use crate::adapter::{AdapterError, ModuleAdapter, ModuleWeights};

/// The tensors of one linear layer.
#[derive(Debug)]
pub struct LoraLinear {
    /// Keys of `A`, `B`, magnitude.
    pub keys: [String; 3],
    /// `[r, in_features]`
    pub a: Array2<f32>,
    /// `[out_features, r]`
    pub b: Array2<f32>,
    /// `[out_features]`
    pub bias: Option<Array1<f32>>,
    /// What `B A` is multiplied by.
    pub scaling: f32,
    /// DoRA's magnitude, `[out_features]`.
    pub magnitude: Option<Array1<f32>>,
    /// The part that's taken out of the base's weight first.
    pub residual: Option<Residual>,
    /// The number of parameters of `A` and `B` that PEFT trains.
    pub trainable: usize,
}

/// Euclidean norms of the rows, `[out_features]`.
fn row_norms(weight: &Array2<f32>) -> Array1<f32> {
    // In float64, since a row may have many thousands of elements.
    let norm = |row: ArrayView1<f32>| {
        let mut squares = 0.0;
        for &value in row {
            squares += f64::from(value).powi(2);
        }
        f64::sqrt(squares) as f32
    };
    weight.axis_iter(Axis(0)).map(norm).collect()
}

impl LoraLinear {
    /// The part that must still be taken out of the layer's weight; `None` if the layer's quantized
    /// weight is already without it.
    pub fn to_take_out(&self) -> Option<&Residual> {
        self.residual
            .as_ref()
            .filter(|residual| !residual.quantized)
    }

    /// `W`, without the part that's taken out.
    ///
    /// # Errors
    /// If it must be decomposed and can't be.
    fn starting(&self, weight: &Array2<f32>) -> Result<Array2<f32>, AdapterError> {
        match self.to_take_out() {
            Some(residual) => residual.of(weight),
            None => Ok(weight.clone()),
        }
    }

    /// Norms of the rows that a fresh adapter starts with. `weight` is the base's in full
    /// precision.
    ///
    /// # Errors
    /// If it must be decomposed and can't be.
    pub fn first_norms(&self, weight: Array2<f32>) -> Result<Array1<f32>, AdapterError> {
        let starting = match &self.residual {
            Some(residual) => residual.of(&weight)?,
            None => weight,
        };
        Ok(row_norms(&self.updated(starting)))
    }

    /// `W + scaling * B A`
    fn updated(&self, mut weight: Array2<f32>) -> Array2<f32> {
        general_mat_mul(self.scaling, &self.b, &self.a, 1.0, &mut weight);
        weight
    }

    /// `g = m / |W + scaling * B A|`
    fn gains(&self, updated: &Array2<f32>) -> Option<Array1<f32>> {
        Some(self.magnitude.as_ref()? / &row_norms(updated))
    }
}

impl ModuleAdapter for LoraLinear {
    fn form(&self) -> Form<'_> {
        let out = self.b.nrows();
        let gain = self.magnitude.as_ref().map(|_| {
            let gains = |module: &BaseModule| {
                let updated = self.updated(self.starting(module.weight()?)?);
                Ok(self.gains(&updated).expect("there is a magnitude").to_vec())
            };
            FormTensor::derived("gain", &[out], TensorRole::Factor, gains).keyed(&self.keys[2])
        });
        let bias = self.bias.as_ref().map(|own| {
            FormTensor::derived("bias", &[out], TensorRole::InPlace, move |module| {
                let mut bias = own * self.scaling;
                if self.magnitude.is_some() {
                    let updated = self.updated(self.starting(module.weight()?)?);
                    bias *= &self.gains(&updated).expect("there is a magnitude");
                }
                if let Some(base) = module.bias()? {
                    bias += base;
                }
                Ok(bias.to_vec())
            })
        });
        let shape = [out, self.a.ncols()];
        let weight = self.to_take_out().map(|residual| {
            FormTensor::derived("weight", &shape, TensorRole::InPlace, |module| {
                Ok(elements(&residual.of(module.weight()?)?))
            })
        });
        Form::Linear(LinearForm {
            weight,
            gain,
            bias,
            ..LinearForm::low_rank(
                FormTensor::stored(&self.keys[0], &self.a, TensorRole::Term),
                FormTensor::scaled(&self.keys[1], &self.b, self.scaling, TensorRole::Term),
            )
        })
    }

    /// Computes `W + scaling * B A` once; by the form it would be computed for the gains, too.
    fn merge_into(&self, module: &mut ModuleWeights) -> Result<(), AdapterError> {
        let weight = std::mem::take(&mut module.weight);
        let weight = match &self.residual {
            Some(residual) => residual.of(&weight)?,
            None => weight,
        };
        module.weight = self.updated(weight);
        let gains = self.gains(&module.weight);
        if let Some(gains) = &gains {
            scale_rows(&mut module.weight, gains);
        }
        if let Some(own) = &self.bias {
            let mut added = own * self.scaling;
            if let Some(gains) = &gains {
                added *= gains;
            }
            module.bias = Some(match module.bias.take() {
                Some(bias) => bias + &added,
                None => added,
            });
        }
        Ok(())
    }

    /// With DoRA, the norms of the changed weight are computed in every step.
    fn native(&self) -> Native<'_> {
        let Some(magnitude) = &self.magnitude else {
            return Native::Reduced;
        };
        if self.bias.is_some() || self.residual.is_some() {
            return Native::Missing;
        }
        let tensors = vec![
            FormTensor::stored(&self.keys[0], &self.a, TensorRole::Term),
            FormTensor::stored(&self.keys[1], &self.b, TensorRole::Term),
            FormTensor::stored(&self.keys[2], magnitude, TensorRole::Factor),
        ];
        let form = NativeForm::new(tensors, |site| {
            let [a, b, magnitude] = [0, 1, 2].map(|index| site.inputs[index].clone());
            let scaling = site.scalar("scaling", self.scaling);
            let weight = site.weight();
            let product = site.op("MatMul", "product", &[&b, &a]);
            let product = site.op("Mul", "product/scaled", &[&product, &scaling]);
            let updated = site.op("Add", "updated", &[&weight, &product]);
            let norms = site.norms("norms", &updated, 1, false);
            let gains = site.op("Div", "gains", &[&magnitude, &norms]);
            let one = site.scalar("one", 1.0);
            let excess = site.op("Sub", "excess", &[&gains, &one]);

            let x = site.x.clone();
            let base = site.product_with("base", &x, &weight);
            let inner = site.matmul_transposed("A/MatMul", &x, &a);
            let delta = site.matmul_transposed("B/MatMul", &inner, &b);
            let delta = site.op("Mul", "delta", &[&delta, &gains]);
            let delta = site.op("Mul", "delta/scaled", &[&delta, &scaling]);
            let grown = site.op("Mul", "grown", &[&base, &excess]);
            let y = site.op("Add", "base_grown", &[&base, &grown]);
            let y = site.op("Add", "Add", &[&y, &delta]);
            site.biased(&y)
        });
        Native::Own(form.over_weight())
    }

    fn residual(&self) -> Option<&Residual> {
        self.residual.as_ref()
    }

    fn trainable_params(&self) -> usize {
        let vector = |v: &Option<Array1<f32>>| v.as_ref().map_or(0, Array1::len);
        self.trainable + vector(&self.bias) + vector(&self.magnitude)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    fn adapter(magnitude: Option<Array1<f32>>) -> LoraLinear {
        LoraLinear {
            keys: ["a", "b", "m"].map(str::to_owned),
            a: array![[1.0, 2.0]],
            b: array![[3.0], [0.0]],
            bias: None,
            scaling: 0.5,
            magnitude,
            residual: None,
            trainable: 4,
        }
    }

    #[test]
    fn the_weight_gains_the_scaled_product() {
        let mut module = ModuleWeights {
            weight: array![[1.0, 1.0], [1.0, 1.0]],
            bias: None,
        };
        adapter(None).merge_into(&mut module).unwrap();
        assert_eq!(module.weight, array![[2.5, 4.0], [1.0, 1.0]]);
    }

    #[test]
    fn with_dora_each_row_has_the_trained_norm_and_the_bias_stays() {
        let mut module = ModuleWeights {
            weight: array![[1.5, 1.0], [3.0, 4.0]],
            bias: Some(array![7.0, 8.0]),
        };
        adapter(Some(array![10.0, 2.5]))
            .merge_into(&mut module)
            .unwrap();
        assert_eq!(module.weight.row(1), array![1.5, 2.0]);
        assert!((row_norms(&module.weight)[0] - 10.0).abs() < 1e-5);
        assert_eq!(module.bias, Some(array![7.0, 8.0]));
    }

    #[test]
    fn the_form_merges_to_the_same() {
        let mut adapter = adapter(Some(array![10.0, 2.5]));
        adapter.bias = Some(array![1.0, -2.0]);
        let module = ModuleWeights {
            weight: array![[1.5, 1.0], [3.0, 4.0]],
            bias: Some(array![7.0, 8.0]),
        };
        let (mut direct, mut formed) = (module.clone(), module);
        adapter.merge_into(&mut direct).unwrap();
        adapter.form().merge_into(&mut formed).unwrap();
        assert!(
            (direct.weight - formed.weight)
                .iter()
                .all(|d| d.abs() < 1e-5)
        );
        assert!(
            (direct.bias.unwrap() - formed.bias.unwrap())
                .iter()
                .all(|d| d.abs() < 1e-5)
        );
    }
}
