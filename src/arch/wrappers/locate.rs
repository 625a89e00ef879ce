//! The names of a text tower's tensors in a checkpoint. Their first parts depend on the version of
//! Transformers that wrote it.

use crate::arch::names::bare;
use crate::arch::{DecoderSpec, Tower};
use crate::weights::{TensorStore, WeightsError};

/// Finds the names of the tower's tensors in `store`, and makes them the sources of its modules.
/// Models without a wrapper stay as they are.
///
/// # Errors
/// If the checkpoint contains a tensor of the tower under two names.
pub fn locate(spec: &mut DecoderSpec, store: &TensorStore) -> Result<(), WeightsError> {
    let Some(tower) = &spec.tower else {
        return Ok(());
    };
    let found = |name: &str| -> Result<Option<String>, WeightsError> {
        let mut names = store.names().filter(|stored| bare(stored) == bare(name));
        let first = names.next();
        match (first, names.next()) {
            (Some(first), Some(second)) => Err(WeightsError::Layout {
                path: store.path().to_owned(),
                message: format!("`{first}` and `{second}` are two names of the same tensor"),
            }),
            (first, _) => Ok(first.map(str::to_owned)),
        }
    };
    // A tied embedding may be missing, so a layer's module is looked for.
    let first = spec.layers[0].arrangement.first_norm();
    let probe = format!("{}.weight", first.source);
    let prefix = match found(&probe)? {
        Some(name) => name[..name.len() - bare(&probe).len()].to_owned(),
        None => tower.prefix.clone(),
    };
    let head = match found(&format!("{}.weight", tower.head))? {
        Some(name) => name.trim_end_matches(".weight").to_owned(),
        // Before Transformers 4.52 the tower was a whole model with its head.
        None => match prefix.strip_suffix("model.") {
            Some(around) if !around.is_empty() && around != "model." => {
                format!("{around}{}", tower.head)
            }
            _ => tower.head.clone(),
        },
    };
    let located = Tower { prefix, head };
    let below = spec.base_prefix;
    let own_head = spec.lm_head.path.clone();
    for (_, source) in spec.names_mut() {
        *source = located.name_of(source, below, &own_head);
    }
    spec.tower = Some(located);
    Ok(())
}
