//! The multimodal models, and their text models that are no family of their own.

use super::{Text, TextModel, Tied, Wrapper};
use crate::arch::{DefaultTargets, PromptAttention};

const LANGUAGE_MODEL: &str = "model.language_model.";

const LLAVA: Wrapper = Wrapper {
    model_type: "llava",
    name: "LLaVA 1.5",
    text: Text::Usually("llama"),
    below: LANGUAGE_MODEL,
    targets: DefaultTargets::NONE,
    tied: Tied::Outside(false),
    may_be_flat: false,
    adjusts_logits: false,
    prompt: PromptAttention::Causal,
};

/// All wrappers.
pub const WRAPPERS: &[Wrapper] = &[
    Wrapper {
        model_type: "gemma3",
        name: "Gemma 3",
        text: Text::Always("gemma3_text"),
        tied: Tied::Outside(true),
        adjusts_logits: true,
        ..LLAVA
    },
    Wrapper {
        model_type: "gemma3n",
        name: "Gemma 3n",
        text: Text::Always("gemma3n_text"),
        tied: Tied::Outside(true),
        adjusts_logits: true,
        ..LLAVA
    },
    Wrapper {
        model_type: "gemma4",
        name: "Gemma 4",
        text: Text::Always("gemma4_text"),
        targets: DefaultTargets {
            adalora: &["q_proj", "v_proj"],
            ..DefaultTargets::alike(&["q_proj", "v_proj"])
        },
        tied: Tied::Outside(true),
        adjusts_logits: true,
        ..LLAVA
    },
    Wrapper {
        model_type: "qwen2_vl",
        name: "Qwen2-VL",
        text: Text::Always("qwen2_vl_text"),
        tied: Tied::Anywhere,
        may_be_flat: true,
        ..LLAVA
    },
    Wrapper {
        model_type: "qwen2_5_vl",
        name: "Qwen2.5-VL",
        text: Text::Always("qwen2_5_vl_text"),
        tied: Tied::Anywhere,
        may_be_flat: true,
        ..LLAVA
    },
    Wrapper {
        model_type: "qwen3_vl",
        name: "Qwen3-VL",
        text: Text::Always("qwen3_vl_text"),
        ..LLAVA
    },
    Wrapper {
        model_type: "qwen3_vl_moe",
        name: "Qwen3-VL with experts",
        text: Text::Always("qwen3_vl_moe_text"),
        ..LLAVA
    },
    Wrapper {
        model_type: "qwen3_5",
        name: "Qwen3.5 for images",
        text: Text::Always("qwen3_5_text"),
        ..LLAVA
    },
    Wrapper {
        model_type: "qwen3_5_moe",
        name: "Qwen3.5 with experts, for images",
        text: Text::Always("qwen3_5_moe_text"),
        ..LLAVA
    },
    Wrapper {
        model_type: "llama4",
        name: "Llama 4",
        text: Text::Always("llama4_text"),
        below: "language_model.model.",
        targets: DefaultTargets {
            adalora: &["q_proj", "v_proj"],
            beft: &["v_proj"],
            ia3: &["q_proj", "v_proj", "down_proj"],
            ia3_feedforward: &["down_proj"],
            osf: &[
                "q_proj",
                "k_proj",
                "v_proj",
                "o_proj",
                "gate_proj",
                "down_proj",
                "up_proj",
            ],
            ..DefaultTargets::alike(&["q_proj", "v_proj"])
        },
        ..LLAVA
    },
    Wrapper {
        model_type: "kimi_k25",
        name: "Kimi K2.5, K2.6",
        text: Text::Usually("deepseek_v3"),
        tied: Tied::Outside(true),
        ..LLAVA
    },
    Wrapper {
        model_type: "mistral3",
        name: "Mistral Small 3.1 and 3.2, Ministral 3",
        text: Text::Usually("mistral"),
        tied: Tied::Outside(true),
        ..LLAVA
    },
    Wrapper {
        model_type: "idefics3",
        name: "Idefics3, SmolVLM",
        text: Text::Usually("llama"),
        below: "model.text_model.",
        ..LLAVA
    },
    Wrapper {
        model_type: "smolvlm",
        name: "SmolVLM2",
        text: Text::Usually("llama"),
        below: "model.text_model.",
        ..LLAVA
    },
    Wrapper {
        model_type: "idefics2",
        name: "Idefics2",
        text: Text::Usually("mistral"),
        below: "model.text_model.",
        ..LLAVA
    },
    Wrapper {
        tied: Tied::Anywhere,
        ..LLAVA
    },
    Wrapper {
        model_type: "llava_next",
        name: "LLaVA-NeXT, Granite Vision",
        ..LLAVA
    },
    Wrapper {
        model_type: "llava_next_video",
        name: "LLaVA-NeXT-Video",
        tied: Tied::Anywhere,
        ..LLAVA
    },
    Wrapper {
        model_type: "llava_onevision",
        name: "LLaVA-OneVision",
        text: Text::Usually("qwen2"),
        tied: Tied::Anywhere,
        ..LLAVA
    },
    Wrapper {
        model_type: "video_llava",
        name: "Video-LLaVA",
        ..LLAVA
    },
    Wrapper {
        model_type: "vipllava",
        name: "ViP-LLaVA",
        ..LLAVA
    },
    Wrapper {
        model_type: "internvl",
        name: "InternVL 3",
        text: Text::Usually("qwen2"),
        tied: Tied::Outside(true),
        ..LLAVA
    },
    Wrapper {
        model_type: "aya_vision",
        name: "Aya Vision",
        text: Text::Usually("cohere2"),
        tied: Tied::Outside(true),
        ..LLAVA
    },
    Wrapper {
        model_type: "cohere2_vision",
        name: "Command A Vision",
        text: Text::Usually("cohere2"),
        tied: Tied::Outside(true),
        ..LLAVA
    },
    Wrapper {
        model_type: "exaone4_5",
        name: "EXAONE 4.5",
        text: Text::Usually("exaone4"),
        ..LLAVA
    },
    Wrapper {
        model_type: "got_ocr2",
        name: "GOT-OCR 2",
        text: Text::Usually("qwen2"),
        tied: Tied::Outside(true),
        ..LLAVA
    },
    Wrapper {
        model_type: "fast_vlm",
        name: "FastVLM",
        text: Text::Usually("qwen2"),
        tied: Tied::Anywhere,
        ..LLAVA
    },
    Wrapper {
        model_type: "perception_lm",
        name: "Perception LM",
        tied: Tied::OutsideFirst,
        ..LLAVA
    },
    Wrapper {
        model_type: "lighton_ocr",
        name: "LightOnOCR",
        text: Text::Usually("qwen3"),
        tied: Tied::Outside(true),
        ..LLAVA
    },
    Wrapper {
        model_type: "paligemma",
        name: "PaliGemma, PaliGemma 2",
        text: Text::Usually("gemma"),
        tied: Tied::Outside(true),
        adjusts_logits: true,
        prompt: PromptAttention::Whole,
        ..LLAVA
    },
];

