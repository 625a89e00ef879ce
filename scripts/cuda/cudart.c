// A CUDA runtime without a GPU: device memory is host memory, kernels do nothing, and every relevant call is logged as a
// // line in the file named by CUDA_DRY_RUN_LOG:
//
//     kernel NAME
//     copy h2d|d2h|d2d|h2h BYTES [wrong]
//     wait
//     graph
//
// `wrong` marks a copy whose pointers don't match its direction. Copies from the device give zeros, since nothing was
// // computed there. Functions that aren't defined here are stubs that return 0 (`libraries.py`).
//
// There is one device, and one lock for everything: this shows which calls are made, not how fast they are.

#include <driver_types.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

void dry_run_log(const char *what, const char *detail) {
    static FILE *file;
    pthread_mutex_lock(&mutex);
    const char *path = getenv("CUDA_DRY_RUN_LOG");
    if (!file && path) file = fopen(path, "a");
    // Line-buffered, so that the log is complete if the program crashes.
    if (file) fprintf(file, "%s %s\n", what, detail), fflush(file);
    pthread_mutex_unlock(&mutex);
}

// ---- Memory

// Blocks of device memory, unordered. ONNX Runtime's arena allocates few of them.
static struct block { char *start; size_t size; } *blocks;
static size_t block_count, block_capacity;

static cudaError_t allocate(void **pointer, size_t size) {
    if (posix_memalign(pointer, 256, size ? size : 1)) return cudaErrorMemoryAllocation;
    memset(*pointer, 0, size);
    pthread_mutex_lock(&mutex);
    if (block_count == block_capacity) {
        block_capacity = block_capacity ? 2 * block_capacity : 64;
        blocks = realloc(blocks, block_capacity * sizeof *blocks);
        if (!blocks) abort();
    }
    blocks[block_count++] = (struct block){*pointer, size};
    pthread_mutex_unlock(&mutex);
    return cudaSuccess;
}

static cudaError_t release(void *pointer) {
    pthread_mutex_lock(&mutex);
    for (size_t i = 0; i < block_count; i++)
        if (blocks[i].start == pointer) {
            blocks[i] = blocks[--block_count];
            break;
        }
    pthread_mutex_unlock(&mutex);
    free(pointer);
    return cudaSuccess;
}

static int on_device(const void *pointer) {
    int found = 0;
    pthread_mutex_lock(&mutex);
    for (size_t i = 0; i < block_count && !found; i++)
        found = (const char *)pointer >= blocks[i].start && (const char *)pointer < blocks[i].start + blocks[i].size;
    pthread_mutex_unlock(&mutex);
    return found;
}

