#include <cuda_runtime_api.h>

#include <stdexcept>

#include "memory.h"

namespace host {
namespace {

void check(cudaError_t error) {
    if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

cudaStream_t as_stream(void *stream) { return static_cast<cudaStream_t>(stream); }

}  // namespace

void *allocate(size_t bytes) {
    void *data = nullptr;
    check(cudaMalloc(&data, bytes > 0 ? bytes : 1));
    return data;
}

void release(void *data) { check(cudaFree(data)); }
void upload(void *to, const void *from, size_t bytes) { check(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice)); }
void download(void *to, const void *from, size_t bytes) { check(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost)); }

void *make_stream() {
    cudaStream_t stream = nullptr;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    return stream;
}

void synchronise(void *stream) { check(cudaStreamSynchronize(as_stream(stream))); }

void begin_capture(void *stream) { check(cudaStreamBeginCapture(as_stream(stream), cudaStreamCaptureModeThreadLocal)); }

void *end_capture(void *stream) {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    check(cudaStreamEndCapture(as_stream(stream), &graph));
    check(cudaGraphInstantiate(&executable, graph, 0));
    return executable;
}

void replay(void *graph, void *stream) {
    check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), as_stream(stream)));
}

const char *last_error() {
    const cudaError_t error = cudaGetLastError();
    return error == cudaSuccess ? "" : cudaGetErrorString(error);
}

}  // namespace host
