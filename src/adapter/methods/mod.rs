//! The methods, one file each: formula, tensors, precision, sources, configuration, arithmetic.
//!
//! Tools that methods share are in `toolbox/`, forms in `form/`.

mod adalora;
mod adamss;
mod adaption_prompt;
mod beft;
mod boft;
mod c3a;
mod cartridge;
mod cpt;
mod deft;
mod delora;
mod fourierft;
mod frod;
mod glora;
mod gralora;
mod hira;
mod hra;
mod ia3;
mod lily;
mod ln_tuning;
mod loha;
mod lokr;
mod lora;
mod miss;
mod multitask_prompt_tuning;
mod oft;
mod osf;
mod p_tuning;
mod peanut;
mod poly;
mod prefix_tuning;
mod prompt_tuning;
mod psoft;
mod randlora;
mod registry;
mod road;
mod shadow;
mod shira;
mod supertuning;
mod tinylora;
mod trainable_tokens;
mod unilora;
mod vblora;
mod vera;
mod waveft;
mod xlora;

pub use lora::{Expert, Residual};
pub use registry::{Class, Method, PEFT_TYPES, expert_folders, load, names_experts, peft_type};
pub use vblora::LOGITS as VBLORA_LOGITS;

/// All methods, in the order of their names.
pub const METHODS: &[&Method] = &[
    &adalora::METHOD,
    &adamss::METHOD,
    &adaption_prompt::METHOD,
    &beft::METHOD,
    &boft::METHOD,
    &c3a::METHOD,
    &cartridge::METHOD,
    &cpt::METHOD,
    &deft::METHOD,
    &delora::METHOD,
    &fourierft::METHOD,
    &frod::METHOD,
    &glora::METHOD,
    &gralora::METHOD,
    &hira::METHOD,
    &hra::METHOD,
    &ia3::METHOD,
    &lily::METHOD,
    &ln_tuning::METHOD,
    &loha::METHOD,
    &lokr::METHOD,
    &lora::METHOD,
    &miss::METHOD,
    &multitask_prompt_tuning::METHOD,
    &oft::METHOD,
    &osf::METHOD,
    &p_tuning::METHOD,
    &peanut::METHOD,
    &poly::METHOD,
    &prefix_tuning::METHOD,
    &prompt_tuning::METHOD,
    &psoft::METHOD,
    &vera::PVERA,
    &randlora::METHOD,
    &road::METHOD,
    &shadow::METHOD,
    &shira::METHOD,
    &supertuning::METHOD,
    &tinylora::METHOD,
    &trainable_tokens::METHOD,
    &unilora::METHOD,
    &vblora::METHOD,
    &vera::VERA,
    &waveft::METHOD,
    &xlora::METHOD,
];
