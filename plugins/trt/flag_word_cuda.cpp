#include <cuda_runtime_api.h>

#include "flag_word.h"

namespace innerq::trt {

FlagWord::~FlagWord() {
    if (host_ != nullptr) cudaFreeHost(host_);
}

int32_t FlagWord::allocate(const char **reason) noexcept {
    void *host = nullptr;
    void *device = nullptr;
    cudaError_t error = cudaHostAlloc(&host, sizeof *host_, cudaHostAllocMapped | cudaHostAllocPortable);
    if (error == cudaSuccess) error = cudaHostGetDevicePointer(&device, host, 0);
    if (error != cudaSuccess) {
        if (host != nullptr) cudaFreeHost(host);
        *reason = cudaGetErrorString(error);
        return 1;
    }
    host_ = static_cast<int32_t *>(host);
    device_ = static_cast<int32_t *>(device);
    __atomic_store_n(host_, 0, __ATOMIC_RELEASE);
    return 0;
}

int32_t FlagWord::take() noexcept {
    if (host_ == nullptr || __atomic_load_n(host_, __ATOMIC_ACQUIRE) == 0) return 0;
    return __atomic_exchange_n(host_, 0, __ATOMIC_ACQ_REL);
}

}  // namespace innerq::trt
