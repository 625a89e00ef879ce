//! Selecting the last position, and tracking which values hold only that.

use super::{GraphBuilder, Value};

/// The constant that holds the index of the last position, −1.
const LAST_POSITION: &str = "last";

impl GraphBuilder<'_> {
    /// The last position of `x`, `[batch, sequence, n]`, as `[batch, 1, n]`.
    pub fn last_position(&mut self, name: &str, x: &Value) -> Value {
        let last = self.constant_i64(LAST_POSITION, &[-1], false);
        let made = self.gather(name, x, &last, 1);
        self.last.insert(made.0.clone());
        made
    }

    /// Whether `x` holds the last position only.
    pub fn is_last_position(&self, x: &Value) -> bool {
        self.last.contains(&x.0)
    }

    /// `gate`, `[batch, sequence, n]`, reduced to the positions of `x`: all of them, or the last
    /// one.
    pub fn gate_for(&mut self, gate: &Value, x: &Value) -> Value {
        if !self.is_last_position(x) {
            return gate.clone();
        }
        let name = format!("{}/last", gate.0);
        match self.last.contains(&name) {
            true => Value(name),
            false => self.last_position(&name, gate),
        }
    }
}
