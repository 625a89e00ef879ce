//! The modules that methods target by default. The lists are in the families' files and the
//! wrappers' table ([`DefaultTargets`]). For a model type without a family, or whose family has no list for a
//! method, `target_modules` must be given.

use crate::arch::{self, DefaultTargets};

/// Selects a method's list among those of a family.
pub type DefaultTable = fn(&'static DefaultTargets) -> &'static [&'static str];

/// Query and value projections, or the projection that combines them: the defaults of most methods.
pub const QUERY_VALUE: DefaultTable = |targets| targets.query_value;

/// FROD, PVeRA, SHiRA, VeRA.
pub const QUERY_VALUE_ONLY: DefaultTable = |targets| targets.query_value_only;

/// C3A, FourierFT, WaveFT.
pub const SPECTRAL: DefaultTable = |targets| targets.spectral;

/// AdaLoRA and VB-LoRA.
pub const ADALORA: DefaultTable = |targets| targets.adalora;

/// BEFT.
pub const BEFT: DefaultTable = |targets| targets.beft;

/// (IA)³.
pub const IA3: DefaultTable = |targets| targets.ia3;

/// Of those, the feed-forward layers, whose input (IA)³ scales.
pub const IA3_FEEDFORWARD: DefaultTable = |targets| targets.ia3_feedforward;

/// LN tuning.
pub const LN_TUNING: DefaultTable = |targets| targets.ln_tuning;

/// OSF.
pub const OSF: DefaultTable = |targets| targets.osf;

/// The names of `table` for this model type, if there are any.
pub fn names(model_type: &str, table: DefaultTable) -> Option<&'static [&'static str]> {
    let targets = match arch::family(model_type) {
        Some(family) => &family.targets,
        None => {
            let mut wrappers = arch::WRAPPERS.iter();
            let wrapper = wrappers.find(|wrapper| wrapper.model_type == model_type)?;
            &wrapper.targets
        }
    };
    let names = table(targets);
    (!names.is_empty()).then_some(names)
}
