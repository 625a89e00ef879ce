//! The options of PEFT's methods and PEFT's defaults, as `tests/fixtures/peft_options.py` wrote
//! them.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::{Map, Value};

#[derive(Debug, Deserialize)]
struct Recorded {
    methods: BTreeMap<String, Map<String, Value>>,
    nested: BTreeMap<String, Vec<String>>,
    llama: BTreeMap<String, Map<String, Value>>,
}

static RECORDED: LazyLock<Recorded> = LazyLock::new(|| {
    let text = include_str!("peft_options.json");
    serde_json::from_str(text).expect("a test reads PEFT's options")
});

/// The options of the method `peft_type` with PEFT's defaults; `None` if PEFT has no such method.
/// An option that PEFT gives no default is null.
pub fn options_of(peft_type: &str) -> Option<&'static Map<String, Value>> {
    RECORDED.methods.get(peft_type)
}

/// What options of the method `peft_type` stand for if they're null and the base is a Llama, the
/// family of whose adapters PEFT publishes results; `None` if null stands for nothing.
pub fn nulls_on_llama(peft_type: &str) -> Option<&'static Map<String, Value>> {
    RECORDED.llama.get(peft_type)
}

/// The options inside the option `name`, if it's an object with options of its own.
pub fn options_inside(name: &str) -> Option<&'static [String]> {
    RECORDED.nested.get(name).map(Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::PEFT_TYPES;

    #[test]
    fn every_method_has_its_options() {
        for peft_type in PEFT_TYPES {
            let options = options_of(peft_type).unwrap();
            assert_eq!(options["peft_type"], *peft_type);
        }
        assert_eq!(RECORDED.methods.len(), PEFT_TYPES.len());
        assert_eq!(options_of("LORA").unwrap()["r"], 8);
        assert_eq!(options_inside("kasa_config").unwrap(), ["beta", "gamma"]);
    }
}
