//! The modules that methods target by default, by model type. For a model type that isn't in a
//! method's table, `target_modules` must be given.
//!
//! Source: PEFT, `utils/constants.py`, `TRANSFORMERS_MODELS_TO_<METHOD>_TARGET_MODULES_MAPPING`.

/// Names by model type.
pub type DefaultTargets = &'static [(&'static str, &'static [&'static str])];

/// Query and value projections, or the projection that combines them: the defaults of most methods.
pub const QUERY_VALUE: DefaultTargets = &[
    ("llama", &["q_proj", "v_proj"]),
    ("mistral", &["q_proj", "v_proj"]),
    ("mixtral", &["q_proj", "v_proj"]),
    ("qwen2", &["q_proj", "v_proj"]),
    ("qwen3", &["q_proj", "v_proj"]),
    ("stablelm", &["q_proj", "v_proj"]),
    ("gemma", &["q_proj", "v_proj"]),
    ("gemma2", &["q_proj", "v_proj"]),
    ("gemma3_text", &["q_proj", "v_proj"]),
    ("phi", &["q_proj", "v_proj", "fc1", "fc2"]),
    ("opt", &["q_proj", "v_proj"]),
    ("gpt2", &["c_attn"]),
    ("gptj", &["q_proj", "v_proj"]),
    ("gpt_neox", &["query_key_value"]),
    ("falcon", &["query_key_value"]),
    ("bloom", &["query_key_value"]),
    ("mpt", &["Wqkv"]),
];

/// [`QUERY_VALUE`] with fewer model types: FROD, PVeRA, SHiRA, VeRA.
pub const QUERY_VALUE_ONLY: DefaultTargets = &[
    ("llama", &["q_proj", "v_proj"]),
    ("mistral", &["q_proj", "v_proj"]),
    ("mixtral", &["q_proj", "v_proj"]),
    ("qwen2", &["q_proj", "v_proj"]),
    ("qwen3", &["q_proj", "v_proj"]),
    ("stablelm", &["q_proj", "v_proj"]),
    ("gemma", &["q_proj", "v_proj"]),
    ("gemma2", &["q_proj", "v_proj"]),
    ("gemma3_text", &["q_proj", "v_proj"]),
    ("phi", &["q_proj", "v_proj"]),
    ("opt", &["q_proj", "v_proj"]),
    ("gpt2", &["c_attn"]),
    ("gptj", &["q_proj", "v_proj"]),
    ("gpt_neox", &["query_key_value"]),
    ("falcon", &["query_key_value"]),
    ("bloom", &["query_key_value"]),
    ("mpt", &["Wqkv"]),
];

/// C3A, FourierFT, WaveFT: square layers for some model types.
pub const SPECTRAL: DefaultTargets = &[
    ("llama", &["q_proj", "v_proj"]),
    ("mistral", &["q_proj", "v_proj"]),
    ("mixtral", &["q_proj", "v_proj"]),
    ("qwen2", &["q_proj", "v_proj"]),
    ("qwen3", &["q_proj", "v_proj"]),
    ("stablelm", &["q_proj", "v_proj"]),
    ("gemma", &["q_proj", "v_proj"]),
    ("gemma2", &["q_proj", "v_proj"]),
    ("gemma3_text", &["q_proj", "v_proj"]),
    ("phi", &["q_proj", "v_proj", "fc1", "fc2"]),
    ("opt", &["q_proj", "v_proj"]),
    ("gpt2", &["mlp.c_proj"]),
    ("gptj", &["q_proj", "v_proj"]),
    ("gpt_neox", &["query_key_value"]),
    ("falcon", &["query_key_value"]),
    ("bloom", &["query_key_value"]),
    ("mpt", &["Wqkv"]),
];

