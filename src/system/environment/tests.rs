//! Files of other machines.

use std::fs;

use super::control_group::Unlimited;
use super::*;

/// A root folder with these files.
fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), files);
    root
}

fn write(root: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
    }
}

/// A laptop with an Intel processor: two cores with two hardware threads each.
const LAPTOP: &[(&str, &str)] = &[
    (
        "proc/self/status",
        "Name:\tpeft-bench\nCpus_allowed_list:\t0-3\nMems_allowed_list:\t0",
    ),
    (
        "proc/self/cgroup",
        "0::/user.slice/user-1000.slice/session-2.scope",
    ),
    (
        "proc/cpuinfo",
        "processor\t: 0\nmodel name\t: Intel(R) Core(TM) i7-1165G7 @ 2.80GHz\nmicrocode\t: 0xb8\nflags\t\t: fpu vme avx512f",
    ),
    ("proc/sys/kernel/randomize_va_space", "2"),
    ("proc/sys/kernel/numa_balancing", "0"),
    ("proc/sys/vm/nr_hugepages", "0"),
    ("proc/pressure/cpu", "some avg10=0.00 total=1000"),
    ("proc/pressure/memory", "some total=0\nfull total=0"),
    ("proc/pressure/io", "some total=0\nfull total=0"),
    ("sys/class/dmi/id/sys_vendor", "LENOVO"),
    ("sys/class/dmi/id/product_name", "20XW004AUS"),
    ("sys/devices/system/cpu/smt/active", "1"),
    ("sys/devices/system/cpu/intel_pstate/status", "active"),
    ("sys/devices/system/cpu/intel_pstate/no_turbo", "0"),
    (
        "sys/devices/system/cpu/cpu0/topology/thread_siblings_list",
        "0,2",
    ),
    (
        "sys/devices/system/cpu/cpu1/topology/thread_siblings_list",
        "1,3",
    ),
    (
        "sys/devices/system/cpu/cpu2/topology/thread_siblings_list",
        "0,2",
    ),
    (
        "sys/devices/system/cpu/cpu3/topology/thread_siblings_list",
        "1,3",
    ),
    (
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_driver",
        "intel_pstate",
    ),
    (
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
        "powersave",
    ),
    (
        "sys/devices/system/cpu/cpu0/cpufreq/energy_performance_preference",
        "balance_performance",
    ),
    (
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_min_freq",
        "400000",
    ),
    (
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq",
        "4700000",
    ),
    (
        "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq",
        "4700000",
    ),
    (
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq",
        "1200000",
    ),
    (
        "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor",
        "performance",
    ),
    (
        "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq",
        "2800000",
    ),
    (
        "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count",
        "3",
    ),
    (
        "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count",
        "10",
    ),
    (
        "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count",
        "0",
    ),
    (
        "sys/devices/system/cpu/cpu1/thermal_throttle/package_throttle_count",
        "10",
    ),
    (
        "sys/devices/system/cpu/vulnerabilities/meltdown",
        "Not affected",
    ),
    (
        "sys/devices/system/cpu/vulnerabilities/spectre_v2",
        "Mitigation: Enhanced IBRS",
    ),
    (
        "sys/devices/system/clocksource/clocksource0/current_clocksource",
        "tsc",
    ),
    ("sys/devices/system/node/online", "0"),
    ("sys/devices/system/node/node0/cpulist", "0-3"),
    (
        "sys/kernel/mm/transparent_hugepage/enabled",
        "always [madvise] never",
    ),
    (
        "sys/kernel/mm/transparent_hugepage/defrag",
        "always defer defer+madvise [madvise] never",
    ),
    ("sys/class/hwmon/hwmon0/name", "nvme"),
    ("sys/class/hwmon/hwmon0/temp1_input", "99000"),
    ("sys/class/hwmon/hwmon1/name", "coretemp"),
    ("sys/class/hwmon/hwmon1/temp1_input", "61000"),
    ("sys/class/hwmon/hwmon1/temp2_input", "63500"),
    ("sys/class/powercap/intel-rapl:0/name", "package-0"),
    (
        "sys/class/powercap/intel-rapl:0/constraint_0_name",
        "long_term",
    ),
    (
        "sys/class/powercap/intel-rapl:0/constraint_0_power_limit_uw",
        "28000000",
    ),
    ("sys/class/powercap/intel-rapl:0:0/name", "core"),
    ("sys/fs/cgroup/cpu.stat", "usage_usec 5"),
    (
        "sys/fs/cgroup/user.slice/cpu.stat",
        "usage_usec 5\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0",
    ),
    ("sys/fs/cgroup/user.slice/cpu.max", "max 100000"),
];

