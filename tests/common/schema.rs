//! Checks of results against `docs/result.schema.json`: the keywords of JSON Schema that it uses.
//! Any other fails, so that it can't ask for what isn't checked.

use std::path::Path;

use serde_json::{Map, Value};

use super::read_json;

/// What's wrong with `result`; empty if nothing is. A key that the schema doesn't describe is wrong
/// too, so that none is forgotten there.
pub fn problems(result: &Value) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/result.schema.json");
    let root = read_json(&path);
    let mut found = Vec::new();
    check(&root, &root, result, "result", &mut found);
    found
}

fn check(root: &Value, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    let keywords = schema.as_object().unwrap_or_else(|| panic!("{schema}"));
    for (keyword, wanted) in keywords {
        match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" => {}
            "$ref" => {
                let name = wanted.as_str().unwrap().strip_prefix('#').unwrap();
                let target = root.pointer(name);
                let target = target.unwrap_or_else(|| panic!("{wanted} is not defined"));
                check(root, target, value, at, found);
            }
            "type" => {
                let is = |name: &Value| is_of_type(value, name.as_str().unwrap());
                let fits = match wanted {
                    Value::Array(names) => names.iter().any(is),
                    name => is(name),
                };
                if !fits {
                    found.push(format!("`{at}` is {value}, not {wanted}"));
                }
            }
            "enum" if wanted.as_array().unwrap().contains(value) => {}
            "const" if wanted == value => {}
            "enum" | "const" => found.push(format!("`{at}` is {value}, not of {wanted}")),
            "minimum" => {
                if value.as_f64() < wanted.as_f64() && value.is_number() {
                    found.push(format!("`{at}` is {value}, below {wanted}"));
                }
            }
            "minItems" | "maxItems" => {
                let count = value.as_array().map(|items| items.len() as u64);
                let limit = wanted.as_u64();
                let wrong = match keyword.as_str() {
                    "minItems" => count < limit,
                    _ => count > limit,
                };
                if wrong && count.is_some() {
                    found.push(format!("`{at}` has {count:?} items; {keyword} is {wanted}"));
                }
            }
            "anyOf" => {
                let attempts = wanted.as_array().unwrap().iter().map(|schema| {
                    let mut found = Vec::new();
                    check(root, schema, value, at, &mut found);
                    found
                });
                let attempts: Vec<Vec<String>> = attempts.collect();
                if attempts.iter().all(|found| !found.is_empty()) {
                    found.extend(attempts.into_iter().flatten());
                }
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(root, wanted, item, &format!("{at}[{index}]"), found);
                }
            }
            "required" => {
                for key in wanted.as_array().unwrap() {
                    let key = key.as_str().unwrap();
                    if value.is_object() && value.get(key).is_none() {
                        found.push(format!("`{at}.{key}` is missing"));
                    }
                }
            }
            "properties" | "additionalProperties" => {
                for (key, entry) in value.as_object().into_iter().flatten() {
                    check_key(root, keywords, entry, at, key, found);
                }
            }
            other => panic!("this check doesn't know the keyword `{other}`"),
        }
    }
}

fn check_key(
    root: &Value,
    keywords: &Map<String, Value>,
    entry: &Value,
    at: &str,
    key: &str,
    found: &mut Vec<String>,
) {
    let described = keywords.get("properties").and_then(|all| all.get(key));
    let described = described.or_else(|| keywords.get("additionalProperties"));
    match described {
        Some(schema) => check(root, schema, entry, &format!("{at}.{key}"), found),
        None => found.push(format!("`{at}.{key}` is not described")),
    }
}

fn is_of_type(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("this check doesn't know the type `{other}`"),
    }
}
