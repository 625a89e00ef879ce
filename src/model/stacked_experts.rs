//! Checkpoints that stack all experts of a layer in one tensor, such as `experts.gate_up_proj`,
//! `[experts, 2 * intermediate, hidden]`, with each expert's gate before its up projection, and
//! `experts.down_proj`, `[experts, hidden, intermediate]`. Their slices are made available under
//! the names that separate experts would have. An expert's biases are a row of `…_bias`.

use crate::advice::rewrite_wrapper;
use crate::arch::{DecoderSpec, Expert, Linear, Mixture, Stored};
use crate::weights::{TensorSlice, TensorStore, WeightsError};

/// Adds the slices of the stacked tensors in `store` under the names that `spec` has for each
/// expert.
///
/// # Errors
/// If a stacked tensor has another shape.
pub fn find_each_expert(spec: &DecoderSpec, store: &mut TensorStore) -> Result<(), WeightsError> {
    for mixture in spec.layers.iter().filter_map(|layer| layer.mlp.mixture()) {
        let Some(first) = mixture.experts.first() else {
            continue;
        };
        let inner = first.inner.stack_name();
        find_in_stack(store, mixture, inner, |expert| expert.inner.linears())?;
        find_in_stack(store, mixture, "down_proj", |expert| {
            vec![&expert.down_proj]
        })?;
    }
    Ok(())
}

fn find_in_stack(
    store: &mut TensorStore,
    mixture: &Mixture,
    name: &str,
    linears: impl Fn(&Expert) -> Vec<&Linear>,
) -> Result<(), WeightsError> {
    let experts = &mixture.experts;
    let whole = mixture.stacks.tensor(&mixture.source, name);
    let first = linears(&experts[0]);
    let Some(found) = store.find(&whole) else {
        // Quantized weights may have names of their own, and are found for each expert already.
        return match store.contains(&format!("{whole}_bias")) && first[0].bias {
            true => find_biases(store, experts, &whole, linears),
            false => Ok(()),
        };
    };
    let rows: usize = first.iter().map(|linear| linear.out_features).sum();
    let (columns, stored) = (first[0].in_features, first[0].stored);
    let shape = match stored {
        Stored::OutIn => [experts.len(), rows, columns],
        Stored::InOut => [experts.len(), columns, rows],
    };
    let transposed = [experts.len(), columns, rows];
    if stored == Stored::OutIn && found.shape == transposed && rows != columns {
        return Err(WeightsError::Layout {
            path: found.path.to_owned(),
            message: format!(
                "tensor `{whole}` has shape {transposed:?}, inputs before outputs, which isn't supported; expected \
                 `[experts, outputs, inputs]`, [{}, {rows}, {columns}], as Transformers 5 writes it: {}",
                experts.len(),
                rewrite_wrapper(found.path.parent().unwrap_or(found.path))
            ),
        });
    }
    found.expect_shape(&shape)?;
    let has_bias = first[0].bias;
    let mut next = 0;
    for linear in experts.iter().flat_map(&linears) {
        let (out, input) = (linear.out_features, linear.in_features);
        let slice = TensorSlice {
            whole: whole.clone(),
            first: next,
            shape: match stored {
                Stored::OutIn => vec![out, input],
                Stored::InOut => vec![input, out],
            },
        };
        next += out * input;
        store.add_slice(format!("{}.weight", linear.source), slice);
    }
    match has_bias {
        true => find_biases(store, experts, &whole, linears),
        false => Ok(()),
    }
}

/// Adds the slices of the biases of the stacked tensor `whole`.
fn find_biases(
    store: &mut TensorStore,
    experts: &[Expert],
    whole: &str,
    linears: impl Fn(&Expert) -> Vec<&Linear>,
) -> Result<(), WeightsError> {
    let whole = format!("{whole}_bias");
    let rows: usize = linears(&experts[0]).iter().map(|l| l.out_features).sum();
    store.get(&whole)?.expect_shape(&[experts.len(), rows])?;
    let mut next = 0;
    for linear in experts.iter().flat_map(linears) {
        let slice = TensorSlice {
            whole: whole.clone(),
            first: next,
            shape: vec![linear.out_features],
        };
        next += linear.out_features;
        store.add_slice(format!("{}.bias", linear.source), slice);
    }
    Ok(())
}
