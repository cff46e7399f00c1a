// From a configuration to a kernel: one specialised kernel for each preset, and one that serves every other combination.
#pragma once

#include "attend_kernels.h"
#include "innerq/attend.cuh"
#include "launch_early.cuh"

namespace innerq {
namespace attend {

inline int zero_kind(int mode) {
    return mode == INNERQ_HYBRID ? kHybridZero : mode == INNERQ_ASYMMETRIC ? kZero : kNoZero;
}

template <int kBits, int kKind>
bool serves(const FixedCodes<kBits, kKind> &, int bits, int mode) {
    return bits == kBits && zero_kind(mode) == kKind;
}

// Warps of a CTA: as many as shared memory holds, a multiple of four where it can be; 0 if not even one.
inline int choose_warps(const SharedPlan &plan, int shared_bytes) {
    int warps = kMaxWarps;
    while (warps > 0 && plan.bytes(warps) > shared_bytes) warps -= warps > 4 ? 4 : 1;
    return warps;
}

inline innerq_status cuda_failure(const char *what, cudaError_t error) {
    return fail(INNERQ_CUDA_ERROR, "attend: %s: %s", what, cudaGetErrorString(error));
}

template <int kHeadDim, int kShare, class KeyCodes, class ValueCodes>
innerq_status launch_shared(const AttendChoice &choice, const KeyCodes &keys, const ValueCodes &values) {
    const auto kernel = attend_kernel<kHeadDim, kShare, KeyCodes, ValueCodes>;
    const int record_bytes = choice.task.params.cache.record_bytes;
    constexpr int kTiles = kHeadDim / 32;
    const SharedPlan plan{Slot8<kTiles>::kBytes, stage_bytes<kTiles, KeyCodes, ValueCodes>(record_bytes)};
    const int warps = choose_warps(plan, choice.card.shared_bytes), shared_bytes = plan.bytes(warps);
    if (warps == 0)
        return fail(INNERQ_UNSUPPORTED, "attend: records of %d bytes need %d bytes of shared memory, this card has %d",
                    record_bytes, plan.bytes(1), choice.card.shared_bytes);
    cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
    if (error != cudaSuccess) return cuda_failure("shared memory", error);
    cudaLaunchConfig_t config = {};
    config.gridDim = choice.card.multiprocessors < kMaxParts ? choice.card.multiprocessors : kMaxParts;
    config.blockDim = 32 * warps;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = static_cast<cudaStream_t>(choice.stream);
    Launch<KeyCodes, ValueCodes> launch = {choice.task, keys, values};
    launch.task.by_warps = Divisor(warps), launch.task.by_grid = Divisor(config.gridDim.x);
    error = launch_early(config, kernel, launch);
    return error == cudaSuccess ? INNERQ_OK : cuda_failure("launch", error);
}

// Where a head's query rows fill half the columns of a product, two records share it.
template <int kHeadDim, class KeyCodes, class ValueCodes>
innerq_status launch(const AttendChoice &choice, const KeyCodes &keys, const ValueCodes &values) {
    if constexpr (kStepRecords<kHeadDim / 32, KeyCodes, ValueCodes> == 2) {
        if (choice.task.group * choice.task.params.tokens <= kRows / 2)
            return launch_shared<kHeadDim, 2>(choice, keys, values);
    }
    return launch_shared<kHeadDim, 1>(choice, keys, values);
}

template <int kHeadDim, class KeyCodes, class ValueCodes>
bool launch_if(const AttendChoice &choice, innerq_status *status) {
    const CacheParams &cache = choice.task.params.cache;
    if (!serves(KeyCodes{}, cache.key_bits, cache.key_mode)) return false;
    if (!serves(ValueCodes{}, cache.value_bits, cache.value_mode)) return false;
    *status = launch<kHeadDim>(choice, KeyCodes{}, ValueCodes{});
    return true;
}

}  // namespace attend

template <int kHeadDim>
innerq_status launch_attend_for(const AttendChoice &choice) {
    using namespace attend;
    innerq_status status = INNERQ_OK;
    if (launch_if<kHeadDim, FixedCodes<3, kNoZero>, FixedCodes<3, kNoZero>>(choice, &status)) return status;
    if (launch_if<kHeadDim, FixedCodes<3, kNoZero>, FixedCodes<2, kNoZero>>(choice, &status)) return status;
    if (launch_if<kHeadDim, FixedCodes<4, kNoZero>, FixedCodes<4, kNoZero>>(choice, &status)) return status;
    if (launch_if<kHeadDim, FixedCodes<3, kNoZero>, FixedCodes<2, kHybridZero>>(choice, &status)) return status;
    const CacheParams &cache = choice.task.params.cache;
    return launch<kHeadDim>(choice, AnyCodes{cache.key_bits, zero_kind(cache.key_mode)},
                            AnyCodes{cache.value_bits, zero_kind(cache.value_mode)});
}

}  // namespace innerq
