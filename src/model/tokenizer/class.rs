//! Determines the Transformers class that loads a folder's tokenizer.
//!
//! Some classes use `tokenizer.json` unchanged. Others use its vocabulary, merges and
//! post-processor, and rebuild the rest. The class depends on `tokenizer_class`, on the model's
//! type, and on the file.
//!
//! Source: `AutoTokenizer.from_pretrained`, `models/auto/tokenization_auto.py`.

use std::path::Path;

use serde_json::{Map, Value};

use super::TokenizerError;

/// A tokenizer class of Transformers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// `TokenizersBackend`, alias `PreTrainedTokenizerFast`: uses the file unchanged.
    AsStored,
    /// `LlamaTokenizer`
    Llama,
    /// `CodeLlamaTokenizer`
    CodeLlama,
    /// `GemmaTokenizer`
    Gemma,
    /// `GPT2Tokenizer`
    Gpt2,
    /// `CodeGenTokenizer`
    CodeGen,
    /// `Qwen2Tokenizer`
    Qwen2,
    /// `Qwen3_5Tokenizer`
    Qwen35,
    /// `GPTNeoXTokenizer`
    GptNeoX,
    /// `CohereTokenizer`
    Cohere,
}

/// Names of the classes that rebuild the tokenizer, as far as this program supports them.
const NAMES: [(&str, Class); 9] = [
    ("LlamaTokenizer", Class::Llama),
    ("CodeLlamaTokenizer", Class::CodeLlama),
    ("GemmaTokenizer", Class::Gemma),
    ("GPT2Tokenizer", Class::Gpt2),
    ("CodeGenTokenizer", Class::CodeGen),
    ("Qwen2Tokenizer", Class::Qwen2),
    ("Qwen3_5Tokenizer", Class::Qwen35),
    ("GPTNeoXTokenizer", Class::GptNeoX),
    ("CohereTokenizer", Class::Cohere),
];

/// Other classes of Transformers that rebuild the tokenizer; they're not supported. A class name
/// that Transformers doesn't know means that the file is used unchanged.
#[rustfmt::skip]
const OTHERS: [&str; 88] = [
    "AlbertTokenizer", "BartTokenizer", "BarthezTokenizer", "BartphoTokenizer", "BertGenerationTokenizer",
    "BertJapaneseTokenizer", "BertTokenizer", "BertTokenizerLegacy", "BertweetTokenizer", "BigBirdTokenizer",
    "BioGptTokenizer", "BlenderbotSmallTokenizer", "BlenderbotTokenizer", "ByT5Tokenizer", "CLIPTokenizer",
    "CTRLTokenizer", "CamembertTokenizer", "CanineTokenizer", "ClvpTokenizer", "ConvBertTokenizer", "CpmAntTokenizer",
    "CpmTokenizer", "DPRContextEncoderTokenizer", "DPRQuestionEncoderTokenizer", "DPRReaderTokenizer",
    "DebertaTokenizer", "DebertaV2Tokenizer", "DiaTokenizer", "DistilBertTokenizer", "EsmTokenizer", "EsmcTokenizer",
    "FNetTokenizer", "FSMTTokenizer", "FastSpeech2ConformerTokenizer", "FlaubertTokenizer", "FunnelTokenizer",
    "GPTNeoXJapaneseTokenizer", "GPTSw3Tokenizer", "HerbertTokenizer", "LEDTokenizer", "LasrTokenizer",
    "LayoutLMv2Tokenizer", "LayoutLMv3Tokenizer", "LayoutXLMTokenizer", "LukeTokenizer", "LxmertTokenizer",
    "M2M100Tokenizer", "MBart50Tokenizer", "MBartTokenizer", "MLukeTokenizer", "MPNetTokenizer", "MarianTokenizer",
    "MarkupLMTokenizer", "MgpstrTokenizer", "MobileBertTokenizer", "MvpTokenizer", "MyT5Tokenizer", "NllbTokenizer",
    "NougatTokenizer", "OpenAIGPTTokenizer", "PLBartTokenizer", "ParakeetTokenizer", "PegasusTokenizer",
    "PerceiverTokenizer", "PhobertTokenizer", "Pop2PianoTokenizer", "ProphetNetTokenizer", "ReformerTokenizer",
    "RemBertTokenizer", "RoCBertTokenizer", "RoFormerTokenizer", "RobertaTokenizer", "SeamlessM4TTokenizer",
    "Siglip2Tokenizer", "SiglipTokenizer", "Speech2TextTokenizer", "SpeechT5Tokenizer", "SplinterTokenizer",
    "SqueezeBertTokenizer", "T5Tokenizer", "TapasTokenizer", "UdopTokenizer", "VitsTokenizer", "WhisperTokenizer",
    "XGLMTokenizer", "XLMRobertaTokenizer", "XLMTokenizer", "XLNetTokenizer",
];

