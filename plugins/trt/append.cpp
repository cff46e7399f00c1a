// InnerQAppend: the cache tensors are changed in place, so outputs are read and written and past_* only named.
#include "op_tables.h"
#include "operation.h"

namespace innerq::trt {
namespace {

enum Input { kKey, kValue, kPastLength, kNewLength };
enum Output { kPresentWindow, kPresentKeyNorm, kPresentBlocks };

innerq_status workspace_bytes(const Call &call, size_t *bytes) {
    const innerq_cache cache = cache_of(call, nullptr, nullptr, nullptr);
    return innerq_append_workspace_bytes(&call.config, &cache, call.size[kS], bytes);
}

innerq_status launch(const Call &call, const Buffers &buffers) {
    innerq_cache cache = cache_of(call, buffers.outputs[kPresentWindow], buffers.outputs[kPresentKeyNorm],
                                  buffers.outputs[kPresentBlocks]);
    cache.flags = buffers.flags;
    innerq_append_args args{};
    args.struct_bytes = sizeof args;
    args.tokens = call.size[kS];
    args.key_BHkvSD.data = const_cast<void *>(buffers.inputs[kKey]);
    args.value_BHkvSD.data = const_cast<void *>(buffers.inputs[kValue]);
    args.past_length_B = static_cast<const int32_t *>(buffers.inputs[kPastLength]);
    args.new_length_B = static_cast<const int32_t *>(buffers.inputs[kNewLength]);
    return innerq_append(&call.config, &cache, &args, buffers.workspace, buffers.workspace_bytes, buffers.stream);
}

}  // namespace

const Operation kAppendOperation = {kAppend, workspace_bytes, launch, true};

}  // namespace innerq::trt
