// What tells the two ops apart: their table entry, and the calls of the C ABI they stand for.
#pragma once

#include "shapes.h"

namespace innerq::trt {

// Memory of one call. inputs and outputs in the order of the op table; `flags` may be NULL.
struct Buffers {
    const void *const *inputs;
    void *const *outputs;
    void *workspace;
    size_t workspace_bytes;
    int32_t *flags;
    void *stream;
};

struct Operation {
    const OpSpec &spec;
    // Bytes that suffice for a call of these sizes and for every smaller one.
    innerq_status (*workspace_bytes)(const Call &call, size_t *bytes);
    innerq_status (*launch)(const Call &call, const Buffers &buffers);
    bool reports_flags;  // through Buffers::flags
};

extern const Operation kAppendOperation;
extern const Operation kAttentionOperation;

// The cache of a call whose window, key norm and blocks lie at these addresses.
innerq_cache cache_of(const Call &call, const void *window, const void *key_norm, const void *blocks) noexcept;

}  // namespace innerq::trt
