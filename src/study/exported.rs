//! Folders that are measured against a base as they are: what others exported, and further folders of
//! this program beside them.
//!
//! The base is that of the first target which isn't another program's, else the checkpoint that the
//! settings name, else the first folder.

use super::case::PreparedCase;
use crate::prepared::{PreparedVariant, Variant};

/// Makes one trial of `cases`, if graphs that are run as they are are among them: there's one base,
/// and every further folder takes part as a whole.
pub fn settle(cases: &mut [PreparedCase]) {
    if !cases.iter().any(PreparedCase::is_foreign) {
        return;
    }
    if let Some(first) = cases.iter().position(|case| !case.is_foreign()) {
        for case in &mut cases[first + 1..] {
            if !case.is_foreign() && !case.is_experiment {
                case.variants = case.main().cloned().into_iter().collect();
                for variant in &mut case.variants {
                    variant.manifest.variant = Variant::Exported;
                }
            }
        }
    }
    let is_base = |variant: &PreparedVariant| variant.manifest.variant == Variant::Base;
    let has_base = |case: &PreparedCase| case.variants.iter().any(is_base);
    if !cases.iter().any(has_base)
        && let Some(first) = cases.first_mut()
        && let Some(variant) = first.variants.first_mut()
    {
        variant.manifest.variant = Variant::Base;
    }
    let mut all = cases.iter().flat_map(|case| &case.variants);
    let Some(base) = all.find(|variant| is_base(variant)).cloned() else {
        return;
    };
    for case in cases.iter_mut().filter(|case| !has_base(case)) {
        case.variants.insert(0, base.clone());
    }
}

/// What the logits of exported graphs are compared with: the first case's own graph, with what it's
/// called.
pub fn reference(cases: &[PreparedCase]) -> Option<(String, &PreparedVariant)> {
    let first = cases.first()?;
    let main = first.main()?;
    let variant = main.manifest.variant;
    let name = match (variant, cases.len()) {
        (Variant::Base, _) | (_, 1) => variant.to_string(),
        _ => format!("{} {variant}", first.label),
    };
    Some((name, main))
}

impl PreparedCase {
    /// Whether it's graphs that are run as they are.
    fn is_foreign(&self) -> bool {
        let mut variants = self.variants.iter();
        variants.any(|one| one.manifest.variant == Variant::Exported)
    }

    /// The variant that stands for it: with its adapter, where it has one.
    fn main(&self) -> Option<&PreparedVariant> {
        let of = |variant| {
            let mut variants = self.variants.iter();
            variants.find(|one| one.manifest.variant == variant)
        };
        [Variant::Merged, Variant::Unmerged, Variant::Base]
            .into_iter()
            .find_map(of)
    }

    /// The variant that's compared with the reference.
    pub fn exported(&self) -> Option<&PreparedVariant> {
        let mut variants = self.variants.iter();
        variants.find(|one| one.manifest.variant == Variant::Exported)
    }
}
