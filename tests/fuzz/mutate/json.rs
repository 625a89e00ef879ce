//! Damage of a JSON value: other types, large numbers, deep nesting, keys that are missing or there
//! twice, long strings, parts of other values.

use rand::RngExt;
use rand::rngs::ChaCha12Rng;
use serde_json::{Map, Value, json};

use super::{TWICE, bytes};

const STRINGS: &[&str] = &[
    "",
    " ",
    ".",
    "..",
    "../x",
    "../../../../../../etc/passwd",
    "/",
    "/dev/zero",
    "/dev/stdin",
    "a/b",
    "\0",
    "\n",
    "\u{1b}[31m",
    "{{data}}",
    "<script>alert(1)</script>",
    "%d",
    "%s",
    "*",
    "a*a*a*a*a*a*a*b",
    ".*",
    "(a+)+$",
    "(?=a)*",
    "[",
    "(",
    "\\",
    "é",
    "\u{202e}",
    "\u{10ffff}",
    "NaN",
    "Infinity",
    "null",
    "none",
    "true",
    "1",
    "0",
    "-1",
    "all-linear",
    "float32",
    "LORA",
    "\u{feff}",
    "Regex",
    "BPE",
    "default",
    "auto",
];

/// The largest text that a damaged part grows to.
const LARGEST: usize = 1 << 18;

/// Damages `value` in one to four places; parts may come out of `other`.
pub fn damage(value: &mut Value, other: Option<&Value>, rng: &mut ChaCha12Rng) {
    for _ in 0..[1, 1, 1, 2, 2, 3, 4][rng.random_range(0..7)] {
        let own = value.clone();
        let from = other.filter(|_| rng.random_ratio(1, 3)).unwrap_or(&own);
        let place = chosen_mut(value, rng);
        damage_place(place, from, rng);
    }
}

/// A part of `value`: of those at the top as likely as of all further down.
fn chosen<'a>(value: &'a Value, rng: &mut ChaCha12Rng) -> &'a Value {
    let mut place = value;
    loop {
        let below: Vec<&Value> = match place {
            Value::Array(values) => values.iter().collect(),
            Value::Object(values) => values.values().collect(),
            _ => return place,
        };
        if below.is_empty() || rng.random_ratio(1, 5) {
            return place;
        }
        place = below[rng.random_range(0..below.len())];
    }
}

fn chosen_mut<'a>(value: &'a mut Value, rng: &mut ChaCha12Rng) -> &'a mut Value {
    let mut place = value;
    loop {
        let count = match &*place {
            Value::Array(values) => values.len(),
            Value::Object(values) => values.len(),
            _ => return place,
        };
        if count == 0 || rng.random_ratio(1, 5) {
            return place;
        }
        let index = rng.random_range(0..count);
        place = match place {
            Value::Array(values) => &mut values[index],
            Value::Object(values) => values.values_mut().nth(index).unwrap(),
            _ => unreachable!("others were returned"),
        };
    }
}

fn damage_place(place: &mut Value, from: &Value, rng: &mut ChaCha12Rng) {
    match place {
        Value::Array(values) if rng.random_ratio(2, 3) => damage_array(values, from, rng),
        Value::Object(values) if rng.random_ratio(2, 3) => damage_object(values, from, rng),
        _ => replace(place, from, rng),
    }
}

fn replace(place: &mut Value, from: &Value, rng: &mut ChaCha12Rng) {
    *place = match rng.random_range(0..12) {
        0 => scalar(rng),
        1 | 2 => number(place, rng),
        3 | 4 => STRINGS[rng.random_range(0..STRINGS.len())].into(),
        5 | 6 => chosen(from, rng).clone(),
        7 => json!([place.take()]),
        8 => json!({ "a": place.take() }),
        9 => match &*place {
            Value::String(text) => text
                .parse()
                .map_or(Value::Null, |number: f64| json!(number)),
            other => other
                .to_string()
                .chars()
                .take(LARGEST)
                .collect::<String>()
                .into(),
        },
        10 => {
            let part = ["a", "é", "../", "\u{1f980}", "0", " "][rng.random_range(0..6)];
            part.repeat([1, 100, 5_000, 30_000][rng.random_range(0..4)])
                .into()
        }
        _ => {
            let mut nested = place.take();
            // Serde's limit is 128.
            for _ in 0..[2, 60, 120, 126, 130][rng.random_range(0..5)] {
                nested = match rng.random_ratio(1, 2) {
                    true => json!([nested]),
                    false => json!({ "a": nested }),
                };
            }
            nested
        }
    };
}

