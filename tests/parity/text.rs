//! Text prompts and generated text.

use crate::common::reference::{Bench, generate, join};
use crate::common::{program, run};

#[test]
fn a_text_is_encoded_and_what_follows_is_decoded() {
    let bench = Bench::new("llama-gqa", "lora");
    let prompt = "The adapter changes the answer.";
    let tokenizer = ::tokenizers::Tokenizer::from_file(bench.model.join("tokenizer.json")).unwrap();
    let ids = tokenizer.encode(prompt, true).unwrap().get_ids().to_vec();
    assert!(ids.len() > 5 && ids[0] == 1, "{ids:?}");

    let base = |options: &[&str]| {
        let mut command = program(["generate", "--ep", "cpu", "--json", "--max-new-tokens", "9"]);
        command.arg(&bench.model).args(options);
        generate(command.arg("--export-dir").arg(bench.exported.path()))
    };
    let from_text = base(&["--prompt", prompt]);
    let from_ids = base(&["--prompt-ids", &join(&ids)]);
    assert_eq!(from_text, from_ids);
    assert_eq!(from_text.prompt_ids, ids);
    let text = tokenizer.decode(&from_text.token_ids, true).unwrap();
    assert_eq!(from_text.text, Some(text.clone()));

    let mut command = program(["generate", "--ep", "cpu", "--max-new-tokens", "9"]);
    command.arg(&bench.model).args(["--prompt", prompt]);
    let plain = run(command.arg("--export-dir").arg(bench.exported.path()));
    assert_eq!(plain.stdout, format!("{text}\n"));
}

#[test]
fn without_a_tokenizer_ids_are_generated_and_a_text_is_refused() {
    let bench = Bench::new("llama-bias", "lora");
    assert_eq!(bench.generate("base", &[]).text, None);
    let mut command = program(["generate", "--ep", "cpu", "--prompt", "hello"]);
    command.arg(&bench.model);
    let outcome = run(command.arg("--export-dir").arg(bench.exported.path()));
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stderr.contains("tokenizer.json"), "{outcome:?}");
}
