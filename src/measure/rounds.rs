//! Whether other processes stay quiet from round to round.
//!
//! A share over a whole measurement hides a short burst. So other processes are looked at before
//! rounds as well.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::client::Interrupt;
use super::interference::{Interference, Reading};

/// Looks are at least this far apart: the kernel counts in clock ticks of 10 ms, too coarse for less.
const APART: Duration = Duration::from_secs(1);

/// What the looks before rounds found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct RoundLooks {
    /// How often others were looked at.
    pub looks: usize,
    /// How often they had disturbed since the look before.
    pub disturbed: usize,
    /// The largest share of the allowed cores' time that they took between two looks, steal
    /// included, from 0 to 1.
    pub largest_share: f64,
}

impl RoundLooks {
    fn add(&mut self, found: &Interference) {
        let share = found.other_processes_share + found.steal_share;
        self.looks += 1;
        self.disturbed += usize::from(found.disturbed);
        self.largest_share = self.largest_share.max(share);
    }
}

/// Looks at other processes before rounds.
pub struct RoundWatch {
    interrupt: Interrupt,
    state: RefCell<State>,
}

struct State {
    at: Instant,
    reading: Reading,
    looks: RoundLooks,
}

impl RoundWatch {
    /// Watches a measurement whose workers `interrupt` knows; `None` on systems other than Linux.
    pub fn start(interrupt: &Interrupt) -> Option<Self> {
        let state = State {
            at: Instant::now(),
            reading: Reading::now(&interrupt.workers())?,
            looks: RoundLooks::default(),
        };
        Some(Self {
            interrupt: interrupt.clone(),
            state: RefCell::new(state),
        })
    }

    /// Looks at what others have done since the last look, if that's long enough ago.
    pub fn look(&self) {
        let mut state = self.state.borrow_mut();
        if state.at.elapsed() < APART {
            return;
        }
        let Some(reading) = Reading::now(&self.interrupt.workers()) else {
            return;
        };
        if let Some(found) = reading.since(&state.reading) {
            state.looks.add(&found);
        }
        (state.at, state.reading) = (Instant::now(), reading);
    }

    /// What was found; `None` if the measurement was too short for a look.
    pub fn finish(self) -> Option<RoundLooks> {
        let looks = self.state.into_inner().looks;
        (looks.looks > 0).then_some(looks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts_are_counted_and_the_largest_is_kept() {
        let mut looks = RoundLooks::default();
        for (others, steal) in [(0.02, 0.0), (0.4, 0.1), (0.0, 0.2)] {
            looks.add(&Interference {
                load_before: None,
                load_after: None,
                other_processes_share: others,
                steal_share: steal,
                disturbed: others + steal > 0.1,
            });
        }
        let expected = RoundLooks {
            looks: 3,
            disturbed: 2,
            largest_share: 0.5,
        };
        assert_eq!(looks, expected);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_look_that_comes_too_early_is_not_taken() {
        let watch = RoundWatch::start(&Interrupt::default()).unwrap();
        watch.look();
        assert_eq!(watch.finish(), None);
    }
}
