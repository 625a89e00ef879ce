//! Files and texts in this program's own forms: parameters, prompts, filters.

use std::path::Path;

use peft_bench::config::{BenchmarkConfig, DefaultsSource};
use peft_bench::prompts::{Category, Prompts};
use peft_bench::report::list::{Filter, RowsOf};

use super::{entries, in_project};
use crate::mutate::Form;
use crate::target::{Reader, Seed, Target, told};

pub const PARAMETERS: Reader = Reader {
    name: "parameters",
    one_of: 1,
    make: parameters,
};

pub const PROMPTS: Reader = Reader {
    name: "prompts",
    one_of: 1,
    make: prompts,
};

pub const FILTER: Reader = Reader {
    name: "filter",
    one_of: 1,
    make: filter,
};

fn parameters(folder: &Path) -> Target {
    let quantized =
        br#"{"use_4bit": true, "quantization_scheme": "rtn", "quantization_block_size": 32,
        "quantization_head": "float", "quantization_embedding": "4bit", "batch_size": [1, 8],
        "category_generation_params": {"short": {"max_new_tokens": 4}}}"#;
    let path = folder.join("params.json");
    let made = Seed::of(path.clone(), quantized.to_vec(), Form::of(&path, quantized));
    let built_in = Seed {
        path: path.clone(),
        ..Seed::at(&in_project("default_benchmark_params.json"))
    };
    Target {
        seeds: vec![built_in, made],
        read: Box::new(|seed| {
            let source = DefaultsSource::File(&seed.path);
            let config = BenchmarkConfig::load(source, Some(&seed.path), &|_| {});
            let config = config.map_err(|error| told(&error))?;
            let _ = config.to_json();
            let quantization = config.quantization();
            quantization.map(drop).map_err(|error| told(&error))
        }),
    }
}

fn prompts(folder: &Path) -> Target {
    let files = entries(&in_project("prompts")).into_iter();
    let seeds = files.map(|file| Seed {
        path: folder.join(file.file_name().unwrap()),
        ..Seed::at(&file)
    });
    Target {
        seeds: seeds.collect(),
        read: Box::new(|seed| {
            let prompts = Prompts::load(Some(&seed.path)).map_err(|error| told(&error))?;
            for category in Category::ALL {
                let _ = prompts.select(category, 3).map_err(|error| told(&error));
            }
            Ok(())
        }),
    }
}

fn filter(folder: &Path) -> Target {
    const EXPRESSIONS: [&str; 5] = [
        "method == \"LORA\" and overhead < 5",
        "decode_p99 < 20 ms or not (variant in (\"merged\", \"unmerged\"))",
        "name ~ \"dora\" and warnings == none",
        "((overhead >= -1.5e3) and (method != 'IA3'))",
        "variant not in (\"base\") and name !~ \"é\"",
    ];
    let seed = |text: &str| {
        let path = folder.join("expression");
        Seed::of(path, text.as_bytes().to_vec(), Form::Bytes)
    };
    let headings = RowsOf::Variants.headings();
    let is_valid = |text: &&str| Filter::parse(text, &headings).is_ok();
    Target {
        seeds: EXPRESSIONS
            .iter()
            .copied()
            .filter(is_valid)
            .map(seed)
            .collect(),
        read: Box::new(|seed| {
            let text = std::fs::read(&seed.path).unwrap();
            let text = String::from_utf8_lossy(&text);
            let parsed = Filter::parse(&text, &RowsOf::Variants.headings());
            parsed.map(drop).map_err(|error| told(&error))
        }),
    }
}