/// The class that Transformers uses for each `model_type` of a decoder. For other types,
/// `tokenizer_class` decides.
#[rustfmt::skip]
const BY_MODEL: [(Class, &[&str]); 8] = [
    (Class::AsStored, &[
        "arctic", "aria", "chatlm", "cohere_asr", "ernie4_5", "ernie4_5_moe", "flex_olmo", "fuyu", "glm", "glm4",
        "glm4_moe", "glm4_moe_lite", "glm4v", "glm4v_moe", "glm_image", "glmasr", "got_ocr2", "gpt_bigcode", "granite",
        "granitemoe", "granitemoehybrid", "granitemoeshared", "h2ovl_chat", "hyperclovax", "hyperclovax_vlm",
        "internlm2", "internlm3", "iquestcoder", "jamba", "kimi_k25", "kimi_linear", "kosmos-2", "llava", "llava_next",
        "mimo_v2_flash", "minicpm3", "minicpm_ocr", "minicpmv", "minicpmv4_6", "minicpmv4_7", "minimax_m2", "ministral",
        "ministral3", "mistral", "mistral3", "mistral_large4", "mixtral", "modernbert-decoder", "molmo", "molmo2",
        "nemo_speechlm", "nemotron", "nvfp4", "olmo2", "olmo3", "olmo_hybrid", "opencua", "openvla", "paddleocr_vl",
        "persimmon", "phi3", "phi3_v", "phimoe", "pixtral", "smolvlm", "stablelm", "step3_vl", "vipllava", "voxtral",
        "voxtral_realtime",
    ]),
    (Class::Gpt2, &[
        "blip-2", "codegen", "dbrx", "emu3", "gpt2", "gpt_neo", "gptj", "hyperclovax_vision_v2", "instructblip",
        "instructblipvideo", "jais2", "opt", "phi", "starcoder2",
    ]),
    (Class::Qwen2, &[
        "audioflamingo3", "colqwen2", "cosmos3_omni", "dots3_note", "fun_asr_nano", "hunyuan_vl", "internvl",
        "lighton_ocr", "moss_transcribe_diarize", "ovis2", "qianfan_ocr", "qwen2", "qwen2_5_omni", "qwen2_5_vl",
        "qwen2_audio", "qwen2_moe", "qwen2_vl", "qwen3", "qwen3_asr", "qwen3_moe", "qwen3_next", "qwen3_omni_moe",
        "qwen3_vl", "qwen3_vl_moe", "vibevoice",
    ]),
    (Class::Qwen35, &["qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text", "qwen4_exp"]),
    (Class::Gemma, &[
        "diffusion_gemma", "gemma", "gemma2", "gemma3", "gemma3_text", "gemma3n", "gemma3n_text", "recurrent_gemma",
        "shieldgemma2", "t5gemma", "zaya",
    ]),
    (Class::GptNeoX, &[
        "falcon_mamba", "gpt_neox", "mamba", "mamba2", "mpt", "olmo", "olmoe", "rwkv", "xlstm",
    ]),
    (Class::Cohere, &["aya_vision", "cohere", "cohere2"]),
    (Class::Llama, &["idefics", "idefics2"]),
];

