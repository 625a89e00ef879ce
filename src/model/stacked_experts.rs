//! Checkpoints that stack all experts of a layer in one tensor: `experts.gate_up_proj`, `[experts,
//! 2 * intermediate, hidden]`, with each expert's gate before its up projection, and
//! `experts.down_proj`, `[experts, hidden, intermediate]`. Their slices are made available under
//! the names that separate experts would have.

use crate::advice::rewrite_wrapper;
use crate::arch::{DecoderSpec, Expert, Linear, Mlp};
use crate::weights::{TensorSlice, TensorStore, WeightsError};

/// Adds the slices of the stacked tensors in `store` under the names that `spec` has for each
/// expert.
///
/// # Errors
/// If a stacked tensor has another shape.
pub fn find_each_expert(spec: &DecoderSpec, store: &mut TensorStore) -> Result<(), WeightsError> {
    for layer in &spec.layers {
        let Mlp::Experts { experts, .. } = &layer.mlp else {
            continue;
        };
        find_in_stack(store, experts, "gate_up_proj", |expert| {
            vec![&expert.gate_proj, &expert.up_proj]
        })?;
        find_in_stack(store, experts, "down_proj", |expert| {
            vec![&expert.down_proj]
        })?;
    }
    Ok(())
}

fn find_in_stack(
    store: &mut TensorStore,
    experts: &[Expert],
    name: &str,
    linears: impl Fn(&Expert) -> Vec<&Linear>,
) -> Result<(), WeightsError> {
    let Some(first) = experts.first() else {
        return Ok(());
    };
    let source = &first.down_proj.source;
    let Some(at) = source.rfind(".experts.") else {
        return Ok(());
    };
    let whole = format!("{}.experts.{name}", &source[..at]);
    let Some(found) = store.find(&whole) else {
        return Ok(());
    };
    let rows: usize = linears(first).iter().map(|l| l.out_features).sum();
    let columns = linears(first)[0].in_features;
    let transposed = [experts.len(), columns, rows];
    if found.shape == transposed && rows != columns {
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
    found.expect_shape(&[experts.len(), rows, columns])?;
    let mut next = 0;
    for expert in experts {
        for linear in linears(expert) {
            let slice = TensorSlice {
                whole: whole.clone(),
                first: next,
                shape: vec![linear.out_features, linear.in_features],
            };
            next += linear.out_features * linear.in_features;
            store.add_slice(format!("{}.weight", linear.source), slice);
        }
    }
    Ok(())
}