/// A server with an AMD processor, of which a container may use two and a half cores.
const SERVER: &[(&str, &str)] = &[
    (
        "proc/self/status",
        "Cpus_allowed_list:\t0,64\nMems_allowed_list:\t0-1",
    ),
    ("proc/self/cgroup", "0::/kubepods/pod1"),
    ("proc/cpuinfo", "microcode\t: 0xa101148\nflags\t\t: fpu svm"),
    ("proc/sys/kernel/numa_balancing", "1"),
    ("sys/devices/system/cpu/smt/active", "1"),
    ("sys/devices/system/cpu/cpufreq/boost", "0"),
    ("sys/devices/system/cpu/amd_pstate/status", "passive"),
    (
        "sys/devices/system/cpu/cpu0/topology/thread_siblings_list",
        "0,128",
    ),
    (
        "sys/devices/system/cpu/cpu64/topology/thread_siblings_list",
        "64,192",
    ),
    (
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_driver",
        "amd-pstate",
    ),
    (
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
        "schedutil",
    ),
    (
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq",
        "2000000",
    ),
    (
        "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq",
        "3700000",
    ),
    ("sys/devices/system/node/online", "0-1"),
    ("sys/devices/system/node/node0/cpulist", "0-63,128-191"),
    ("sys/devices/system/node/node1/cpulist", "64-127,192-255"),
    (
        "sys/kernel/mm/transparent_hugepage/enabled",
        "[always] madvise never",
    ),
    ("sys/class/thermal/thermal_zone0/type", "acpitz"),
    ("sys/class/thermal/thermal_zone0/temp", "20000"),
    ("sys/fs/cgroup/cpu.stat", "usage_usec 5"),
    ("sys/fs/cgroup/kubepods/cpu.max", "400000 100000"),
    (
        "sys/fs/cgroup/kubepods/cpu.stat",
        "nr_periods 100\nnr_throttled 1\nthrottled_usec 50000",
    ),
    ("sys/fs/cgroup/kubepods/pod1/cpu.max", "250000 100000"),
    (
        "sys/fs/cgroup/kubepods/pod1/cpu.stat",
        "nr_periods 100\nnr_throttled 20\nthrottled_usec 1000000",
    ),
];

#[test]
fn an_intel_laptop() {
    let root = machine(LAPTOP);
    let watch = EnvironmentWatch::start(root.path(), None);
    write(
        root.path(),
        &[
            (
                "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count",
                "5",
            ),
            (
                "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count",
                "14",
            ),
            (
                "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq",
                "2000000",
            ),
            ("sys/class/hwmon/hwmon1/temp2_input", "97000"),
            ("proc/pressure/cpu", "some avg10=0.00 total=1000"),
        ],
    );
    let found = watch.finish();

    let processor = &found.processor;
    assert_eq!(processor.microcode.as_deref(), Some("0xb8"));
    assert_eq!(processor.virtual_machine, Some(false));
    assert_eq!(
        processor.machine_model.as_deref(),
        Some("LENOVO 20XW004AUS")
    );
    assert_eq!(processor.smt_active, Some(true));
    assert_eq!(processor.siblings, Some(vec![vec![0, 2], vec![1, 3]]));
    let flaws = processor.vulnerabilities.as_ref().unwrap();
    assert_eq!(flaws.len(), 1);
    assert_eq!(flaws["spectre_v2"], "Mitigation: Enhanced IBRS");
    assert_eq!(processor.clock_source.as_deref(), Some("tsc"));
    assert_eq!(processor.address_randomization, Some(2));

    let frequency = &found.frequency;
    assert_eq!(frequency.driver.as_deref(), Some("intel_pstate"));
    assert_eq!(frequency.driver_status.as_deref(), Some("active"));
    let governors = ["performance", "powersave"].map(str::to_owned).to_vec();
    assert_eq!(frequency.governors, Some(governors));
    assert_eq!(frequency.boost, Some(true));
    assert_eq!(frequency.lowest_khz, Some(400_000));
    assert_eq!(frequency.highest_khz, frequency.hardware_highest_khz);
    assert_eq!(frequency.khz.before, Some([1_200_000, 2_800_000]));
    assert_eq!(frequency.khz.after, Some([2_000_000, 2_800_000]));
    assert_eq!(frequency.temperature_c.before, Some(63.5));
    assert_eq!(frequency.temperature_c.after, Some(97.0));
    assert_eq!(frequency.power_limits_watts, Some(vec![28.0]));
    // Two of a core, four of the package.
    assert_eq!(frequency.throttle_events, Some(6));

    let memory = &found.memory;
    assert_eq!(memory.transparent_huge_pages.as_deref(), Some("madvise"));
    assert_eq!(memory.huge_page_defrag.as_deref(), Some("madvise"));
    assert_eq!(memory.numa_nodes, Some(1));
    assert_eq!(memory.nodes_of_cores, Some(vec![0]));
    assert_eq!(memory.numa_balancing, Some(false));

    let group = &found.control_group;
    assert_eq!(group.version, Some(2));
    assert_eq!(
        group.cpu_quota,
        Some(CpuQuota::Unlimited(Unlimited::Unlimited))
    );
    assert_eq!(group.throttled_seconds, Some(0.0));
    let waiting = found.pressure.unwrap().cpu.unwrap();
    assert_eq!((waiting.some, waiting.full), (0.0, 0.0));
    assert_eq!(found.gpu, None);
}

