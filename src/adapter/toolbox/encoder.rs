//! Encoders of prompt learning: networks that make the prompt in training. A file holds only their
//! output, so they're drawn for fresh adapters alone.

use ndarray::{Array1, Array2, ArrayView1, Axis, concatenate, s};
use rand::rngs::ChaCha12Rng;

use crate::adapter::Init;
use crate::json::{ConfigError, JsonObject};

/// The largest width of an encoder.
const WIDEST: usize = 1 << 16;

/// `encoder_hidden_size`, or `default`.
///
/// # Errors
/// If it isn't a positive integer up to the largest width.
pub fn hidden_size(config: &JsonObject, default: usize) -> Result<usize, ConfigError> {
    let found = config.optional_size_up_to("encoder_hidden_size", WIDEST)?;
    Ok(found.unwrap_or(default))
}

/// A matrix `[rows, columns]`, drawn from `init`.
pub fn matrix(rows: usize, columns: usize, init: Init, rng: &mut ChaCha12Rng) -> Array2<f32> {
    Array2::from_shape_vec((rows, columns), init.draw(rows * columns, rng))
        .expect("`draw` gives as many values as asked for")
}

/// Applies a fresh `nn.Linear` with `out_features` outputs to each row of `x`.
pub fn linear(x: &Array2<f32>, out_features: usize, rng: &mut ChaCha12Rng) -> Array2<f32> {
    let init = Init::linear_default(x.ncols());
    let weight = matrix(out_features, x.ncols(), init, rng);
    x.dot(&weight.t()) + Array1::from(init.draw(out_features, rng))
}

/// Parameters of an `nn.Linear`.
pub fn linear_params(in_features: usize, out_features: usize) -> usize {
    (in_features + 1) * out_features
}

/// `max(x, 0)`
pub fn relu(x: Array2<f32>) -> Array2<f32> {
    x.mapv_into(|value| value.max(0.0))
}

/// Applies a layer of a fresh bidirectional `nn.LSTM` to the rows of `x` in their order. Returns
/// `[rows, 2 * hidden]`, the forward direction's outputs first.
pub fn bidirectional_lstm(x: &Array2<f32>, hidden: usize, rng: &mut ChaCha12Rng) -> Array2<f32> {
    let forwards = lstm(x, hidden, rng);
    let backwards = lstm(&reversed(x), hidden, rng);
    concatenate![Axis(1), forwards, reversed(&backwards)]
}

/// Parameters of a bidirectional LSTM layer. Each direction has `4 * hidden` rows of weights for
/// its input and for its own state, each row with a bias.
pub fn bidirectional_lstm_params(in_features: usize, hidden: usize) -> usize {
    2 * 4 * hidden * (in_features + hidden + 2)
}

fn reversed(x: &Array2<f32>) -> Array2<f32> {
    x.slice(s![..;-1, ..]).to_owned()
}

/// One direction. All its tensors are drawn from `U(±1/sqrt(hidden))`.
fn lstm(x: &Array2<f32>, hidden: usize, rng: &mut ChaCha12Rng) -> Array2<f32> {
    let init = Init::linear_default(hidden);
    let weight = matrix(4 * hidden, x.ncols(), init, rng);
    let recurrent = matrix(4 * hidden, hidden, init, rng);
    let mut biases = || Array1::from(init.draw(4 * hidden, rng));
    let inputs = x.dot(&weight.t()) + biases() + biases();
    run_lstm(&inputs, &recurrent)
}

/// The recurrence over `inputs`, `[rows, 4 * hidden]`: input gate, forget gate, cell and output
/// gate.
fn run_lstm(inputs: &Array2<f32>, recurrent: &Array2<f32>) -> Array2<f32> {
    let width = recurrent.ncols();
    let (mut hidden, mut cell) = (Array1::zeros(width), Array1::<f32>::zeros(width));
    let mut outputs = Array2::zeros((inputs.nrows(), width));
    for (input, mut output) in inputs.rows().into_iter().zip(outputs.rows_mut()) {
        let gates = recurrent.dot(&hidden) + input;
        let gate = |index: usize| gates.slice(s![index * width..(index + 1) * width]);
        let sigmoid = |x: ArrayView1<f32>| x.mapv(|value| 1.0 / (1.0 + (-value).exp()));
        cell = sigmoid(gate(1)) * &cell + sigmoid(gate(0)) * gate(2).mapv(f32::tanh);
        hidden = sigmoid(gate(3)) * cell.mapv(f32::tanh);
        output.assign(&hidden);
    }
    outputs
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    /// Expected values: PyTorch's `nn.LSTM(1, 1)` with `weight_ih` 1, 2, 3, 4, `weight_hh` 0.5, -1,
    /// 1, 2 and no bias, over 0.1 and −0.2.
    #[test]
    fn the_recurrence_is_pytorch_s() {
        let inputs = array![[0.1, 0.2, 0.3, 0.4], [-0.2, -0.4, -0.6, -0.8]];
        let recurrent = array![[0.5], [-1.0], [1.0], [2.0]];
        let found = run_lstm(&inputs, &recurrent);
        let expected = array![[0.090_852], [-0.055_032_9]];
        assert!(
            (&found - expected).iter().all(|d: &f32| d.abs() < 1e-6),
            "{found}"
        );
    }
}
