// The functions of NVML that peft-bench calls, for one GPU.

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
