"""The state of the GPU that `nvml.c` makes up, as a result has it."""

CLOCKS = ["graphics_mhz", "sm_mhz", "memory_mhz"]
NOW = {
    "clocks": dict(zip(CLOCKS, [1000, 1001, 1002])),
    "power_watts": 123.456,
    "temperature_c": 55,
    "performance_state": 2,
    "utilization_pct": 70,
    "memory_utilization_pct": 30,
    "throttle_reasons": ["power-cap", "hardware-thermal"],
}
REASONS = ["idle", "application-clocks", "power-cap", "hardware-slowdown", "sync-boost", "software-thermal"]
REASONS += ["hardware-thermal", "hardware-power-brake", "display-clocks"]
EXPECTED = {
    "vbios_version": "0.0.dry.run",
    "persistence_mode": False,
    "mig_mode": False,
    "compute_mode": "default",
    "auto_boost": None,
    "pcie": {"generation": 4, "highest_generation": 5, "width": 8, "highest_width": 16},
    "power": {
        "enforced_watts": 300.0,
        "set_watts": 310.0,
        "default_watts": 400.0,
        "lowest_watts": 100.0,
        "highest_watts": 500.0,
    },
    "highest_clocks": dict(zip(CLOCKS, [2000, 2001, 2002])),
    "application_clocks": dict(zip(CLOCKS, [1500, 1501, 1502])),
    "slowdown_temperature_c": 91,
    "supported_throttle_reasons": REASONS,
    "other_processes": 0,
    "before": NOW,
    "after": NOW,
    # Four counters are read in turn, before and after; the fifth isn't there.
    "throttled_seconds": {"power": 0.4, "thermal": 0.4, "sync_boost": 0.4, "board_limit": 0.4, "reliability": None},
}


def differences(expected, found, at: str = "gpu") -> list[str]:
    """Where `found` isn't what's `expected`; it may have more keys, whose values depend on how long a measurement takes."""
    if isinstance(expected, dict) and isinstance(found, dict):
        inner = (differences(value, found.get(key), f"{at}.{key}") for key, value in expected.items())
        return [fault for faults in inner for fault in faults]
    return [] if expected == found else [f"{at} is {found}, not {expected}"]
