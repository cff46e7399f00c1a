// The entry points that do work: check, then launch.
#include "attend.h"
#include "checks.h"
#include "innerq.h"
#include "launch.h"

using namespace innerq;

extern "C" {

innerq_status innerq_append_workspace_bytes(const innerq_config *config, const innerq_cache *cache, int32_t tokens,
                                            size_t *bytes) {
    CacheParams params;
    INNERQ_TRY(check_cache_shape(config, cache, &params));
    INNERQ_TRY(check_range("tokens", tokens, 1, kMaxTokens));
    INNERQ_TRY(check_pointer("bytes", bytes, alignof(size_t)));
    *bytes = append_workspace_bytes(params, tokens);
    return INNERQ_OK;
}

innerq_status innerq_append(const innerq_config *config, const innerq_cache *cache, const innerq_append_args *args,
                            void *workspace, size_t workspace_bytes, void *stream) {
    AppendParams params;
    INNERQ_TRY(check_append(config, cache, args, &params));
    INNERQ_TRY(check_workspace(workspace, workspace_bytes, append_workspace_bytes(params.cache, params.tokens)));
    return launch_append(params, workspace, stream);
}

innerq_status innerq_attend_workspace_bytes(const innerq_config *config, const innerq_cache *cache, int32_t query_heads,
                                            int32_t tokens, size_t *bytes) {
    CacheParams params;
    INNERQ_TRY(check_cache_shape(config, cache, &params));
    INNERQ_TRY(check_query_heads(query_heads, params.kv_heads));
    INNERQ_TRY(check_range("tokens", tokens, 1, INNERQ_MAX_ATTEND_TOKENS));
    INNERQ_TRY(check_pointer("bytes", bytes, alignof(size_t)));
    *bytes = attend_workspace_bytes(params, query_heads, tokens);
    return INNERQ_OK;
}

innerq_status innerq_attend(const innerq_config *config, const innerq_cache *cache, const innerq_attend_args *args,
                            void *workspace, size_t workspace_bytes, void *stream) {
    AttendParams params;
    INNERQ_TRY(check_attend(config, cache, args, INNERQ_MAX_ATTEND_TOKENS, &params));
    const size_t needed = attend_workspace_bytes(params.cache, params.query_heads, params.tokens);
    INNERQ_TRY(check_workspace(workspace, workspace_bytes, needed));
    params.workspace = workspace;
    return launch_attend(params, stream);
}

innerq_status innerq_prefill_workspace_bytes(const innerq_config *config, const innerq_cache *cache, int32_t max_past,
                                             size_t *bytes) {
    CacheParams params;
    INNERQ_TRY(check_cache_shape(config, cache, &params));
    INNERQ_TRY(check_range("max_past", max_past, 0, kMaxTokens));
    INNERQ_TRY(check_pointer("bytes", bytes, alignof(size_t)));
    *bytes = prefill_workspace_bytes(params, max_past);
    return INNERQ_OK;
}

innerq_status innerq_prefill(const innerq_config *config, const innerq_cache *cache, const innerq_attend_args *args,
                             void *workspace, size_t workspace_bytes, void *stream) {
    AttendParams params;
    INNERQ_TRY(check_attend(config, cache, args, kMaxTokens, &params));
    INNERQ_TRY(check_workspace(workspace, workspace_bytes, prefill_workspace_bytes(params.cache, params.max_past)));
    params.workspace = workspace;
    return launch_prefill(params, stream);
}

innerq_status innerq_dequantise(const innerq_config *config, const innerq_cache *cache,
                                const innerq_dequantise_args *args, void *stream) {
    DequantiseParams params;
    INNERQ_TRY(check_dequantise(config, cache, args, &params));
    return launch_dequantise(params, stream);
}

innerq_status innerq_to_logical(const innerq_config *config, const innerq_cache *cache, const innerq_logical *logical,
                                void *stream) {
    LogicalParams params;
    INNERQ_TRY(check_logical(config, cache, logical, &params));
    return launch_to_logical(params, stream);
}

innerq_status innerq_from_logical(const innerq_config *config, const innerq_cache *cache, const innerq_logical *logical,
                                  void *stream) {
    LogicalParams params;
    INNERQ_TRY(check_logical(config, cache, logical, &params));
    return launch_from_logical(params, stream);
}
}