cudaError_t cudaMalloc(void **pointer, size_t size) { return allocate(pointer, size); }
cudaError_t cudaMallocFromPoolAsync(void **pointer, size_t size, cudaMemPool_t pool, cudaStream_t stream) {
    return allocate(pointer, size);
}
cudaError_t cudaFree(void *pointer) { return release(pointer); }
cudaError_t cudaFreeAsync(void *pointer, cudaStream_t stream) { return release(pointer); }
cudaError_t cudaMallocHost(void **pointer, size_t size) {
    *pointer = calloc(1, size);
    return *pointer ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaHostAlloc(void **pointer, size_t size, unsigned flags) { return cudaMallocHost(pointer, size); }
cudaError_t cudaFreeHost(void *pointer) {
    free(pointer);
    return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t *available, size_t *total) {
    *available = *total = (size_t)80 << 30;
    return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *pointer) {
    int device = on_device(pointer);
    memset(attributes, 0, sizeof *attributes);
    attributes->type = device ? cudaMemoryTypeDevice : cudaMemoryTypeHost;
    attributes->devicePointer = (void *)pointer;
    attributes->hostPointer = device ? NULL : (void *)pointer;
    return cudaSuccess;
}
cudaError_t cudaMemset(void *pointer, int value, size_t size) {
    memset(pointer, value, size);
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *pointer, int value, size_t size, cudaStream_t stream) {
    return cudaMemset(pointer, value, size);
}

// ---- Copies

static cudaError_t copy(void *to, const void *from, size_t size, enum cudaMemcpyKind kind) {
    int to_device = on_device(to), from_device = on_device(from);
    const char *direction = from_device ? (to_device ? "d2d" : "d2h") : (to_device ? "h2d" : "h2h");
    static const char *const asked[] = {"h2h", "h2d", "d2h", "d2d"};
    // A copy of no bytes may have any pointers.
    int wrong = size && kind <= cudaMemcpyDeviceToDevice && strcmp(asked[kind], direction);
    char line[64];
    snprintf(line, sizeof line, "%s %zu%s", direction, size, wrong ? " wrong" : "");
    dry_run_log("copy", line);
    if (from_device && !to_device) memset(to, 0, size);
    else memmove(to, from, size);
    return cudaSuccess;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t size, enum cudaMemcpyKind kind) {
    return copy(to, from, size, kind);
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, enum cudaMemcpyKind kind, cudaStream_t stream) {
    return copy(to, from, size, kind);
}
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t height,
                              enum cudaMemcpyKind kind, cudaStream_t stream) {
    for (size_t row = 0; row < height; row++)
        copy((char *)to + row * to_pitch, (const char *)from + row * from_pitch, width, kind);
    return cudaSuccess;
}

// ---- Kernels

// Kernel names by the address of their host function; a hash table with open addressing.
#define KERNELS (1u << 20)
static struct { const void *function; const char *name; } kernels[KERNELS];

static unsigned place(const void *function) {
    unsigned at = (unsigned)((size_t)function >> 4) * 2654435761u % KERNELS;
    while (kernels[at].function && kernels[at].function != function) at = (at + 1) % KERNELS;
    return at;
}

void __cudaRegisterFunction(void **binary, const char *function, char *device_function, const char *name, int limit,
                            void *thread, void *block, void *block_size, void *grid_size, int *warp_size) {
    unsigned at = place(function);
    kernels[at].function = function;
    kernels[at].name = name;
}
void **__cudaRegisterFatBinary(void *binary) {
    static void *handle;
    return &handle;
}

static cudaError_t launch(const void *function) {
    const char *name = kernels[place(function)].name;
    dry_run_log("kernel", name ? name : "?");
    return cudaSuccess;
}

cudaError_t cudaLaunchKernel(const void *function, dim3 grid, dim3 block, void **arguments, size_t memory,
                             cudaStream_t stream) {
    return launch(function);
}
cudaError_t cudaLaunchCooperativeKernel(const void *function, dim3 grid, dim3 block, void **arguments, size_t memory,
                                        cudaStream_t stream) {
    return launch(function);
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *configuration, const void *function, void **arguments) {
    return launch(function);
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **arguments, size_t memory,
                               cudaStream_t stream) {
    return launch(kernel);
}
cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *function) {
    *kernel = (cudaKernel_t)function;
    return cudaSuccess;
}

// `kernel<<<grid, block, memory, stream>>>(…)` pushes before the call; the kernel's host function pops.
static __thread struct { dim3 grid, block; size_t memory; void *stream; } pushed;

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t memory, void *stream) {
    pushed.grid = grid, pushed.block = block, pushed.memory = memory, pushed.stream = stream;
    return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *memory, void *stream) {
    *grid = pushed.grid, *block = pushed.block, *memory = pushed.memory, *(void **)stream = pushed.stream;
    return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attributes, const void *function) {
    memset(attributes, 0, sizeof *attributes);
    attributes->maxThreadsPerBlock = 1024;
    attributes->numRegs = 64;
    attributes->binaryVersion = attributes->ptxVersion = 90;
    return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks_of_one, const void *function, int size,
                                                                   size_t memory, unsigned flags) {
    *blocks_of_one = 2;
    return cudaSuccess;
}

// ---- Streams and events: everything is done immediately.

