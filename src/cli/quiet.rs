//! `--quiet-gate`: waiting until other processes are quiet.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::progress::message;
use crate::measure::quiet::{Look, QuietGate, Waited, WhenBusy};

/// `--quiet-gate`, and how.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "A quiet machine")]
pub struct QuietOptions {
    /// Before measuring, wait up to so long, such as `30s`, until other processes have been quiet for two seconds in turn.
    /// If they don't become so, nothing is measured or written, and the exit code is 3.
    #[arg(long, value_name = "TIME", value_parser = time)]
    quiet_gate: Option<Duration>,

    /// The part of the cores' time that others must stay below to be quiet.
    #[arg(
        long,
        value_name = "PCT",
        value_parser = share,
        default_value = "5%",
        requires = "quiet_gate"
    )]
    quiet_share: f64,

    /// What to do if the machine doesn't become quiet.
    #[arg(
        long,
        value_name = "ACTION",
        value_enum,
        default_value = "refuse",
        requires = "quiet_gate"
    )]
    when_busy: BusyChoice,
}

/// `--when-busy`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum BusyChoice {
    /// Measure nothing.
    Refuse,
    /// Measure all the same, and say so.
    Measure,
}

impl QuietOptions {
    /// What's waited for, if anything.
    pub fn gate(&self) -> Option<QuietGate> {
        let otherwise = match self.when_busy {
            BusyChoice::Refuse => WhenBusy::Refuse,
            BusyChoice::Measure => WhenBusy::Measure,
        };
        self.quiet_gate.map(|wait| QuietGate {
            wait,
            share: self.quiet_share / 100.0,
            otherwise,
        })
    }
}

/// `30s` or `2m`.
fn time(text: &str) -> Result<Duration, String> {
    let found = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match found.as_secs() {
        0 | 1 => Err("expected at least two seconds, such as `30s`".to_owned()),
        _ => Ok(found),
    }
}

/// `5%` or `5`.
fn share(text: &str) -> Result<f64, String> {
    let number = text.trim_end_matches('%').trim_end();
    match number.parse() {
        Ok(value) if (0.0..=100.0).contains(&value) && value > 0.0 => Ok(value),
        _ => Err("expected a percentage of up to 100, such as `5%`".to_owned()),
    }
}

/// What's said while it waits.
#[derive(Debug, Default)]
pub struct QuietProgress {
    told: bool,
}

impl QuietProgress {
    /// Says once what keeps the machine busy.
    pub fn report(&mut self, gate: &QuietGate, look: &Look) {
        if !self.told && !look.is_quiet(gate.share) {
            let most = humantime::format_duration(gate.wait);
            message(&format!("waiting up to {most} for a quiet machine: {look}"));
            self.told = true;
        }
    }

    /// Says what came of waiting, if it was told of, or if it's measured all the same.
    pub fn finish(&mut self, gate: &QuietGate, waited: &Waited) {
        let told = std::mem::take(&mut self.told);
        if waited.quiet && told {
            message(&format!("quiet after {} s", waited.seconds));
        } else if !waited.quiet && gate.otherwise == WhenBusy::Measure {
            message(&format!(
                "warning: the machine isn't quiet after {} s, and it's measured all the same: {}",
                waited.seconds, waited.last
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_has_room_for_two_looks_and_a_share_is_a_percentage() {
        assert_eq!(time("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(time("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["1s", "0s", "soon", ""] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
        assert_eq!(share("5%"), Ok(5.0));
        assert_eq!(share("100"), Ok(100.0));
        for wrong in ["0", "-1%", "101", "NaN", ""] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }
}