#[test]
fn an_amd_server_with_a_quota() {
    let root = machine(SERVER);
    let watch = EnvironmentWatch::start(root.path(), None);
    write(
        root.path(),
        &[(
            "sys/fs/cgroup/kubepods/pod1/cpu.stat",
            "nr_periods 150\nnr_throttled 45\nthrottled_usec 4100000",
        )],
    );
    let found = watch.finish();
    let frequency = &found.frequency;
    assert_eq!(frequency.boost, Some(false));
    assert_eq!(frequency.driver_status.as_deref(), Some("passive"));
    assert_eq!(frequency.governors, Some(vec!["schedutil".to_owned()]));
    assert_eq!(frequency.highest_khz, Some(2_000_000));
    assert_eq!(frequency.hardware_highest_khz, Some(3_700_000));
    // Neither a sensor of the processor, nor a counter of throttling.
    assert_eq!(frequency.temperature_c.before, None);
    assert_eq!(frequency.throttle_events, None);
    assert_eq!(found.processor.siblings.unwrap().len(), 2);
    assert_eq!(found.memory.nodes_of_cores, Some(vec![0, 1]));
    assert_eq!(found.memory.allowed_nodes, Some(vec![0, 1]));
    let group = found.control_group;
    assert_eq!(group.version, Some(2));
    assert_eq!(group.cpu_quota, Some(CpuQuota::Cores(2.5)));
    assert_eq!(group.periods, Some(50));
    assert_eq!(group.throttled_periods, Some(25));
    assert_eq!(group.throttled_seconds, Some(3.1));
    assert_eq!(found.pressure, None);
}

#[test]
fn a_quota_of_version_1() {
    let files = [
        ("proc/self/cgroup", "2:cpu,cpuacct:/docker/0123\n0::/"),
        ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "150000"),
        ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000"),
        (
            "sys/fs/cgroup/cpu/cpu.stat",
            "nr_periods 10\nnr_throttled 0\nthrottled_time 0",
        ),
    ];
    let root = machine(&files);
    let watch = EnvironmentWatch::start(root.path(), None);
    let later = "nr_periods 20\nnr_throttled 4\nthrottled_time 250000000";
    write(root.path(), &[("sys/fs/cgroup/cpu/cpu.stat", later)]);
    let group = watch.finish().control_group;
    assert_eq!(
        (group.version, group.cpu_quota),
        (Some(1), Some(CpuQuota::Cores(1.5)))
    );
    assert_eq!(group.throttled_seconds, Some(0.25));
    write(root.path(), &[("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1")]);
    let group = EnvironmentWatch::start(root.path(), None)
        .finish()
        .control_group;
    assert_eq!(group.cpu_quota.unwrap().cores(), None);
}

#[test]
fn a_machine_that_tells_nothing() {
    let root = machine(&[]);
    let found = EnvironmentWatch::start(root.path(), None).finish();
    assert_eq!(found, Environment::default());
    let json = serde_json::to_value(&found).unwrap();
    assert!(json["frequency"]["governors"].is_null());
    assert!(json["control_group"]["cpu_quota"].is_null());
    assert_eq!(serde_json::from_value::<Environment>(json).unwrap(), found);
}

#[test]
fn it_survives_json_with_and_without_its_values() {
    let root = machine(SERVER);
    let found = EnvironmentWatch::start(root.path(), None).finish();
    let json = serde_json::to_value(&found).unwrap();
    assert_eq!(json["control_group"]["cpu_quota"], 2.5);
    assert_eq!(serde_json::from_value::<Environment>(json).unwrap(), found);
    let laptop = machine(LAPTOP);
    let found = EnvironmentWatch::start(laptop.path(), None).finish();
    let json = serde_json::to_value(&found).unwrap();
    assert_eq!(json["control_group"]["cpu_quota"], "unlimited");
    let empty: Environment = serde_json::from_str("{}").unwrap();
    assert_eq!(empty, Environment::default());
}
