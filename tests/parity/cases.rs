//! Runs every case, merged and unmerged, with each way to hold weights, against the reference.

use std::collections::BTreeSet;

use peft_bench::adapter::PEFT_TYPES;
use peft_bench::arch::FAMILIES;

use crate::common::cases::{REFUSED, check_case, models, of_each_method};
use crate::common::reference::{Case, generate, peft_type};
use crate::common::{all_below, case, model, names};

/// Runs every case of a model; collects the failures in one message.
fn check_model(name: &str) {
    let mut failures = Vec::new();
    let cases = names(&case(name, ""));
    assert!(cases.len() > 1, "{cases:?}");
    for case_name in &cases {
        failures.extend(check_case(name, case_name));
    }
    assert!(
        failures.is_empty(),
        "{} failed:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

#[test]
fn every_method_has_a_case() {
    let found = of_each_method();
    for supported in PEFT_TYPES {
        assert!(found.contains_key(supported), "{supported}");
    }
}

#[test]
fn every_family_has_cases() {
    let found = models();
    for family in FAMILIES {
        let mut types = found.iter().map(|(_, model_type)| model_type);
        let of_family = types.any(|model_type| model_type == family.model_type);
        assert!(of_family, "{}", family.model_type);
    }
}

/// Families whose fixtures have widths that fit no block.
const NEVER_LAID_OUT: [&str; 1] = ["gemma3n_text"];

/// Some models' widths fit no block of a processor's layout, so `mapped` uses their weights as
/// stored. On processors other than x86-64 no weights are laid out.
#[test]
fn every_family_and_every_method_has_a_case_whose_weights_are_laid_out() {
    if cfg!(not(target_arch = "x86_64")) {
        return;
    }
    let (mut families, mut methods) = (BTreeSet::new(), BTreeSet::new());
    for (name, model_type) in models() {
        let export_dir = tempfile::tempdir().unwrap();
        let base = Case::read(&case(&name, "base"));
        let mut command = base.generate(&model(&name), "base", export_dir.path());
        generate(command.args(["--weights", "mapped"]));
        let files = all_below(export_dir.path());
        if files
            .iter()
            .any(|path| path.ends_with("laid-out.safetensors"))
        {
            families.insert(model_type);
            let cases = names(&case(&name, "")).into_iter();
            let adapters = cases.filter(|adapter| adapter != "base");
            methods.extend(adapters.map(|adapter| peft_type(&case(&name, &adapter))));
        }
    }
    let all = FAMILIES.iter().map(|family| family.model_type);
    let missing: Vec<&str> = all.filter(|name| !families.contains(*name)).collect();
    assert_eq!(missing, NEVER_LAID_OUT);
    for method in PEFT_TYPES {
        assert!(methods.contains(method), "{method}");
    }
}

#[test]
fn what_is_refused_exists() {
    for (label, _) in REFUSED {
        let (model, name) = label.split_once('/').unwrap();
        assert!(case(model, name).is_dir(), "{label}");
    }
}

macro_rules! models {
    ($($test:ident: $folder:literal,)*) => {
        $(
            #[test]
            fn $test() {
                check_model($folder);
            }
        )*

        #[test]
        fn every_model_is_tested() {
            assert_eq!(names(&case("", "")), [$($folder),*]);
        }
    };
}

models! {
    apertus_is_as_the_reference: "apertus",
    arcee_is_as_the_reference: "arcee",
    bamba_is_as_the_reference: "bamba",
    bloom_is_as_the_reference: "bloom",
    bloom_with_normed_residuals_is_as_the_reference: "bloom-normed",
    codegen_is_as_the_reference: "codegen",
    cohere_is_as_the_reference: "cohere",
    cohere_with_query_and_key_norms_is_as_the_reference: "cohere-norms",
    cohere2_is_as_the_reference: "cohere2",
    deepseek_v2_is_as_the_reference: "deepseek-v2",
    deepseek_v3_is_as_the_reference: "deepseek-v3",
    dots1_is_as_the_reference: "dots1",
    ernie4_5_is_as_the_reference: "ernie4-5",
    ernie4_5_moe_is_as_the_reference: "ernie4-5-moe",
    exaone4_is_as_the_reference: "exaone4",
    falcon_is_as_the_reference: "falcon",
    falcon_with_alibi_is_as_the_reference: "falcon-alibi",
    falcon_with_groups_is_as_the_reference: "falcon-groups",
    falcon_h1_is_as_the_reference: "falcon-h1",
    falcon_h1_with_a_norm_behind_the_mixer_is_as_the_reference: "falcon-h1-norm",
    falcon_with_heads_is_as_the_reference: "falcon-heads",
    gemma_is_as_the_reference: "gemma",
    gemma2_is_as_the_reference: "gemma2",
    gemma3_is_as_the_reference: "gemma3",
    gemma3n_is_as_the_reference: "gemma3n",
    gemma4_is_as_the_reference: "gemma4",
    gemma4_with_experts_is_as_the_reference: "gemma4-experts",
    gemma4_with_per_layer_embeddings_is_as_the_reference: "gemma4-layers",
    glm_is_as_the_reference: "glm",
    glm4_is_as_the_reference: "glm4",
    glm4_moe_is_as_the_reference: "glm4-moe",
    glm4_moe_lite_is_as_the_reference: "glm4-moe-lite",
    gpt_bigcode_is_as_the_reference: "gpt-bigcode",
    gpt_bigcode_with_heads_is_as_the_reference: "gpt-bigcode-heads",
    gpt_neo_is_as_the_reference: "gpt-neo",
    gpt_neox_is_as_the_reference: "gpt-neox",
    gpt_neox_one_after_the_other_is_as_the_reference: "gpt-neox-serial",
    gpt_oss_is_as_the_reference: "gpt-oss",
    gpt2_is_as_the_reference: "gpt2",
    gptj_is_as_the_reference: "gptj",
    gptj_with_a_tied_head_is_as_the_reference: "gptj-tied",
    granite_is_as_the_reference: "granite",
    granite_4_is_as_the_reference: "granite-hybrid",
    granite_4_with_experts_is_as_the_reference: "granite-hybrid-moe",
    granitemoe_is_as_the_reference: "granitemoe",
    granitemoeshared_is_as_the_reference: "granitemoeshared",
    helium_is_as_the_reference: "helium",
    hunyuan_is_as_the_reference: "hunyuan",
    hunyuan_v1_moe_is_as_the_reference: "hunyuan-v1-moe",
    lfm2_is_as_the_reference: "lfm2",
    lfm2_of_the_hub_is_as_the_reference: "lfm2-hub",
    lfm2_moe_is_as_the_reference: "lfm2-moe",
    llama_with_biases_is_as_the_reference: "llama-bias",
    llama_with_biases_as_wide_as_its_heads_is_as_the_reference: "llama-bias-even",
    llama_with_grouped_queries_is_as_the_reference: "llama-gqa",
    llama_with_linear_scaling_in_shards_is_as_the_reference: "llama-linear",
    llama_with_llama3_scaling_is_as_the_reference: "llama-rope3",
    llama_with_a_tied_head_is_as_the_reference: "llama-tied",
    llama4_is_as_the_reference: "llama4",
    mamba2_is_as_the_reference: "mamba2",
    minimax_m2_is_as_the_reference: "minimax-m2",
    ministral_is_as_the_reference: "ministral",
    ministral3_is_as_the_reference: "ministral3",
    mistral_is_as_the_reference: "mistral",
    mixtral_is_as_the_reference: "mixtral",
    mpt_is_as_the_reference: "mpt",
    mpt_of_whole_blocks_is_as_the_reference: "mpt-wide",
    nemotron_is_as_the_reference: "nemotron",
    nemotron_h_is_as_the_reference: "nemotron-h",
    nemotron_h_with_narrow_experts_is_as_the_reference: "nemotron-h-latent",
    olmo_is_as_the_reference: "olmo",
    olmo2_is_as_the_reference: "olmo2",
    olmo3_is_as_the_reference: "olmo3",
    olmoe_is_as_the_reference: "olmoe",
    olmoe_of_two_blocks_is_as_the_reference: "olmoe-wide",
    opt_without_key_prefix_is_as_the_reference: "opt-bare",
    opt_without_biases_is_as_the_reference: "opt-nobias",
    opt_without_final_norm_is_as_the_reference: "opt-nonorm",
    opt_with_norms_behind_is_as_the_reference: "opt-post",
    opt_with_norms_before_is_as_the_reference: "opt-pre",
    phi_is_as_the_reference: "phi",
    phi_with_query_and_key_norms_is_as_the_reference: "phi-norms",
    phi_with_a_tied_head_is_as_the_reference: "phi-tied",
    phi3_with_longrope_is_as_the_reference: "phi3",
    phi3_is_as_the_reference: "phi3-plain",
    phimoe_is_as_the_reference: "phimoe",
    qwen2_with_yarn_is_as_the_reference: "qwen2",
    qwen2_moe_is_as_the_reference: "qwen2-moe",
    qwen3_is_as_the_reference: "qwen3",
    qwen3_5_is_as_the_reference: "qwen3-5",
    qwen3_5_of_the_hub_is_as_the_reference: "qwen3-5-hub",
    qwen3_5_with_experts_is_as_the_reference: "qwen3-5-moe",
    qwen3_with_experts_is_as_the_reference: "qwen3-moe",
    qwen3_next_is_as_the_reference: "qwen3-next",
    seed_oss_is_as_the_reference: "seed-oss",
    smollm3_is_as_the_reference: "smollm3",
    stablelm_is_as_the_reference: "stablelm",
    stablelm_with_norms_of_heads_is_as_the_reference: "stablelm-normed",
    stablelm_with_parallel_residual_is_as_the_reference: "stablelm-parallel",
    starcoder2_is_as_the_reference: "starcoder2",
    aya_vision_is_as_the_reference: "wrapper-aya-vision",
    cohere2_vision_is_as_the_reference: "wrapper-cohere2-vision",
    exaone4_5_is_as_the_reference: "wrapper-exaone4-5",
    gemma3_in_a_wrapper_is_as_the_reference: "wrapper-gemma3",
    gemma4_in_a_wrapper_is_as_the_reference: "wrapper-gemma4",
    idefics3_is_as_the_reference: "wrapper-idefics3",
    kimi_k25_is_as_the_reference: "wrapper-kimi-k25",
    llava_is_as_the_reference: "wrapper-llava",
    llava_next_with_granite_is_as_the_reference: "wrapper-llava-next",
    paligemma2_is_as_the_reference: "wrapper-paligemma",
    qwen2_vl_with_a_flat_configuration_is_as_the_reference: "wrapper-qwen2-vl",
    qwen3_vl_with_experts_in_one_tensor_is_as_the_reference: "wrapper-qwen3-vl-moe",
}
