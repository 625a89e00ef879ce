// The functions of NVML that peft-bench calls, for one GPU. Its figures are made up, and all differ, so that one in a wrong
// place is seen. Each time it's asked, it was throttled for a tenth of a second more.

#include <stdio.h>

#define GIB (1ull << 30)

static void *const device = (void *)1;

int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int error) { return "an error of the dry run"; }
int nvmlSystemGetDriverVersion(char *text, unsigned size) { return snprintf(text, size, "none") < 0; }
int nvmlSystemGetCudaDriverVersion_v2(int *version) {
    *version = 13000;
    return 0;
}
int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = 1;
    return 0;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    *handle = device;
    return index ? 2 : 0; // NVML_ERROR_INVALID_ARGUMENT
}
int nvmlDeviceGetName(void *handle, char *text, unsigned size) { return snprintf(text, size, "no GPU") < 0; }
int nvmlDeviceGetUUID(void *handle, char *text, unsigned size) { return snprintf(text, size, "GPU-none") < 0; }
int nvmlDeviceGetMemoryInfo(void *handle, unsigned long long memory[3]) {
    memory[0] = 80 * GIB; // in all
    memory[1] = 79 * GIB; // free
    memory[2] = 1 * GIB;  // used
    return 0;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, void *processes) {
    *count = 0;
    return 0;
}

// What is set on it.
int nvmlDeviceGetVbiosVersion(void *handle, char *text, unsigned size) { return snprintf(text, size, "0.0.dry.run") < 0; }
int nvmlDeviceGetPersistenceMode(void *handle, unsigned *on) { return *on = 0; }
int nvmlDeviceGetMigMode(void *handle, unsigned *now, unsigned *next) { return *now = *next = 0; }
int nvmlDeviceGetComputeMode(void *handle, unsigned *mode) { return *mode = 0; }
int nvmlDeviceGetAutoBoostedClocksEnabled(void *handle, unsigned *on, unsigned *usually) { return 3; } // NVML_ERROR_NOT_SUPPORTED
int nvmlDeviceGetCurrPcieLinkGeneration(void *handle, unsigned *value) { return *value = 4, 0; }
int nvmlDeviceGetMaxPcieLinkGeneration(void *handle, unsigned *value) { return *value = 5, 0; }
int nvmlDeviceGetCurrPcieLinkWidth(void *handle, unsigned *value) { return *value = 8, 0; }
int nvmlDeviceGetMaxPcieLinkWidth(void *handle, unsigned *value) { return *value = 16, 0; }
int nvmlDeviceGetEnforcedPowerLimit(void *handle, unsigned *milliwatts) { return *milliwatts = 300000, 0; }
int nvmlDeviceGetPowerManagementLimit(void *handle, unsigned *milliwatts) { return *milliwatts = 310000, 0; }
int nvmlDeviceGetPowerManagementDefaultLimit(void *handle, unsigned *milliwatts) { return *milliwatts = 400000, 0; }
int nvmlDeviceGetPowerManagementLimitConstraints(void *handle, unsigned *lowest, unsigned *highest) {
    *lowest = 100000;
    *highest = 500000;
    return 0;
}
// Clocks: 0 graphics, 1 multiprocessors, 2 memory.
int nvmlDeviceGetMaxClockInfo(void *handle, int clock, unsigned *mhz) { return *mhz = 2000 + clock, 0; }
int nvmlDeviceGetApplicationsClock(void *handle, int clock, unsigned *mhz) { return *mhz = 1500 + clock, 0; }
int nvmlDeviceGetTemperatureThreshold(void *handle, int kind, unsigned *celsius) { return *celsius = 90 + kind, 0; }
int nvmlDeviceGetSupportedClocksThrottleReasons(void *handle, unsigned long long *reasons) { return *reasons = 0x1ff, 0; }

// What it is doing.
int nvmlDeviceGetClockInfo(void *handle, int clock, unsigned *mhz) { return *mhz = 1000 + clock, 0; }
int nvmlDeviceGetPowerUsage(void *handle, unsigned *milliwatts) { return *milliwatts = 123456, 0; }
int nvmlDeviceGetTemperature(void *handle, int sensor, unsigned *celsius) { return *celsius = 55, 0; }
int nvmlDeviceGetPerformanceState(void *handle, int *state) { return *state = 2, 0; }
int nvmlDeviceGetUtilizationRates(void *handle, unsigned percent[2]) {
    percent[0] = 70; // GPU
    percent[1] = 30; // memory
    return 0;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(void *handle, unsigned long long *reasons) {
    *reasons = 0x4 | 0x40; // SwPowerCap, HwThermalSlowdown
    return 0;
}
int nvmlDeviceGetViolationStatus(void *handle, int policy, unsigned long long times[2]) {
    static unsigned long long counted;
    if (policy > 3) return 3; // NVML_ERROR_NOT_SUPPORTED
    times[0] = 1;                    // when it was read, in microseconds
    times[1] = counted += 100000000; // in nanoseconds
    return 0;
}
int nvmlDeviceGetTotalEnergyConsumption(void *handle, unsigned long long *millijoules) {
    static unsigned long long used;
    *millijoules = used += 5;
    return 0;
}
