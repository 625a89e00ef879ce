//! A key that an earlier version doesn't write, and that may be null.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The value of a key that may be null, and that files of earlier versions don't have. Fields need
/// `#[serde(default, skip_serializing_if = "Maybe::is_absent")]`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Maybe<T> {
    /// There is no such key.
    #[default]
    Absent,
    /// It's null: it doesn't apply, or isn't known.
    Null,
    /// It has a value.
    Value(T),
}

impl<T> Maybe<T> {
    /// The value, if there's one.
    pub fn value(&self) -> Option<&T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Absent | Self::Null => None,
        }
    }

    /// Whether the file doesn't have the key.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}

/// A key that's there.
impl<T> From<Option<T>> for Maybe<T> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Self::Value)
    }
}

impl<T: Serialize> Serialize for Maybe<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value().serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Maybe<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Keys {
        #[serde(default, skip_serializing_if = "Maybe::is_absent")]
        key: Maybe<u8>,
    }

    #[test]
    fn an_absent_key_a_null_and_a_value_stay_what_they_are() {
        for (text, key) in [
            ("{}", Maybe::Absent),
            (r#"{"key":null}"#, Maybe::Null),
            (r#"{"key":7}"#, Maybe::Value(7)),
        ] {
            let read: Keys = serde_json::from_str(text).unwrap();
            assert_eq!(read, Keys { key });
            assert_eq!(serde_json::to_string(&read).unwrap(), text);
        }
    }
}
