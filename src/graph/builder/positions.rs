//! Values of the last position alone, and the gate that goes with a value's positions.

use super::{GraphBuilder, Value};

/// The constant by which the last position is selected: whatever comes behind that has one position.
pub const LAST_POSITION: &str = "last";

impl GraphBuilder<'_> {
    /// The last position of `[batch, sequence, n]`, as `[batch, 1, n]`.
    pub fn last_position(&mut self, name: &str, x: &Value) -> Value {
        let last = self.constant_i64(LAST_POSITION, &[-1], false);
        self.gather(name, x, &last, 1)
    }

    /// Makes `gate`, `[batch, sequence, n]`, what adapters ask for with [`token_gate`](Self::token_gate).
    pub fn set_token_gate(&mut self, gate: Value) {
        self.token_gate = Some(gate);
    }

    /// The gate for the positions of `x`: all of them, or the last alone.
    ///
    /// # Panics
    /// If there's none: a method that has modules with a gate sets it.
    pub fn token_gate(&mut self, x: &Value) -> Value {
        let gate = self.token_gate.clone().expect("the decoder has set it");
        if !self.last.contains(&x.0) {
            return gate;
        }
        let name = format!("{}/last", gate.0);
        match self.last.contains(&name) {
            true => Value(name),
            false => self.last_position(&name, &gate),
        }
    }
}
