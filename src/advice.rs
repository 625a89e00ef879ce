//! Commands that error messages suggest, ready to be pasted into a shell.

use std::path::Path;

/// `path` quoted as one word of a shell command, where that's needed.
pub fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_./-+@%:=,".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// The command that converts the pickled `adapter_model.bin` in `folder` to safetensors, without
/// executing code from the pickle.
pub fn convert_adapter(folder: &Path) -> String {
    format!(
        "python3 -c \"import sys, torch; from safetensors.torch import save_file; d = sys.argv[1]; \
         w = torch.load(d + '/adapter_model.bin', map_location='cpu', weights_only=True); \
         save_file({{k: v.clone().contiguous() for k, v in w.items()}}, d + '/adapter_model.safetensors')\" {}",
        shell_word(folder)
    )
}

/// The command that converts the model in `folder` to safetensors.
pub fn convert_model(folder: &Path) -> String {
    format!(
        "python3 -c \"import sys; from transformers import AutoModelForCausalLM as M; \
         M.from_pretrained(sys.argv[1], torch_dtype='auto').save_pretrained(sys.argv[1])\" {}",
        shell_word(folder)
    )
}

/// The command that rounds the float64 tensors of the safetensors file `path` to float32.
pub fn round_doubles(path: &Path) -> String {
    format!(
        "python3 -c \"import sys, torch; from safetensors.torch import load_file, save_file; f = sys.argv[1]; \
         save_file({{k: v.float() if v.dtype == torch.float64 else v.clone() for k, v in load_file(f).items()}}, f, \
         metadata={{'format': 'pt'}})\" {}",
        shell_word(path)
    )
}

/// The command that has Transformers rewrite the multimodal model in `folder`, into
/// `rewritten-model` in the working folder.
pub fn rewrite_wrapper(folder: &Path) -> String {
    format!(
        "python3 -c \"import sys; from transformers import AutoModelForImageTextToText as M, AutoTokenizer as T; \
         a, b = sys.argv[1:]; M.from_pretrained(a, dtype='auto').save_pretrained(b); \
         T.from_pretrained(a).save_pretrained(b)\" {} rewritten-model",
        shell_word(folder)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_quoted_only_if_a_shell_would_split_it() {
        let word = |text: &str| shell_word(Path::new(text));
        assert_eq!(word("a/b-1.0"), "a/b-1.0");
        assert_eq!(word("my adapter"), "'my adapter'");
        assert_eq!(word("it's"), r"'it'\''s'");
        assert_eq!(word(""), "''");
    }
}
