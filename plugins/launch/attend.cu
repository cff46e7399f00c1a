// Decode attention: workspace, and the choice of a kernel.
#include <cuda_runtime.h>

#include "attend.h"
#include "attend_kernels.h"
#include "innerq/attend_plan.cuh"

namespace innerq {
namespace {

static_assert(INNERQ_MAX_KV_HEADS * (INNERQ_MAX_GROUP_HEADS * INNERQ_MAX_ATTEND_TOKENS / attend::kRows) <=
                  attend::kMostLines,
              "a segment's number would not be found (small_quotient)");

int row_chunks_of(const CacheParams &cache, int query_heads, int tokens) {
    return (query_heads / cache.kv_heads * tokens + attend::kRows - 1) / attend::kRows;
}

size_t arrivals_bytes(const CacheParams &cache, int row_chunks) {
    const size_t bytes = size_t{sizeof(unsigned)} * cache.batch * cache.kv_heads * row_chunks;
    return (bytes + 255) / 256 * 256;
}

innerq_status read_card(Card *card) {
    int device = 0;
    cudaError_t error = cudaGetDevice(&device);
    if (error == cudaSuccess)
        error = cudaDeviceGetAttribute(&card->multiprocessors, cudaDevAttrMultiProcessorCount, device);
    if (error == cudaSuccess)
        error = cudaDeviceGetAttribute(&card->shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    if (error == cudaSuccess) return INNERQ_OK;
    return fail(INNERQ_CUDA_ERROR, "attend: no usable CUDA device: %s", cudaGetErrorString(error));
}

// The kernel counts units of work in an int, and rows of a page pool in an unsigned.
innerq_status check_units(const AttendParams &params, int row_chunks) {
    const CacheParams &cache = params.cache;
    const int64_t chunks = (int64_t{cache.window_slots} + params.tokens) / attend::kWindowTokens + 1;
    const int64_t sequence = attend::kStartUnits + chunks * attend::kWindowUnits + cache.capacity_blocks;
    const int64_t units = sequence * cache.batch * cache.kv_heads * row_chunks;
    if (units > INT32_MAX)
        return fail(INNERQ_UNSUPPORTED,
                    "attend: room for %lld blocks of work in one call: expected at most %d; split the batch",
                    static_cast<long long>(units), INT32_MAX);
    const int64_t rows = int64_t{cache.pages} * cache.kv_heads * cache.page_blocks;
    if (cache.block_table == nullptr || rows <= INT32_MAX) return INNERQ_OK;
    return fail(INNERQ_UNSUPPORTED,
                "attend: room for %lld records in the pages: expected at most %d; use several pools",
                static_cast<long long>(rows), INT32_MAX);
}

}  // namespace

size_t attend_workspace_bytes(const CacheParams &cache, int query_heads, int tokens) {
    const size_t partial = sizeof(float) * attend::kRows * (cache.head_dim + 2);
    return arrivals_bytes(cache, row_chunks_of(cache, query_heads, tokens)) + 2 * attend::kMaxParts * partial;
}

innerq_status launch_attend(const AttendParams &params, void *stream) {
    using attend::Divisor;
    const CacheParams &cache = params.cache;
    AttendChoice choice = {{}, {}, stream};
    attend::Task &task = choice.task;
    task.params = params;
    task.group = params.query_heads / cache.kv_heads;
    task.row_chunks = row_chunks_of(cache, params.query_heads, params.tokens);
    INNERQ_TRY(check_units(params, task.row_chunks));
    INNERQ_TRY(read_card(&choice.card));
    task.lines = Divisor(cache.kv_heads * task.row_chunks);
    task.by_chunks = Divisor(task.row_chunks);
    task.by_group = Divisor(task.group);
    task.by_page = Divisor(cache.block_table == nullptr ? 1 : cache.page_blocks);
    task.by_ring = Divisor(cache.ring);
    const size_t counters = arrivals_bytes(cache, task.row_chunks);
    task.arrivals = static_cast<unsigned *>(params.workspace);
    task.partials = reinterpret_cast<float *>(static_cast<char *>(params.workspace) + counters);
    if (!params.workspace_is_clean) {
        const cudaError_t error = cudaMemsetAsync(params.workspace, 0, counters, static_cast<cudaStream_t>(stream));
        if (error != cudaSuccess)
            return fail(INNERQ_CUDA_ERROR, "attend: clearing the workspace: %s", cudaGetErrorString(error));
    }
    switch (cache.head_dim) {
        case 64:
            return launch_attend_for<64>(choice);
        case 128:
            return launch_attend_for<128>(choice);
        case 256:
            return launch_attend_for<256>(choice);
        default:
            return fail(INNERQ_UNSUPPORTED, "attend: head_dim: expected 64, 128 or 256, got %d", cache.head_dim);
    }
}

}  // namespace innerq
