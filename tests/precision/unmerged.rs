//! Unmerged adapters on quantized weights, compared with the same adapters on the dequantized
//! weights.

use peft_bench::quantize::Format;
use peft_bench::weights::SafetensorsFile;
use serde_json::json;

use crate::common::*;
use crate::quantized_trial::{CLOSE, QuantizedTrial, bound, check, is_of};

/// Cases that are refused, whether quantized or not.
const REFUSED: [&str; 2] = ["psoft", "psoft-cayley-neumann"];

/// Cases that use the full-precision weights; they have their own tests.
const OF_FULL_PRECISION: [&str; 7] = [
    "adamss",
    "adamss-one-subspace",
    "dora-pissa",
    "lora-kasa",
    "lora-olora",
    "lora-pissa",
    "supertuning-unsaved",
];

/// The cases of a model for which `meant` is true.
pub fn cases_of(name: &str, meant: impl Fn(&str) -> bool) -> Vec<String> {
    let mut all = names(case(name, "base").parent().unwrap());
    all.retain(|name| {
        name != "base"
            && !REFUSED.contains(&name.as_str())
            && !OF_FULL_PRECISION.contains(&name.as_str())
            && meant(name)
    });
    all
}

/// Cases of methods that use a weight for more than a matrix product.
pub fn needs_more(name: &str) -> bool {
    let methods = [
        "c3a",
        "dora",
        "fourierft",
        "frod",
        "glora",
        "gralora",
        "hira",
        "lily",
        "lora-alora",
        "lora-arrow",
        "lora-replication",
        "miss-bat",
        "osf",
        "randlora",
        "shadow",
        "shira",
        "supertuning",
        "waveft",
        "xlora",
    ];
    methods.iter().any(|method| name.starts_with(method))
}

#[test]
fn every_method_computes_the_same_on_4_bit_as_on_dequantized_weights() {
    let trial = QuantizedTrial::new("llama-gqa", Format::Int4Blocks32);
    // An embedding or head of another size is made from the base's full-precision rows, and is no
    // longer quantized.
    let makes_ends = ["lora-cut-ends", "lora-cut-head", "lora-resized-tokens-ends"];
    let cases = cases_of("llama-gqa", |name| !makes_ends.contains(&name));
    assert!(cases.len() > 95, "{}", cases.len());
    check(&trial, &cases);
}

#[test]
fn methods_that_need_more_than_products_do_so_with_8_bits_and_nf4_too() {
    for (name, format) in [
        ("llama-bias", Format::Int8Blocks32),
        ("opt-pre", Format::Nf4),
    ] {
        let trial = QuantizedTrial::new(name, format);
        let cases = cases_of(name, |name| {
            let full = [
                "frod-unsaved",
                "lora-alora-olora",
                "supertuning-unsaved-least",
            ];
            needs_more(name) && !full.contains(&name)
        });
        assert!(cases.len() > 12, "{cases:?}");
        check(&trial, &cases);
    }
}

#[test]
fn zero_points_and_blocks_of_other_sizes_compute_the_same_as_dequantized_weights() {
    for format in [
        Format::KQuant,
        Format::KQuantBlocks16,
        Format::Search,
        Format::SearchBlocks32,
        Format::Int4Blocks64,
        Format::Int8Blocks16,
    ] {
        let trial = QuantizedTrial::new("llama-gqa", format);
        check(&trial, &["lora", "dora", "hira", "oft"].map(str::to_owned));
    }
}

/// 4 bits, but 8 in the head, keys and values, which so aren't joined with the queries.
#[test]
fn the_usual_mixture_of_formats_computes_the_same_as_dequantized_weights() {
    let cases = ["lora", "dora", "hira", "oft"].map(str::to_owned);
    check(&QuantizedTrial::usual("llama-gqa"), &cases);
    check(&QuantizedTrial::usual("llama-tied"), &cases[..1]);
}

