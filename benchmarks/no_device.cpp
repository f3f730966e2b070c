// A CUDA runtime and a driver that launch nothing, for host_cuda.py: two devices, whose memory is that of the host. Kernels are
// loaded and launched without effect, and everything is done at once. What CuPy asks for beyond this returns 0.

#include <cuda_runtime_api.h>

#include <cstdlib>
#include <cstring>

namespace {

thread_local int current_device = 0;

int attribute(int which) {
  switch (which) {
    case cudaDevAttrMultiProcessorCount:
      return 132;
    case cudaDevAttrMaxThreadsPerBlock:
      return 1024;
    case cudaDevAttrMaxGridDimX:
      return 2147483647;
    case cudaDevAttrWarpSize:
      return 32;
    case cudaDevAttrComputeCapabilityMajor:
      return 9;
    case cudaDevAttrComputeCapabilityMinor:
    case cudaDevAttrMemoryPoolsSupported:
      return 0;
    default:
      return 1;
  }
}

int allocate(void** memory, size_t size) {
  *memory = std::aligned_alloc(4096, (size + 4096) / 4096 * 4096);
  return *memory ? 0 : cudaErrorMemoryAllocation;
}

int copy(void* to, const void* from, size_t size) {
  std::memcpy(to, from, size);
  return 0;
}

// Something to point at, for handles of modules, functions, streams and events
int handle(void** result) {
  static char something[8];
  *result = something;
  return 0;
}

}  // namespace

extern "C" {

// The runtime, in the place of the one that is linked into CuPy
#define RUNTIME(name, ...) cudaError_t cuda##name(__VA_ARGS__)
#define OK(result) return static_cast<cudaError_t>(result)
RUNTIME(GetDeviceCount, int* count) { *count = 2; OK(0); }
RUNTIME(GetDevice, int* device) { *device = current_device; OK(0); }
RUNTIME(SetDevice, int device) { current_device = device; OK(0); }
RUNTIME(DriverGetVersion, int* version) { *version = CUDART_VERSION; OK(0); }
RUNTIME(RuntimeGetVersion, int* version) { *version = CUDART_VERSION; OK(0); }
RUNTIME(DeviceGetAttribute, int* value, cudaDeviceAttr which, int) { *value = attribute(which); OK(0); }
RUNTIME(MemGetInfo, size_t* available, size_t* total) { *available = *total = size_t(1) << 36; OK(0); }
RUNTIME(Malloc, void** memory, size_t size) { OK(allocate(memory, size)); }
RUNTIME(HostAlloc, void** memory, size_t size, unsigned) { OK(allocate(memory, size)); }
RUNTIME(Free, void* memory) { std::free(memory); OK(0); }
RUNTIME(FreeHost, void* memory) { std::free(memory); OK(0); }
RUNTIME(Memcpy, void* to, const void* from, size_t size, cudaMemcpyKind) { OK(copy(to, from, size)); }
RUNTIME(MemcpyAsync, void* to, const void* from, size_t size, cudaMemcpyKind, cudaStream_t) { OK(copy(to, from, size)); }
RUNTIME(MemcpyPeer, void* to, int, const void* from, int, size_t size) { OK(copy(to, from, size)); }
RUNTIME(MemcpyPeerAsync, void* to, int, const void* from, int, size_t size, cudaStream_t) { OK(copy(to, from, size)); }
RUNTIME(Memset, void* memory, int value, size_t size) { std::memset(memory, value, size); OK(0); }
RUNTIME(MemsetAsync, void* memory, int value, size_t size, cudaStream_t) { std::memset(memory, value, size); OK(0); }
RUNTIME(DeviceCanAccessPeer, int* able, int, int) { *able = 1; OK(0); }
RUNTIME(StreamCreate, cudaStream_t* stream) { OK(handle(reinterpret_cast<void**>(stream))); }
RUNTIME(StreamCreateWithFlags, cudaStream_t* stream, unsigned) { OK(handle(reinterpret_cast<void**>(stream))); }
RUNTIME(StreamIsCapturing, cudaStream_t, cudaStreamCaptureStatus* status) { *status = cudaStreamCaptureStatusNone; OK(0); }
RUNTIME(EventCreate, cudaEvent_t* event) { OK(handle(reinterpret_cast<void**>(event))); }
RUNTIME(EventCreateWithFlags, cudaEvent_t* event, unsigned) { OK(handle(reinterpret_cast<void**>(event))); }
RUNTIME(EventElapsedTime, float* milliseconds, cudaEvent_t, cudaEvent_t) { *milliseconds = 0; OK(0); }
RUNTIME(PointerGetAttributes, cudaPointerAttributes* found, const void* memory) {
  std::memset(found, 0, sizeof *found);
  found->type = cudaMemoryTypeDevice;
  found->device = current_device;
  found->devicePointer = const_cast<void*>(memory);
  OK(0);
}
const char* cudaGetErrorName(cudaError_t) { return "no device"; }
const char* cudaGetErrorString(cudaError_t) { return "there is none"; }

// The driver, which CuPy looks for when it is imported
int cuInit(unsigned) { return 0; }
int cuGetExportTable(const void**, const void*) { return 1; }
int cuDriverGetVersion(int* version) { *version = CUDART_VERSION; return 0; }
int cuCtxGetDevice(int* device) { *device = current_device; return 0; }
int cuDevicePrimaryCtxRetain(void** context, int) { return handle(context); }
int cuCtxGetCurrent(void** context) { return handle(context); }
int cuModuleLoadData(void** module, const void*) { return handle(module); }
int cuModuleUnload(void*) { return 0; }
int cuModuleGetFunction(void** function, void*, const char*) { return handle(function); }
int cuFuncGetAttribute(int* value, int which, void*) { *value = which == 0 ? 1024 : 0; return 0; }
int cuLaunchKernel(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**) { return 0; }
}
