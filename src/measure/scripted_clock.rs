//! A clock for tests.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use super::timings::Clock;

/// A clock that moves only when it's told to. Clones show the same time.
#[derive(Clone, Default)]
pub struct ScriptedClock(Rc<Cell<Duration>>);

impl ScriptedClock {
    pub fn advance(&self, time: Duration) {
        self.0.set(self.0.get() + time);
    }

    pub fn advance_ms(&self, milliseconds: u64) {
        self.advance(Duration::from_millis(milliseconds));
    }
}

impl Clock for ScriptedClock {
    fn now(&self) -> Duration {
        self.0.get()
    }
}