/// The native form uses products with the quantized weight, or the dequantized weight.
#[test]
fn the_native_form_computes_the_same_on_quantized_weights() {
    for format in [Format::Int4Blocks32, Format::Int8Blocks32, Format::Nf4] {
        let mut trial = QuantizedTrial::new("llama-gqa", format);
        trial.more = &["--adapter-form", "native"];
        let all = [
            "adalora",
            "boft",
            "c3a",
            "delora",
            "dora",
            "gralora",
            "hira",
            "hra",
            "lily",
            "loha",
            "lokr",
            "lora-alora",
            "oft",
            "randlora",
            "road",
            "shadow",
            "vera",
            "xlora",
        ];
        let over_weights = ["dora", "hira", "hra"];
        let cases = if format == Format::Int4Blocks32 {
            &all[..]
        } else {
            &over_weights
        };
        check(
            &trial,
            &cases
                .iter()
                .map(|&case| case.to_owned())
                .collect::<Vec<_>>(),
        );
        // The weight is dequantized by nodes of the graph, not in advance.
        for case in over_weights {
            let (_, tensors) = bound(&trial, &self::case("llama-gqa", case), true);
            assert!(tensors.values().all(|tensor| tensor.values.len() < 64 * 32));
        }
    }
    // Rows of 48 are padded to whole blocks.
    let mut trial = QuantizedTrial::new("llama-tied", Format::Int4Blocks32);
    trial.more = &["--adapter-form", "native"];
    let folder = trial.case("lora");
    make_fresh(&folder);
    let about = "case.json";
    std::fs::copy(
        self::case("llama-tied", "lora").join(about),
        folder.join(about),
    )
    .unwrap();
    let config = folder.join("adapter_config.json");
    set_key(&config, "use_dora", json!(true));
    set_key(&config, "init_lora_weights", json!(false));
    check(&trial, &["lora".to_owned()]);
}

#[test]
fn a_tied_head_and_transposed_weights_compute_the_same_too() {
    let trial = QuantizedTrial::new("llama-tied", Format::Int4Blocks32);
    check(
        &trial,
        &["lora", "lora-rslora", "waveft-coif1"].map(str::to_owned),
    );
    let trial = QuantizedTrial::new("gpt2", Format::Nf4);
    check(
        &trial,
        &["dora", "fourierft-default-targets", "lora", "randlora"].map(str::to_owned),
    );
}

#[test]
fn experts_are_quantized_and_their_routers_are_not() {
    for name in ["mixtral", "olmoe", "qwen3-moe"] {
        for format in [Format::Int4Blocks32, Format::Int8Blocks32, Format::Nf4] {
            let trial = QuantizedTrial::new(name, format);
            let file = SafetensorsFile::open(&trial.file()).unwrap();
            let names = file.names();
            let stored = read_checkpoint(&model(name));
            let experts = |name: &&String| name.contains("experts.") && name.ends_with(".weight");
            let experts: Vec<&String> = stored.keys().filter(experts).collect();
            assert!(experts.len() >= 24, "{name}: {experts:?}");
            for expert in experts {
                assert!(names.contains(&format!("{expert}.codes")), "{expert}");
            }
            let routers = names.iter().filter(|name| name.contains(".gate.weight"));
            assert_eq!(routers.count(), 0, "{name}");
            check(&trial, &["lora".to_owned()]);
            let base = |quantized| trial.logits(&case(name, "lora"), "base", quantized);
            let difference = relative_difference(&base(true), &base(false));
            assert!(difference <= CLOSE, "{name} in {format:?}: {difference:e}");
        }
    }
}

/// A note says if an adapter replaces quantized weights with float ones.
#[test]
fn weights_that_an_adapter_replaces_are_counted_and_noted() {
    let trial = QuantizedTrial::new("llama-gqa", Format::Int4Blocks32);
    for (name, replaced) in [("c3a", 6), ("lora", 0), ("lora-save-lm-head", 1)] {
        let mut command = trial.command("prepare", &trial.case(name), true);
        let outcome = run(command.args(["--variant", "unmerged"]));
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let note = format!("in float32 in the place of {replaced} of 15 that are quantized");
        assert_eq!(outcome.stderr.contains(&note), replaced > 0, "{outcome:?}");
        let mut manifests = files_below(&trial.root.path().join("quantized"));
        manifests.retain(|path| is_of(path, name) && path.ends_with("unmerged/manifest.json"));
        let found = &read_json(&manifests[0])["quantization"];
        assert_eq!(
            (&found["replaced_weights"], &found["quantized_weights"]),
            (&json!(replaced), &json!(15 - replaced))
        );
    }
}
