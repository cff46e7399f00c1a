// Prefill attention: the history is dequantised once into workspace, then every tile of query rows attends.
#include "innerq/prefill.cuh"

#include "launch.h"
#include "status.h"

namespace innerq {
namespace {

using prefill::Segment;

// History of one head in workspace: [B, Hkv, max_past, D], keys then values.
struct History {
    uint16_t *key, *value;
};

History history_of(const AttendParams &params) {
    const CacheParams &c = params.cache;
    uint16_t *key = static_cast<uint16_t *>(params.workspace);
    return {key, key + params.max_past * c.batch * c.kv_heads * c.head_dim};
}

__device__ Segment history_segment(const AttendParams &params, History history, int batch, int head) {
    const int64_t past = max(0, params.past_length_B[batch]), d = params.cache.head_dim;
    const int64_t first = (static_cast<int64_t>(batch) * params.cache.kv_heads + head) * params.max_past * d;
    return {history.key + first, history.value + first, d, d, static_cast<int>(min(past, params.max_past)), false};
}

__device__ Segment new_segment(const AttendParams &params, int batch, int head) {
    const int fresh = params.new_length_B != nullptr ? params.new_length_B[batch] : params.tokens;
    return {token_row(params.key, batch, head, 0),
            token_row(params.value, batch, head, 0),
            params.key.stride_token,
            params.value.stride_token,
            min(max(fresh, 0), params.tokens),
            true};
}

template <class Shape>
__global__ void __launch_bounds__(32 * prefill::kWarps)
    prefill_kernel(const __grid_constant__ AttendParams params, History history) {
    extern __shared__ __align__(128) char shared[];
    const int batch = blockIdx.z, query_head = blockIdx.y,
              head = query_head / (params.query_heads / params.cache.kv_heads);
    const int first = (gridDim.x - 1 - blockIdx.x) * Shape::kRows;  // longest rows first
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int row = first + 16 * Shape::kRowTiles * warp + lane / 4;
    const Segment fresh = new_segment(params, batch, head), past = history_segment(params, history, batch, head);
    prefill::State<Shape> state = {};
    for (auto &tile : state.largest) tile[0] = tile[1] = -INFINITY;
    if (first < fresh.tokens) {
        prefill::copy_rows<Shape, Shape::kRows>(shared, token_row(params.query, batch, query_head, 0),
                                                params.query.stride_token, first, fresh.tokens);
        const bool with_past = past.tokens > 0;
        prefill::copy_rows<Shape, Shape::kKeys>(shared + Shape::kRows * Shape::D * 2, with_past ? past.key : fresh.key,
                                                with_past ? past.key_stride : fresh.key_stride, 0,
                                                with_past ? past.tokens : fresh.tokens);
        attend::copy_commit();
        const float scale_log2 = params.scale * 1.4426950408889634f;
#pragma unroll 1
        for (int phase = with_past ? 0 : 1; phase < 2; ++phase) {
            const Segment now = phase == 0 ? past : fresh;
            const int end = phase == 0 ? past.tokens : min(first + Shape::kRows, fresh.tokens);
            prefill::attend_segment<Shape>(state, now, fresh, row, end, scale_log2, shared);
        }
    }
    prefill::store_rows<Shape>(state, token_row(params.out, batch, query_head, 0), params.out.stride_token, row,
                               fresh.tokens, params.tokens);
}

innerq_status cuda_failed(const char *what, cudaError_t error) {
    return fail(INNERQ_CUDA_ERROR, "prefill: %s: %s", what, cudaGetErrorString(error));
}

template <class Shape>
innerq_status launch_shape(const AttendParams &params, void *stream) {
    cudaError_t error =
        cudaFuncSetAttribute(prefill_kernel<Shape>, cudaFuncAttributeMaxDynamicSharedMemorySize, Shape::kSharedBytes);
    if (error != cudaSuccess) return cuda_failed("shared memory", error);
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((params.tokens + Shape::kRows - 1) / Shape::kRows, params.query_heads, params.cache.batch);
    config.blockDim.x = 32 * prefill::kWarps;
    config.dynamicSmemBytes = Shape::kSharedBytes;
    config.stream = static_cast<cudaStream_t>(stream);
    error = cudaLaunchKernelEx(&config, prefill_kernel<Shape>, params, history_of(params));
    return error == cudaSuccess ? INNERQ_OK : cuda_failed("launch", error);
}

template <bool Bf16>
innerq_status launch_dtype(const AttendParams &params, void *stream) {
    if (params.cache.head_dim == 64) return launch_shape<prefill::Shape<64, Bf16>>(params, stream);
    if (params.cache.head_dim == 128) return launch_shape<prefill::Shape<128, Bf16>>(params, stream);
    return launch_shape<prefill::Shape<256, Bf16>>(params, stream);
}

// bf16 tensor cores came with compute capability 8.0.
innerq_status check_card(bool bf16) {
    int device = 0, major = 0;
    cudaError_t error = cudaGetDevice(&device);
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    if (error != cudaSuccess) return cuda_failed("device", error);
    if (!bf16 || major >= 8) return INNERQ_OK;
    return fail(INNERQ_UNSUPPORTED, "prefill: bf16 needs compute capability 8.0 or later, this card has %d.x", major);
}

}  // namespace

size_t prefill_workspace_bytes(const CacheParams &cache, int64_t max_past) {
    return size_t{2} * sizeof(uint16_t) * cache.batch * cache.kv_heads * max_past * cache.head_dim;
}

innerq_status launch_prefill(const AttendParams &params, void *stream) {
    INNERQ_TRY(check_card(params.cache.bf16));
    if (params.max_past > 0) {
        const History history = history_of(params);
        INNERQ_TRY(launch_dequantise({params.cache, history.key, history.value, params.max_past, params.past_length_B,
                                      params.tokens, params.new_length_B},
                                     stream));
    }
    return params.cache.bf16 ? launch_dtype<true>(params, stream) : launch_dtype<false>(params, stream);
}

}  // namespace innerq
