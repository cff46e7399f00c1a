// InnerQAttention: the decode kernel for up to INNERQ_MAX_ATTEND_TOKENS new tokens, the prefill path for more.
#include <algorithm>

#include "op_tables.h"
#include "operation.h"

namespace innerq::trt {
namespace {

enum Input { kQuery, kKey, kValue, kPastLength, kNewLength, kPresentWindow, kPresentKeyNorm, kPresentBlocks };

bool decodes(const Call &call) { return call.size[kS] <= INNERQ_MAX_ATTEND_TOKENS; }

// Tokens a sequence can hold: the host knows no better bound of past_length.
int32_t capacity_tokens(const Call &call) {
    const int64_t tokens = int64_t{call.size[kWindow]} + int64_t{INNERQ_GROUP} * call.size[kNB];
    return static_cast<int32_t>(std::min<int64_t>(tokens, INT32_MAX));
}

innerq_status workspace_bytes(const Call &call, size_t *bytes) {
    const innerq_cache cache = cache_of(call, nullptr, nullptr, nullptr);
    const int32_t tokens = std::min(call.size[kS], INNERQ_MAX_ATTEND_TOKENS);
    size_t prefill = 0;
    innerq_status status = innerq_attend_workspace_bytes(&call.config, &cache, call.size[kHq], tokens, bytes);
    if (status == INNERQ_OK && !decodes(call))
        status = innerq_prefill_workspace_bytes(&call.config, &cache, capacity_tokens(call), &prefill);
    *bytes = std::max(*bytes, prefill);
    return status;
}

innerq_status launch(const Call &call, const Buffers &buffers) {
    const innerq_cache cache =
        cache_of(call, buffers.inputs[kPresentWindow], buffers.inputs[kPresentKeyNorm], buffers.inputs[kPresentBlocks]);
    innerq_attend_args args{};
    args.struct_bytes = sizeof args;
    args.query_heads = call.size[kHq];
    args.tokens = call.size[kS];
    args.query_BHqSD.data = const_cast<void *>(buffers.inputs[kQuery]);
    args.key_BHkvSD.data = const_cast<void *>(buffers.inputs[kKey]);
    args.value_BHkvSD.data = const_cast<void *>(buffers.inputs[kValue]);
    args.out_BHqSD.data = buffers.outputs[0];
    args.past_length_B = static_cast<const int32_t *>(buffers.inputs[kPastLength]);
    args.new_length_B = static_cast<const int32_t *>(buffers.inputs[kNewLength]);
    args.scale = call.scale;
    args.max_past = capacity_tokens(call);
    const auto attend = decodes(call) ? innerq_attend : innerq_prefill;
    return attend(&call.config, &cache, &args, buffers.workspace, buffers.workspace_bytes, buffers.stream);
}

}  // namespace

const Operation kAttentionOperation = {kAttention, workspace_bytes, launch, false};

}  // namespace innerq::trt
