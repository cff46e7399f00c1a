// Launches a kernel so that it begins before the one before it in the stream has ended (rule: grid_order.cuh).
#pragma once

#include <cuda_runtime.h>

namespace innerq {

template <class Params>
cudaError_t launch_early(cudaLaunchConfig_t config, void (*kernel)(Params), const Params &params) {
    cudaFuncAttributes attributes;
    const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
    if (error != cudaSuccess) return error;
    cudaLaunchAttribute overlap = {};
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    config.attrs = &overlap;
    config.numAttrs = attributes.ptxVersion >= 90;  // code for older cards does not wait
    return cudaLaunchKernelEx(&config, kernel, params);
}

}  // namespace innerq