/// AdaLoRA and VB-LoRA.
pub const ADALORA: DefaultTargets = &[
    ("llama", &["q_proj", "v_proj"]),
    ("qwen2", &["q_proj", "v_proj"]),
    ("qwen3", &["q_proj", "v_proj"]),
    ("gemma", &["q_proj", "v_proj"]),
    ("gemma2", &["q_proj", "v_proj"]),
    ("gemma3_text", &["q_proj", "v_proj"]),
    (
        "opt",
        &["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
    ),
    ("gpt2", &["c_attn"]),
    ("gptj", &["q_proj", "v_proj"]),
    ("gpt_neox", &["query_key_value"]),
    ("bloom", &["query_key_value"]),
];

/// BEFT.
pub const BEFT: DefaultTargets = &[
    ("llama", &["v_proj"]),
    ("mistral", &["v_proj"]),
    ("mixtral", &["v_proj"]),
    ("qwen2", &["v_proj"]),
    ("qwen3", &["v_proj"]),
    ("gemma", &["v_proj"]),
    ("gemma2", &["v_proj"]),
    ("gemma3_text", &["v_proj"]),
    ("phi", &["v_proj"]),
    ("opt", &["v_proj"]),
    ("gptj", &["v_proj"]),
];

/// (IA)³.
pub const IA3: DefaultTargets = &[
    ("llama", &["k_proj", "v_proj", "down_proj"]),
    ("mistral", &["k_proj", "v_proj", "down_proj"]),
    ("mixtral", &["k_proj", "v_proj", "w2"]),
    ("qwen2", &["q_proj", "v_proj", "down_proj"]),
    ("qwen3", &["q_proj", "v_proj", "down_proj"]),
    ("gemma", &["q_proj", "v_proj", "down_proj"]),
    ("gemma2", &["q_proj", "v_proj", "down_proj"]),
    ("gemma3_text", &["q_proj", "v_proj", "down_proj"]),
    ("phi", &["q_proj", "v_proj", "fc2"]),
    ("opt", &["q_proj", "k_proj", "fc2"]),
    ("gpt2", &["c_attn", "mlp.c_proj"]),
    ("gptj", &["q_proj", "v_proj", "fc_out"]),
    ("gpt_neox", &["query_key_value", "dense_4h_to_h"]),
    ("falcon", &["query_key_value", "dense_4h_to_h"]),
    ("bloom", &["query_key_value", "mlp.dense_4h_to_h"]),
];

/// Of those, the feed-forward layers, whose input (IA)³ scales.
pub const IA3_FEEDFORWARD: DefaultTargets = &[
    ("llama", &["down_proj"]),
    ("mistral", &["down_proj"]),
    ("mixtral", &["w2"]),
    ("qwen2", &["down_proj"]),
    ("qwen3", &["down_proj"]),
    ("gemma", &["down_proj"]),
    ("gemma2", &["down_proj"]),
    ("gemma3_text", &["down_proj"]),
    ("phi", &["fc2"]),
    ("opt", &["fc2"]),
    ("gpt2", &["mlp.c_proj"]),
    ("gptj", &["fc_out"]),
    ("gpt_neox", &["dense_4h_to_h"]),
    ("falcon", &["dense_4h_to_h"]),
    ("bloom", &["mlp.dense_4h_to_h"]),
];

/// LN tuning.
pub const LN_TUNING: DefaultTargets = &[
    (
        "llama",
        &["input_layernorm", "post_attention_layernorm", "norm"],
    ),
    (
        "mistral",
        &["input_layernorm", "post_attention_layernorm", "norm"],
    ),
    ("qwen2", &["post_attention_layernorm"]),
    ("qwen3", &["post_attention_layernorm"]),
    (
        "gemma",
        &["input_layernorm", "post_attention_layernorm", "norm"],
    ),
    (
        "gemma2",
        &[
            "input_layernorm",
            "post_attention_layernorm",
            "pre_feedforward_layernorm",
            "post_feedforward_layernorm",
            "norm",
        ],
    ),
    (
        "gemma3_text",
        &[
            "input_layernorm",
            "post_attention_layernorm",
            "pre_feedforward_layernorm",
            "post_feedforward_layernorm",
            "norm",
        ],
    ),
    ("phi", &["input_layernorm", "final_layernorm"]),
    ("gpt2", &["ln_1", "ln_2", "ln_f"]),
    ("gptj", &["ln_1", "ln_f"]),
    (
        "falcon",
        &["input_layernorm", "post_attention_layernorm", "ln_f"],
    ),
    (
        "bloom",
        &["input_layernorm", "post_attention_layernorm", "ln_f"],
    ),
];

/// OSF.
pub const OSF: DefaultTargets = &[
    (
        "llama",
        &[
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "down_proj",
            "up_proj",
        ],
    ),
    (
        "mistral",
        &[
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "down_proj",
            "up_proj",
        ],
    ),
    (
        "mixtral",
        &[
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "down_proj",
            "up_proj",
        ],
    ),
    (
        "qwen2",
        &[
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "down_proj",
            "up_proj",
        ],
    ),
    (
        "qwen3",
        &[
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "down_proj",
            "up_proj",
        ],
    ),
    (
        "gemma",
        &[
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "down_proj",
            "up_proj",
        ],
    ),
    (
        "gemma2",
        &[
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "down_proj",
            "up_proj",
        ],
    ),
    (
        "gemma3_text",
        &[
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "down_proj",
            "up_proj",
        ],
    ),
    (
        "phi",
        &[
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "down_proj",
            "up_proj",
        ],
    ),
    (
        "opt",
        &["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
    ),
    ("gpt2", &["c_attn", "c_proj"]),
    (
        "gptj",
        &["q_proj", "k_proj", "v_proj", "out_proj", "fc_in", "fc_out"],
    ),
    ("gpt_neox", &["query_key_value", "dense_4h_to_h"]),
    ("falcon", &["query_key_value", "dense_4h_to_h"]),
    ("bloom", &["query_key_value", "dense_4h_to_h"]),
];
