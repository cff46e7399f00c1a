// Facts that follow from a configuration or from the build: no device work.
#include "build_stamp.h"
#include "checks.h"
#include "innerq.h"

using namespace innerq;

extern "C" {

innerq_status innerq_validate(const innerq_config *config) { return check_config(config); }

innerq_status innerq_record_bytes(const innerq_config *config, size_t *bytes) {
    CacheParams params;
    INNERQ_TRY(flatten_config(config, &params));
    INNERQ_TRY(check_pointer("bytes", bytes, alignof(size_t)));
    *bytes = params.record_bytes;
    return INNERQ_OK;
}

innerq_status innerq_window_bytes(const innerq_config *config, int32_t batch, int32_t kv_heads, size_t *bytes) {
    CacheParams params;
    INNERQ_TRY(flatten_config(config, &params));
    INNERQ_TRY(check_heads(batch, kv_heads));
    INNERQ_TRY(check_pointer("bytes", bytes, alignof(size_t)));
    *bytes = size_t{2} * batch * kv_heads * params.window_slots * params.head_dim * sizeof(uint16_t);
    return INNERQ_OK;
}

innerq_status innerq_blocks_bytes(const innerq_config *config, int32_t batch, int32_t kv_heads, int32_t capacity_blocks,
                                  size_t *bytes) {
    CacheParams params;
    INNERQ_TRY(flatten_config(config, &params));
    INNERQ_TRY(check_heads(batch, kv_heads));
    INNERQ_TRY(check_range("capacity_blocks", capacity_blocks, 0, kMaxTokens / kGroup));
    INNERQ_TRY(check_pointer("bytes", bytes, alignof(size_t)));
    *bytes = size_t{1} * batch * kv_heads * capacity_blocks * params.record_bytes;
    return INNERQ_OK;
}

innerq_status innerq_blocks_of(const innerq_config *config, int64_t tokens, int64_t *blocks) {
    CacheParams params;
    INNERQ_TRY(flatten_config(config, &params));
    INNERQ_TRY(check_range("tokens", tokens, 0, kMaxTokens));
    INNERQ_TRY(check_pointer("blocks", blocks, alignof(int64_t)));
    *blocks = blocks_of(params, tokens);
    return INNERQ_OK;
}

innerq_status innerq_build_info(innerq_build *build) {
    INNERQ_TRY(check_pointer("build", build, alignof(innerq_build)));
    if (build->struct_bytes != sizeof(innerq_build))
        return fail(INNERQ_INVALID_ARGUMENT, "build.struct_bytes: expected %zu, got %u", sizeof(innerq_build),
                    static_cast<unsigned>(build->struct_bytes));
    build->spec_version = INNERQ_SPEC_VERSION;
    build->cuda_version = INNERQ_CUDA_VERSION;
    build->git_hash = INNERQ_GIT_HASH;
    build->architectures = INNERQ_ARCHITECTURES;
    return INNERQ_OK;
}
}
