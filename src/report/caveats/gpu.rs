//! What a GPU's state says about the figures.

use super::Level::{Note, Warn};
use super::environment::Reason;
use crate::system::environment::{Clocks, Gpu, GpuState, SLOWDOWNS};

/// All that the state of the GPU gives reason to know.
pub(super) fn reasons(found: &mut Vec<Reason>, gpu: &Gpu) {
    throttling(found, gpu);
    if let Some(count) = gpu.other_processes.filter(|count| *count > 0) {
        let text = format!(
            "{count} other processes computed on the GPU before this ran; `nvidia-smi` names them, and `--device` takes \
             another GPU"
        );
        found.push((Warn, "shared GPU", text));
    }
    if let (Some(limit), Some(default)) = (gpu.power.enforced_watts, gpu.power.default_watts)
        && limit < default
    {
        let text = format!(
            "The GPU's power is limited to {limit:.0} of {default:.0} W; `sudo nvidia-smi -pl {default:.0}` lifts it"
        );
        found.push((Warn, "power limit", text));
    }
    if gpu.mig_mode == Some(true) {
        let text = "The GPU is divided (MIG), so clocks, power and throttling are those of the whole, and others may use the \
                    rest of it";
        found.push((Note, "divided GPU", text.to_owned()));
    }
    let highest = gpu.highest_clocks;
    let set = gpu.application_clocks;
    let below = |set: Option<u32>, highest: Option<u32>| {
        set.zip(highest).is_some_and(|(set, highest)| set < highest)
    };
    if below(set.sm_mhz, highest.sm_mhz) || below(set.memory_mhz, highest.memory_mhz) {
        let mhz = |clocks: Clocks| {
            let shown = |clock: Option<u32>| clock.map_or("?".to_owned(), |mhz| mhz.to_string());
            format!("{} and {}", shown(clocks.sm_mhz), shown(clocks.memory_mhz))
        };
        let text = format!(
            "Applications run with clocks of {} MHz (multiprocessors and memory), of {} that it has; \
             `sudo nvidia-smi -rac` resets them",
            mhz(set),
            mhz(highest)
        );
        found.push((Note, "application clocks", text));
    }
    if let (Some(width), Some(highest)) = (gpu.pcie.width, gpu.pcie.highest_width)
        && width < highest
    {
        let text = format!(
            "The GPU's link has {width} of {highest} lanes, which slows copies between host and device; look at its slot"
        );
        found.push((Note, "narrow link", text));
    }
    if gpu.persistence_mode == Some(false) {
        let text = "The driver isn't kept loaded (persistence mode), so opening a session may load it first; \
                    `sudo nvidia-smi -pm 1` keeps it";
        found.push((Note, "no persistence mode", text.to_owned()));
    }
}

/// The reasons seen between rounds and at the end, and the time that was counted.
fn throttling(found: &mut Vec<Reason>, gpu: &Gpu) {
    let states = gpu.between_rounds.iter().chain([&gpu.after]);
    let seen = states.flat_map(|state: &GpuState| state.throttle_reasons.iter().flatten());
    let mut seen: Vec<&str> = seen
        .map(String::as_str)
        .filter(|reason| SLOWDOWNS.contains(reason))
        .collect();
    seen.sort_unstable();
    seen.dedup();
    let times = [
        ("power", gpu.throttled_seconds.power),
        ("heat", gpu.throttled_seconds.thermal),
    ];
    let counted = times.iter().filter_map(|(what, seconds)| {
        let seconds = seconds.filter(|seconds| *seconds >= 0.05)?;
        Some(format!("{seconds:.1} s for its {what}"))
    });
    let counted: Vec<String> = counted.collect();
    if seen.is_empty() && counted.is_empty() {
        return;
    }
    let said = match (seen.is_empty(), counted.is_empty()) {
        (true, _) => counted.join(", "),
        (false, true) => seen.join(", "),
        (false, false) => format!("{} ({})", counted.join(", "), seen.join(", ")),
    };
    let text = format!(
        "The GPU lowered its clocks while this ran: {said}; cool it, raise its power limit (`sudo nvidia-smi -pl`), or lock a \
         clock that it can hold (`sudo nvidia-smi -lgc`)"
    );
    found.push((Warn, "GPU throttled", text));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::environment::{PcieLink, PowerLimits, Throttled};

    fn of(gpu: &Gpu) -> Vec<Reason> {
        let mut found = Vec::new();
        reasons(&mut found, gpu);
        found
    }

    fn state(reasons: &[&str]) -> GpuState {
        GpuState {
            throttle_reasons: Some(reasons.iter().map(|&name| name.to_owned()).collect()),
            ..GpuState::default()
        }
    }

    #[test]
    fn a_gpu_that_tells_nothing_and_an_idle_one_give_no_reason() {
        assert_eq!(of(&Gpu::default()), []);
        let idle = Gpu {
            after: state(&["idle"]),
            between_rounds: Some(state(&["application-clocks"])),
            ..Gpu::default()
        };
        assert_eq!(of(&idle), []);
    }

    #[test]
    fn throttling_is_told_from_what_was_seen_and_what_was_counted() {
        let text = |gpu: Gpu| of(&gpu)[0].2.clone();
        let seen = Gpu {
            between_rounds: Some(state(&["hardware-thermal", "idle"])),
            ..Gpu::default()
        };
        assert!(text(seen.clone()).contains("while this ran: hardware-thermal; cool it"));
        let counted = Throttled {
            power: Some(2.04),
            thermal: Some(0.0),
            ..Throttled::default()
        };
        let both = Gpu {
            throttled_seconds: counted,
            ..seen
        };
        assert!(text(both).contains("2.0 s for its power (hardware-thermal)"));
        let alone = Gpu {
            throttled_seconds: counted,
            ..Gpu::default()
        };
        assert!(text(alone).contains("while this ran: 2.0 s for its power; cool it"));
    }

    #[test]
    fn limits_others_and_settings_are_told() {
        let found = of(&Gpu {
            persistence_mode: Some(false),
            mig_mode: Some(true),
            pcie: PcieLink {
                width: Some(8),
                highest_width: Some(16),
                ..PcieLink::default()
            },
            power: PowerLimits {
                enforced_watts: Some(300.0),
                default_watts: Some(700.0),
                ..PowerLimits::default()
            },
            highest_clocks: Clocks {
                sm_mhz: Some(1980),
                memory_mhz: Some(3201),
                ..Clocks::default()
            },
            application_clocks: Clocks {
                sm_mhz: Some(1200),
                ..Clocks::default()
            },
            other_processes: Some(2),
            ..Gpu::default()
        });
        let shorts: Vec<&str> = found.iter().map(|(_, short, _)| *short).collect();
        assert_eq!(
            shorts,
            [
                "shared GPU",
                "power limit",
                "divided GPU",
                "application clocks",
                "narrow link",
                "no persistence mode"
            ]
        );
        assert!(found[1].2.contains("300 of 700 W"));
        assert!(found[3].2.contains("1200 and ? MHz"));
    }
}
