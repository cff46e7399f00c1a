// The C structs of innerq.h, checked and flattened into what kernels are given. Every function returns INNERQ_OK or
// fails with a message that names the field, what was expected and what was found.
#pragma once

#include <cstddef>

#include "innerq.h"
#include "innerq/dequantise.cuh"
#include "innerq/logical.cuh"
#include "innerq/params.cuh"
#include "status.h"

namespace innerq {

constexpr int64_t kMaxTokens = int64_t{1} << 30;

innerq_status check_config(const innerq_config *config);

// `params` with the fields that follow from the configuration alone, the others zero.
innerq_status flatten_config(const innerq_config *config, CacheParams *params);
innerq_status check_heads(int64_t batch, int64_t kv_heads);
innerq_status check_query_heads(int64_t query_heads, int64_t kv_heads);

// Sizes without pointers (for workspace questions), or all of it.
innerq_status check_cache_shape(const innerq_config *config, const innerq_cache *cache, CacheParams *params);
innerq_status check_cache(const innerq_config *config, const innerq_cache *cache, CacheParams *params);
innerq_status check_append(const innerq_config *config, const innerq_cache *cache, const innerq_append_args *args,
                           AppendParams *params);

// `max_tokens`: limit of args->tokens for this entry point.
innerq_status check_attend(const innerq_config *config, const innerq_cache *cache, const innerq_attend_args *args,
                           int max_tokens, AttendParams *params);
innerq_status check_dequantise(const innerq_config *config, const innerq_cache *cache,
                               const innerq_dequantise_args *args, DequantiseParams *params);
innerq_status check_logical(const innerq_config *config, const innerq_cache *cache, const innerq_logical *logical,
                            LogicalParams *params);

// `name` of an argument: not NULL and a multiple of `alignment`.
innerq_status check_pointer(const char *name, const void *pointer, size_t alignment);
innerq_status check_workspace(const void *workspace, size_t given, size_t needed);

// `name` within low .. high.
innerq_status check_range(const char *name, int64_t value, int64_t low, int64_t high);

}  // namespace innerq