/// Model types whose public checkpoints name a wrong class; the class in [`BY_MODEL`] is used
/// instead.
#[rustfmt::skip]
const MISNAMED: [&str; 40] = [
    "arctic", "chatlm", "cohere_asr", "ernie4_5", "ernie4_5_moe", "fuyu", "h2ovl_chat", "hyperclovax",
    "hyperclovax_vision_v2", "hyperclovax_vlm", "internlm2", "internlm3", "iquestcoder", "jamba", "llava", "llava_next",
    "minicpm3", "minicpmv", "minimax_m2", "modernbert", "modernbert-decoder", "molmo", "molmo2", "nemotron", "nvfp4",
    "opencua", "openvla", "paddleocr_vl", "phi3", "phi3_v", "phimoe", "qwen2", "qwen3_5", "qwen3_5_moe",
    "qwen3_5_moe_text", "qwen4_exp", "siglip2", "smolvlm", "step3_vl", "vipllava",
];

impl Class {
    /// The class of the tokenizer in `folder`, given the contents of its `tokenizer_config.json`
    /// and `config.json` and the bytes of its `tokenizer.json`, as far as these exist.
    ///
    /// # Errors
    /// If the class isn't supported.
    pub fn of(
        folder: &Path,
        settings: &Map<String, Value>,
        model: &Map<String, Value>,
        stored: Option<&[u8]>,
    ) -> Result<Self, TokenizerError> {
        let text = |object: &Map<String, Value>, key: &str| {
            let value = object.get(key).and_then(Value::as_str);
            value.filter(|text| !text.is_empty()).map(str::to_owned)
        };
        let declared = text(settings, "tokenizer_class").or_else(|| text(model, "tokenizer_class"));
        let model_type = text(model, "model_type").unwrap_or_default();
        let registered = by_model(&model_type);
        let misnamed = MISNAMED.contains(&model_type.as_str());
        let Some(declared) = declared else {
            return Ok(registered.unwrap_or(Self::AsStored));
        };
        let named = || named(folder, &declared);
        if settings.contains_key("auto_map") {
            return named();
        }
        // A byte-level vocabulary isn't Llama's, whatever the configuration says.
        let byte_level = || stored.is_some_and(|bytes| contains(bytes, b"\"ByteLevel\""));
        if bare(&declared) == "LlamaTokenizer" && !misnamed && byte_level() {
            return Ok(Self::AsStored);
        }
        match registered {
            Some(Self::AsStored) => Ok(Self::AsStored),
            Some(registered) if misnamed => Ok(registered),
            Some(_) | None => named(),
        }
    }

    /// The class that `settings` name, regardless of the model.
    ///
    /// # Errors
    /// If the class isn't supported.
    pub fn declared(folder: &Path, settings: &Map<String, Value>) -> Result<Self, TokenizerError> {
        match settings.get("tokenizer_class").and_then(Value::as_str) {
            Some(name) => named(folder, name),
            None => Ok(Self::AsStored),
        }
    }

    /// Whether the class has a byte-level vocabulary, which is in `vocab.json` and `merges.txt` if
    /// there's no `tokenizer.json`.
    pub fn is_byte_level(self) -> bool {
        match self {
            Self::AsStored | Self::Llama | Self::CodeLlama | Self::Gemma => false,
            Self::Gpt2
            | Self::CodeGen
            | Self::Qwen2
            | Self::Qwen35
            | Self::GptNeoX
            | Self::Cohere => true,
        }
    }
}

fn by_model(model_type: &str) -> Option<Class> {
    let mut classes = BY_MODEL.into_iter();
    classes
        .find(|(_, types)| types.contains(&model_type))
        .map(|(class, _)| class)
}

fn bare(name: &str) -> &str {
    name.strip_suffix("Fast").unwrap_or(name)
}

/// The class called `name`.
fn named(folder: &Path, name: &str) -> Result<Class, TokenizerError> {
    let bare = bare(name);
    if let Some((_, class)) = NAMES.into_iter().find(|(known, _)| *known == bare) {
        return Ok(class);
    }
    match OTHERS.contains(&bare) {
        true => Err(TokenizerError::Class {
            folder: folder.to_owned(),
            class: name.to_owned(),
        }),
        false => Ok(Class::AsStored),
    }
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}
