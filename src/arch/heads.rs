//! Numbers and sizes of attention heads, as in most families' `config.json`.

use super::{HeadNorm, Norm, NormKind, NormOver};
use crate::json::{ConfigError, JsonObject};

/// The widest head that's accepted: tables are built before the weights are checked.
const WIDEST: usize = 1 << 16;

/// Numbers and width of attention heads.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    /// Query heads.
    pub queries: usize,
    /// Key and value heads.
    pub keys: usize,
    /// Width of a head.
    pub width: usize,
}

impl Heads {
    /// As many key heads as query heads, with width `hidden_size / heads`; `key` is the key for
    /// their number.
    pub fn even(config: &JsonObject, key: &str, hidden_size: usize) -> Result<Self, ConfigError> {
        let queries = config.size(key)?;
        if !hidden_size.is_multiple_of(queries) || hidden_size / queries > WIDEST {
            return Err(config.wrong(
                key,
                &format!("a divisor of the hidden size ({hidden_size})"),
            ));
        }
        Ok(Self {
            queries,
            keys: queries,
            width: hidden_size / queries,
        })
    }

    /// Reads `num_attention_heads`, `num_key_value_heads` and `head_dim`. The second defaults to
    /// `default_keys` if it's absent, or to the number of query heads; the third to `default_width`
    /// if it's absent, or to `hidden_size / num_attention_heads`.
    pub fn grouped(
        config: &JsonObject,
        hidden_size: usize,
        default_keys: Option<usize>,
        default_width: Option<usize>,
    ) -> Result<Self, ConfigError> {
        let queries = config.size("num_attention_heads")?;
        let absent = |key: &str| config.json().get(key).is_none();
        let keys = match config.optional_size("num_key_value_heads")? {
            Some(keys) => keys,
            None => default_keys
                .filter(|_| absent("num_key_value_heads"))
                .unwrap_or(queries),
        };
        if queries % keys != 0 {
            let expected = format!("a divisor of `num_attention_heads` ({queries})");
            return Err(config.wrong("num_key_value_heads", &expected));
        }
        let default_width = default_width.filter(|_| absent("head_dim"));
        let width = match config.optional_size("head_dim")?.or(default_width) {
            Some(width) => width,
            None if hidden_size.is_multiple_of(queries) => hidden_size / queries,
            None => {
                let expected = format!("a divisor of `hidden_size` ({hidden_size})");
                return Err(config.wrong("num_attention_heads", &expected));
            }
        };
        if width > WIDEST {
            return Err(config.wrong("head_dim", &format!("at most {WIDEST}")));
        }
        Ok(Self {
            queries,
            keys,
            width,
        })
    }

    /// The usual scale of scores: `1 / sqrt(width)`.
    pub fn scale(self) -> f64 {
        1.0 / (self.width as f64).sqrt()
    }

    /// Norms of queries and keys at `paths`, over each head or over the whole projection.
    pub fn norms(
        self,
        paths: [String; 2],
        over: NormOver,
        kind: NormKind,
        epsilon: f64,
    ) -> [HeadNorm; 2] {
        let size = |heads: usize| match over {
            NormOver::Head | NormOver::HeadWithOwnWeight | NormOver::HeadWithOwnModule => {
                self.width
            }
            NormOver::Projection => heads * self.width,
        };
        let [query, key] = paths;
        [(query, self.queries), (key, self.keys)].map(|(path, heads)| HeadNorm {
            norm: Norm::new(path, size(heads), kind, epsilon),
            over,
        })
    }
}
