use super::*;
use std::cell::Cell;
use std::thread;

fn tiny() -> Shape {
    Shape {
        name: "tiny",
        copies: None,
        parameters: 0,
        config: r#"{"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 1500,
            "max_position_embeddings": 512, "tie_word_embeddings": false}"#,
    }
}

fn make_tiny(dtype: Dtype, cache: &Path) -> Result<PathBuf, SyntheticError> {
    make(&tiny(), dtype, cache, &|_, _| ())
}

fn read(folder: &Path, file: &str) -> Vec<u8> {
    fs::read(folder.join(file)).unwrap()
}

#[test]
fn the_folder_has_the_four_files_of_a_hub_model_and_no_temporary_files_remain() {
    let cache = tempfile::tempdir().unwrap();
    let folder = make_tiny(Dtype::F16, cache.path()).unwrap();
    assert_eq!(folder, cache.path().join("synthetic/tiny-float16-v2"));

    let config: Value = serde_json::from_slice(&read(&folder, CONFIG)).unwrap();
    assert_eq!(config["torch_dtype"], "float16");
    let weights = read(&folder, WEIGHTS);
    let weights = safetensors::SafeTensors::deserialize(&weights).unwrap();
    assert_eq!(
        weights.tensor("lm_head.weight").unwrap().shape(),
        [1_500, 32]
    );
    tokenizers::Tokenizer::from_file(folder.join(TOKENIZER)).unwrap();
    let config: Value = serde_json::from_slice(&read(&folder, TOKENIZER_CONFIG)).unwrap();
    assert_eq!(config["model_max_length"], 512);

    let entries = fs::read_dir(cache.path().join("synthetic")).unwrap();
    let mut entries: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
    entries.sort();
    assert_eq!(entries, [".tiny-float16-v2.lock", "tiny-float16-v2"]);
}

#[test]
fn two_caches_hold_the_same_bytes() {
    let caches = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [a, b] = caches
        .each_ref()
        .map(|cache| make_tiny(Dtype::F32, cache.path()).unwrap());
    for file in [CONFIG, WEIGHTS, TOKENIZER, TOKENIZER_CONFIG] {
        assert_eq!(read(&a, file), read(&b, file), "{file}");
    }
}

#[test]
fn an_existing_folder_is_returned_unchanged() {
    let cache = tempfile::tempdir().unwrap();
    let calls = Cell::new(0);
    let progress = |_, _| calls.set(calls.get() + 1);
    let first = make(&tiny(), Dtype::F32, cache.path(), &progress).unwrap();
    let after_first = calls.get();
    assert!(after_first > 0);
    assert_eq!(
        make(&tiny(), Dtype::F32, cache.path(), &progress).unwrap(),
        first
    );
    assert_eq!(calls.get(), after_first);
}

#[test]
fn threads_that_ask_at_once_get_one_whole_folder() {
    let cache = tempfile::tempdir().unwrap();
    let folders: Vec<_> = thread::scope(|scope| {
        let ask = || make_tiny(Dtype::F32, cache.path()).unwrap();
        let asking: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
        asking
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(folders.iter().all(|folder| *folder == folders[0]));
    let weights = read(&folders[0], WEIGHTS);
    safetensors::SafeTensors::deserialize(&weights).unwrap();
}

#[test]
fn remains_of_an_interrupted_run_are_removed() {
    let cache = tempfile::tempdir().unwrap();
    let partial = cache.path().join("synthetic/.tiny-float32-v2.partial");
    fs::create_dir_all(&partial).unwrap();
    fs::write(partial.join("rest"), "x").unwrap();
    let folder = make_tiny(Dtype::F32, cache.path()).unwrap();
    assert!(!partial.exists() && !folder.join("rest").exists());
}

#[test]
fn a_damaged_folder_is_an_error_that_says_what_to_do() {
    let cache = tempfile::tempdir().unwrap();
    let folder = make_tiny(Dtype::F32, cache.path()).unwrap();
    fs::remove_file(folder.join(TOKENIZER)).unwrap();
    let message = make_tiny(Dtype::F32, cache.path()).unwrap_err().to_string();
    assert!(
        message.contains("tokenizer.json") && message.contains("delete"),
        "{message}"
    );
    fs::write(folder.join(WEIGHTS), "short").unwrap();
    let message = make_tiny(Dtype::F32, cache.path()).unwrap_err().to_string();
    assert!(
        message.contains("model.safetensors has 5 bytes"),
        "{message}"
    );
}

#[test]
fn an_unknown_shape_is_an_error_that_names_the_nearest_three() {
    let cache = tempfile::tempdir().unwrap();
    let error = materialize("llama-135", Dtype::F32, cache.path(), &|_, _| ()).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("did you mean `llama-135m`, "), "{message}");
    let named = |name: &&str| message.contains(&format!("`{name}`"));
    assert_eq!(
        shapes().map(|shape| shape.name).filter(named).count(),
        3,
        "{message}"
    );
    assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 0);
}

#[test]
fn only_the_three_float_types_are_accepted() {
    let cache = tempfile::tempdir().unwrap();
    let error = make_tiny(Dtype::I64, cache.path()).unwrap_err();
    assert!(matches!(error, SyntheticError::Dtype { dtype: Dtype::I64 }));
}

#[test]
fn too_little_space_is_an_error_before_anything_is_written() {
    let gib = 1 << 30;
    assert!(check_space(Path::new("f"), gib, 2 * gib).is_ok());
    let message = check_space(Path::new("f"), gib, gib)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("f needs 1032 MiB, but only 1024 MiB are free"),
        "{message}"
    );
    let cache = tempfile::tempdir().unwrap();
    assert!(available_bytes(cache.path()).unwrap() > 0);
}

#[test]
fn a_file_that_cannot_be_made_is_named() {
    let cache = tempfile::tempdir().unwrap();
    fs::write(cache.path().join("synthetic"), "a file in the way").unwrap();
    let error = make_tiny(Dtype::F32, cache.path()).unwrap_err();
    assert!(error.to_string().contains("synthetic"), "{error}");
    assert!(std::error::Error::source(&error).is_some());
}
