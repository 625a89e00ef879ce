//! Adapters of the layer that latent attention with a compressed cache applies to queries and outputs.

use super::PrepareError;
use crate::adapter::Adapter;
use crate::adapter::form::Form;

/// Checks that an unmerged adapter's change of each absorbed layer can be absorbed as well.
///
/// # Errors
/// If one can't.
pub fn check_absorbs(adapter: &Adapter) -> Result<(), PrepareError> {
    for module in adapter.spec.modules() {
        if !adapter.spec.is_absorbed(&module.path) {
            continue;
        }
        let reason = match adapter.unmerged_form(&module.path) {
            None => continue,
            Some(Form::Linear(form)) if form.absorbs() => continue,
            Some(Form::Linear(_)) => {
                "its change of the weight isn't a product of two matrices or with factors"
            }
            Some(_) => "its change depends on the token",
        };
        return Err(PrepareError::OnAbsorbed {
            peft_type: adapter.peft_type.clone(),
            path: module.path,
            reason,
        });
    }
    Ok(())
}
