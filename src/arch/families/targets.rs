//! The modules that PEFT's methods adapt by default, without `target_modules`.
//!
//! Source: PEFT, `utils/constants.py`, `TRANSFORMERS_MODELS_TO_<METHOD>_TARGET_MODULES_MAPPING`.

/// Names of modules.
type Names = &'static [&'static str];

/// The default targets of one family, by method. If a list is empty, PEFT has no default, and
/// `target_modules` must be given.
#[derive(Debug)]
pub struct DefaultTargets {
    /// LoRA and most other methods: query and value projections, or the projection that combines
    /// them.
    pub query_value: Names,
    /// FROD, PVeRA, SHiRA, VeRA: no layer of an MLP.
    pub query_value_only: Names,
    /// C3A, FourierFT, WaveFT: square layers for some families.
    pub spectral: Names,
    /// AdaLoRA and VB-LoRA.
    pub adalora: Names,
    /// BEFT.
    pub beft: Names,
    /// (IA)³.
    pub ia3: Names,
    /// Of those, the feed-forward layers, whose input (IA)³ scales.
    pub ia3_feedforward: Names,
    /// LN tuning.
    pub ln_tuning: Names,
    /// OSF.
    pub osf: Names,
}

impl DefaultTargets {
    /// No method has a default.
    pub const NONE: Self = Self::alike(&[]);

    /// `names` for LoRA and the methods of the next two columns, and nothing for the others.
    pub const fn alike(names: Names) -> Self {
        Self {
            query_value: names,
            query_value_only: names,
            spectral: names,
            adalora: &[],
            beft: &[],
            ia3: &[],
            ia3_feedforward: &[],
            ln_tuning: &[],
            osf: &[],
        }
    }
}