fn scalar(rng: &mut ChaCha12Rng) -> Value {
    match rng.random_range(0..8) {
        0 => Value::Null,
        1 => true.into(),
        2 => false.into(),
        3 => json!([]),
        4 => json!({}),
        _ => any_number(rng),
    }
}

fn any_number(rng: &mut ChaCha12Rng) -> Value {
    const FLOATS: [f64; 10] = [
        0.0, -0.0, 0.5, -1.0, 1e308, -1e308, 1e-320, 1e19, 3.4e39, 1.5,
    ];
    match rng.random_range(0..4) {
        0 => json!(FLOATS[rng.random_range(0..FLOATS.len())]),
        1 => json!((bytes::telling(rng) as i64).wrapping_neg()),
        _ => json!(bytes::telling(rng)),
    }
}

/// A number near that in `place`, if there's one.
fn number(place: &Value, rng: &mut ChaCha12Rng) -> Value {
    let Value::Number(own) = place else {
        return any_number(rng);
    };
    match (own.as_i64(), rng.random_range(0..6)) {
        (Some(own), 0) => json!(own.wrapping_add(1)),
        (Some(own), 1) => json!(own.wrapping_sub(1)),
        (Some(own), 2) => json!(own.wrapping_mul(2)),
        (Some(own), 3) => json!(own.wrapping_mul(1_000_003)),
        (Some(own), 4) => json!(own.wrapping_neg()),
        _ => any_number(rng),
    }
}

fn damage_array(values: &mut Vec<Value>, from: &Value, rng: &mut ChaCha12Rng) {
    let count = values.len();
    let at = rng.random_range(0..count.max(1));
    match rng.random_range(0..6) {
        0 if count > 0 => drop(values.remove(at)),
        1 if count > 0 => {
            let one = values[at].clone();
            let size = one.to_string().len().max(1);
            let times = [1, 1, 10, 1_000][rng.random_range(0..4)];
            values.extend(std::iter::repeat_n(one, times.min(LARGEST / size)));
        }
        2 if count > 0 => values.swap(at, 0),
        3 => values.insert(at.min(count), chosen(from, rng).clone()),
        4 => values.clear(),
        _ => values.truncate(at),
    }
}

fn damage_object(values: &mut Map<String, Value>, from: &Value, rng: &mut ChaCha12Rng) {
    let keys: Vec<String> = values.keys().cloned().collect();
    if keys.is_empty() {
        values.insert("a".to_owned(), chosen(from, rng).clone());
        return;
    }
    let key = &keys[rng.random_range(0..keys.len())];
    let other = &keys[rng.random_range(0..keys.len())];
    match rng.random_range(0..8) {
        0 | 1 => drop(values.shift_remove(key)),
        2 => {
            let value = values[other].clone();
            values.insert(format!("{TWICE}{key}"), value);
        }
        3 => {
            let value = values.shift_remove(key).unwrap_or_default();
            let name = STRINGS[rng.random_range(0..STRINGS.len())];
            values.insert(name.to_owned(), value);
        }
        4 => {
            let [one, two] = [key, other].map(|key| values[key].clone());
            values.insert(key.clone(), two);
            values.insert(other.clone(), one);
        }
        5 => {
            // A key that such values have elsewhere.
            if let Value::Object(elsewhere) = chosen(from, rng)
                && let Some((key, value)) = elsewhere.iter().next_back()
            {
                values.insert(key.clone(), value.clone());
            }
        }
        6 => {
            let size = values[key].to_string().len() + key.len() + 16;
            for number in 0..[1, 50, 500][rng.random_range(0..3)].min(LARGEST / size) {
                values.insert(format!("{key}{number}"), values[key].clone());
            }
        }
        _ => {
            let value = values[key].clone();
            values.insert(key.to_uppercase(), value);
        }
    }
}
