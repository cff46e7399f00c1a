// What innerq.h's entry points call once arguments are checked. append.cu, dequantise.cu and logical.cu are compiled by
// nvcc for the GPU and by the C++ compiler for the host build; prefill and attend have a source for each.
#pragma once

#include <cstddef>

#include "innerq.h"
#include "innerq/dequantise.cuh"
#include "innerq/logical.cuh"
#include "innerq/params.cuh"

namespace innerq {

// Most tokens of an append that is a single launch: at most one block of a sequence is due then.
constexpr int kFusedAppendTokens = 32;

size_t append_workspace_bytes(const CacheParams &cache, int tokens);
innerq_status launch_append(const AppendParams &params, void *workspace, void *stream);

innerq_status launch_dequantise(const DequantiseParams &params, void *stream);
innerq_status launch_to_logical(const LogicalParams &params, void *stream);
innerq_status launch_from_logical(const LogicalParams &params, void *stream);

size_t prefill_workspace_bytes(const CacheParams &cache, int64_t max_past);
innerq_status launch_prefill(const AttendParams &params, void *stream);

}  // namespace innerq
