//! Recorded random streams for tests.

use serde_json::Value;

/// `tests/fixtures/streams/streams.json`, made by `make_streams.py` next to it.
pub struct Recorded(Value);

impl Recorded {
    pub fn read() -> Self {
        let text = include_str!("../../tests/fixtures/streams/streams.json");
        Self(serde_json::from_str(text).unwrap())
    }

    /// The recordings of one kind; at least one.
    pub fn cases(&self, kind: &str) -> Vec<Value> {
        let cases = self.0[kind].as_array().unwrap().clone();
        assert!(!cases.is_empty());
        cases
    }
}

pub fn as_u64s(value: &Value) -> Vec<u64> {
    let numbers = value.as_array().unwrap().iter();
    numbers.map(|number| number.as_u64().unwrap()).collect()
}

/// Float32 values from their bit patterns.
pub fn as_f32(value: &Value) -> Vec<f32> {
    let bits = as_u64s(value).into_iter();
    bits.map(|bits| f32::from_bits(bits as u32)).collect()
}
