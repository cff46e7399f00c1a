// Decode attention behind innerq_attend: implemented by attend*.cu on the GPU and attend_host.cpp in the host build.
#pragma once

#include <cstddef>

#include "innerq.h"
#include "innerq/params.cuh"

namespace innerq {

// Workspace for S = `tokens` new tokens and `query_heads` heads; never depends on lengths.
size_t attend_workspace_bytes(const CacheParams &cache, int query_heads, int tokens);

// Launches into `stream` (cudaStream_t). All of `params` has been checked: sizes, NULL pointers, alignment, workspace.
// Not checked, because only the device knows: lengths (clamp q(n) to capacity_blocks, new length to 0..S, treat a
// negative length as 0) and page numbers (a block whose page is outside 0..pages-1 is not seen).
// Returns INNERQ_CUDA_ERROR or INNERQ_UNSUPPORTED after calling fail() of status.h.
innerq_status launch_attend(const AttendParams &params, void *stream);

}  // namespace innerq