/// Text models that have no family of their own.
pub(super) const TEXT_MODELS: &[TextModel] = &[
    // What the first configurations of EXAONE 4.5 call its text model.
    TextModel {
        model_type: "exaone4_5_text",
        family: "exaone4",
        defaults: r#"{"vocab_size": 102400, "hidden_size": 4096, "intermediate_size": 16384, "num_hidden_layers": 32,
            "num_attention_heads": 32}"#,
        fixed: "{}",
    },
    // Checkpoints come with code of their own, which is DeepSeek-V3's.
    TextModel {
        model_type: "kimi_k2",
        family: "deepseek_v3",
        defaults: r#"{"vocab_size": 163840, "hidden_size": 7168, "intermediate_size": 18432, "num_hidden_layers": 61,
            "num_attention_heads": 64, "num_key_value_heads": 64}"#,
        fixed: "{}",
    },
    TextModel {
        model_type: "qwen2_vl_text",
        family: "qwen2",
        defaults: r#"{"vocab_size": 152064, "hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 80,
            "num_attention_heads": 64, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 1e6,
            "max_window_layers": 80}"#,
        fixed: "{}",
    },
    TextModel {
        model_type: "qwen2_5_vl_text",
        family: "qwen2",
        defaults: r#"{"vocab_size": 152064, "hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 80,
            "num_attention_heads": 64, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 1e6,
            "max_window_layers": 80}"#,
        fixed: "{}",
    },
    TextModel {
        model_type: "qwen3_vl_text",
        family: "qwen3",
        defaults: r#"{"vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 128000, "rope_theta": 5e5}"#,
        fixed: r#"{"use_sliding_window": false, "layer_types": null}"#,
    },
    TextModel {
        model_type: "qwen3_vl_moe_text",
        family: "qwen3_moe",
        defaults: r#"{"vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24,
            "num_attention_heads": 16, "num_key_value_heads": 16, "max_position_embeddings": 128000, "rope_theta": 5e5,
            "moe_intermediate_size": 1408, "num_experts_per_tok": 4}"#,
        fixed: r#"{"use_sliding_window": false, "norm_topk_prob": true}"#,
    },
];
