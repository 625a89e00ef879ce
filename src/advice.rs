//! Commands that messages tell people to run, to be copied into a shell.

use std::path::Path;

/// `path` as a word of a shell's command line.
pub fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_./-+@%:=,".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// Makes `adapter_model.safetensors` of the pickled `adapter_model.bin` in `folder`, without running what the pickle holds.
pub fn convert_adapter(folder: &Path) -> String {
    format!(
        "python3 -c \"import sys, torch; from safetensors.torch import save_file; d = sys.argv[1]; \
         w = torch.load(d + '/adapter_model.bin', map_location='cpu', weights_only=True); \
         save_file({{k: v.clone().contiguous() for k, v in w.items()}}, d + '/adapter_model.safetensors')\" {}",
        shell_word(folder)
    )
}

/// Writes the model in `folder` again as safetensors.
pub fn convert_model(folder: &Path) -> String {
    format!(
        "python3 -c \"import sys; from transformers import AutoModelForCausalLM as M; \
         M.from_pretrained(sys.argv[1], torch_dtype='auto').save_pretrained(sys.argv[1])\" {}",
        shell_word(folder)
    )
}

/// Rounds what the safetensors file `path` has in float64 to float32.
pub fn round_doubles(path: &Path) -> String {
    format!(
        "python3 -c \"import sys, torch; from safetensors.torch import load_file, save_file; f = sys.argv[1]; \
         save_file({{k: v.float() if v.dtype == torch.float64 else v.clone() for k, v in load_file(f).items()}}, f, \
         metadata={{'format': 'pt'}})\" {}",
        shell_word(path)
    )
}

/// Writes the multimodal model in `folder` again, into a folder of the working folder.
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
    fn a_word_is_quoted_only_where_a_shell_would_take_it_apart() {
        let word = |text: &str| shell_word(Path::new(text));
        assert_eq!(word("a/b-1.0"), "a/b-1.0");
        assert_eq!(word("my adapter"), "'my adapter'");
        assert_eq!(word("it's"), r"'it'\''s'");
        assert_eq!(word(""), "''");
    }
}