static cudaError_t handle(void **made) {
    *made = malloc(1);
    return *made ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaStreamCreate(cudaStream_t *stream) { return handle((void **)stream); }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) { return handle((void **)stream); }
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    free(stream);
    return cudaSuccess;
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data) {
    function(data);
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *event) { return handle((void **)event); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) { return handle((void **)event); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
    free(event);
    return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t from, cudaEvent_t to) {
    *milliseconds = 1;
    return cudaSuccess;
}
cudaError_t cudaMemPoolCreate(cudaMemPool_t *pool, const struct cudaMemPoolProps *properties) {
    return handle((void **)pool);
}
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, enum cudaMemPoolAttr attribute, void *value) {
    *(unsigned long long *)value = 0;
    return cudaSuccess;
}

// ---- Graphs: since kernels do nothing, the recorded calls aren't kept. Calls during recording are logged as usual.

static int recording;

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode) {
    recording = 1;
    return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
    *status = recording ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    dry_run_log("wait", "");
    // A recording stream can't be waited for.
    return recording ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    recording = 0;
    return handle((void **)graph);
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *executable, cudaGraph_t graph, unsigned long long flags) {
    return handle((void **)executable);
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
    dry_run_log("graph", "");
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
    free(executable);
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    free(graph);
    return cudaSuccess;
}

// ---- The device: it has the properties of an H100 that select kernels.

cudaError_t cudaGetDevice(int *device) {
    *device = 0;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; }
cudaError_t cudaGetDeviceCount(int *count) {
    *count = 1;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *device, int number) {
    memset(device, 0, sizeof *device);
    strcpy(device->name, "no GPU");
    device->major = 9;
    device->totalGlobalMem = (size_t)80 << 30;
    device->multiProcessorCount = 132;
    device->warpSize = 32;
    device->maxThreadsPerBlock = 1024;
    device->maxThreadsPerMultiProcessor = 2048;
    device->maxThreadsDim[0] = device->maxThreadsDim[1] = 1024;
    device->maxThreadsDim[2] = 64;
    device->maxGridSize[0] = 2147483647;
    device->maxGridSize[1] = device->maxGridSize[2] = 65535;
    device->regsPerBlock = device->regsPerMultiprocessor = 65536;
    device->sharedMemPerBlock = 49152;
    device->sharedMemPerBlockOptin = 232448;
    device->sharedMemPerMultiprocessor = 233472;
    device->l2CacheSize = 50 << 20;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int number) {
    struct cudaDeviceProp device;
    cudaGetDeviceProperties(&device, number);
    switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = device.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = device.minor; break;
    case cudaDevAttrMultiProcessorCount: *value = device.multiProcessorCount; break;
    case cudaDevAttrWarpSize: *value = device.warpSize; break;
    case cudaDevAttrMaxThreadsPerBlock: *value = device.maxThreadsPerBlock; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = (int)device.sharedMemPerBlock; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = (int)device.sharedMemPerBlockOptin; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = (int)device.sharedMemPerMultiprocessor; break;
    default: *value = 1;
    }
    return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *version) {
    *version = 13000;
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *version) { return cudaDriverGetVersion(version); }
cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned version, unsigned long long flags,
                                             enum cudaDriverEntryPointQueryResult *result) {
    *function = NULL;
    if (result) *result = cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}
cudaError_t cudaLibraryLoadData(cudaLibrary_t *library, const void *code, enum cudaJitOption *options, void **values,
                                unsigned count, enum cudaLibraryOption *library_options, void **library_values,
                                unsigned library_count) {
    return handle((void **)library);
}
cudaError_t cudaLibraryGetKernel(cudaKernel_t *kernel, cudaLibrary_t library, const char *name) {
    return handle((void **)kernel);
}
const char *cudaGetErrorName(cudaError_t error) { return "an error of the dry run"; }
const char *cudaGetErrorString(cudaError_t error) { return "an error of the dry run"; }
