//! The modules that PEFT's methods adapt where a configuration has no `target_modules`.
//!
//! Source: PEFT, `utils/constants.py`, `TRANSFORMERS_MODELS_TO_<METHOD>_TARGET_MODULES_MAPPING`.

/// Names of modules.
type Names = &'static [&'static str];

/// The modules of one family, by method. A list is empty where PEFT has no default, so that
/// `target_modules` has to be given.
#[derive(Debug)]
pub struct DefaultTargets {
    /// LoRA and most other methods: queries and values, or the projection that has both.
    pub query_value: Names,
    /// FROD, PVeRA, SHiRA, VeRA: no layers of an MLP.
    pub query_value_only: Names,
    /// C3A, FourierFT, WaveFT: square layers where LoRA has none.
    pub spectral: Names,
    /// AdaLoRA and VB-LoRA.
    pub adalora: Names,
    /// BEFT.
    pub beft: Names,
    /// (IA)³.
    pub ia3: Names,
    /// Those of the (IA)³ layers whose input is scaled.
    pub ia3_feedforward: Names,
    /// LN tuning.
    pub ln_tuning: Names,
    /// OSF.
    pub osf: Names,
}

impl DefaultTargets {
    /// No method has a default.
    pub const NONE: Self = Self::alike(&[]);

    /// The same modules for LoRA and the methods like it, and no others.
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
