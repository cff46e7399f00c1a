#include "checks.h"

#include <cinttypes>
#include <cmath>
#include <initializer_list>

namespace innerq {
namespace {

constexpr int64_t kMaxWindowTokens = int64_t{1} << 20;
constexpr int64_t kMaxBatch = 65535;  // a grid dimension

bool is_bits(int bits) { return bits == 2 || bits == 3 || bits == 4 || bits == 8; }

innerq_status refuse(const char *name, const char *expected, int64_t got) {
    return fail(INNERQ_INVALID_ARGUMENT, "%s: expected %s, got %" PRId64, name, expected, got);
}

template <class Struct>
innerq_status check_struct(const char *name, const Struct *given) {
    if (given == nullptr) return fail(INNERQ_INVALID_ARGUMENT, "%s: expected a pointer, got NULL", name);
    if (given->struct_bytes == sizeof(Struct)) return INNERQ_OK;
    return fail(INNERQ_INVALID_ARGUMENT,
                "%s.struct_bytes: expected %zu, got %u; set it to sizeof and compile against this library's innerq.h",
                name, sizeof(Struct), static_cast<unsigned>(given->struct_bytes));
}

innerq_status check_tokens(const char *name, const innerq_tokens &given, int heads, int tokens, int head_dim,
                           TokenParams *params) {
    INNERQ_TRY(check_pointer(name, given.data, 16));
    *params = {given.data, given.stride_batch, given.stride_head, given.stride_token};
    if (params->stride_batch == 0 && params->stride_head == 0 && params->stride_token == 0) {
        params->stride_token = head_dim;
        params->stride_head = int64_t{tokens} * head_dim;
        params->stride_batch = heads * params->stride_head;
    }
    for (const int64_t stride : {params->stride_batch, params->stride_head, params->stride_token})
        if (stride < 0 || stride % 8 != 0)
            return fail(INNERQ_INVALID_ARGUMENT, "%s: expected strides that are multiples of 8, got %" PRId64, name,
                        stride);
    return INNERQ_OK;
}

innerq_status check_pages(const innerq_cache &cache, CacheParams *params) {
    params->block_table = cache.block_table;
    if (cache.block_table == nullptr) return INNERQ_OK;
    INNERQ_TRY(check_pointer("cache.block_table", cache.block_table, sizeof(int32_t)));
    INNERQ_TRY(check_range("cache.page_blocks", cache.page_blocks, 1, kMaxTokens / kGroup));
    INNERQ_TRY(check_range("cache.pages", cache.pages, 1, kMaxTokens));
    params->page_blocks = cache.page_blocks;
    params->pages = cache.pages;
    params->table_stride = (cache.capacity_blocks + cache.page_blocks - 1) / cache.page_blocks;
    return INNERQ_OK;
}

}  // namespace

innerq_status check_range(const char *name, int64_t value, int64_t low, int64_t high) {
    if (value >= low && value <= high) return INNERQ_OK;
    return fail(INNERQ_INVALID_ARGUMENT, "%s: expected %" PRId64 " .. %" PRId64 ", got %" PRId64, name, low, high,
                value);
}

innerq_status check_pointer(const char *name, const void *pointer, size_t alignment) {
    if (pointer == nullptr) return fail(INNERQ_INVALID_ARGUMENT, "%s: expected a pointer, got NULL", name);
    if (reinterpret_cast<uintptr_t>(pointer) % alignment == 0) return INNERQ_OK;
    return fail(INNERQ_INVALID_ARGUMENT, "%s: expected %zu-byte alignment, got %p", name, alignment, pointer);
}

innerq_status check_workspace(const void *workspace, size_t given, size_t needed) {
    if (given < needed)
        return fail(INNERQ_WORKSPACE_TOO_SMALL, "workspace_bytes: expected at least %zu, got %zu", needed, given);
    return needed == 0 ? INNERQ_OK : check_pointer("workspace", workspace, 16);
}

innerq_status check_config(const innerq_config *config) {
    INNERQ_TRY(check_struct("config", config));
    const innerq_config &c = *config;
    INNERQ_TRY(check_range("config.spec_version", c.spec_version, INNERQ_SPEC_VERSION, INNERQ_SPEC_VERSION));
    if (c.head_dim != 64 && c.head_dim != 128 && c.head_dim != 256)
        return refuse("config.head_dim", "64, 128 or 256", c.head_dim);
    if (!is_bits(c.key_bits)) return refuse("config.key_bits", "2, 3, 4 or 8", c.key_bits);
    if (!is_bits(c.value_bits)) return refuse("config.value_bits", "2, 3, 4 or 8", c.value_bits);
    INNERQ_TRY(check_range("config.key_mode", c.key_mode, INNERQ_SYMMETRIC, INNERQ_HYBRID));
    INNERQ_TRY(check_range("config.value_mode", c.value_mode, INNERQ_SYMMETRIC, INNERQ_HYBRID));
    INNERQ_TRY(check_range("config.group_size", c.group_size, INNERQ_GROUP, INNERQ_GROUP));
    INNERQ_TRY(check_range("config.sink", c.sink, 0, kMaxWindowTokens));
    INNERQ_TRY(check_range("config.recent", c.recent, 0, kMaxWindowTokens));
    INNERQ_TRY(check_range("config.key_norm", c.key_norm, INNERQ_KEY_NORM_PREFILL, INNERQ_KEY_NORM_NONE));
    return check_range("config.activation", c.activation, INNERQ_FP16, INNERQ_BF16);
}

innerq_status flatten_config(const innerq_config *config, CacheParams *params) {
    INNERQ_TRY(check_config(config));
    *params = {};
    params->head_dim = config->head_dim;
    params->sink = config->sink;
    params->ring = config->recent + kGroup;
    params->window_slots = config->sink + params->ring;
    params->key_bits = config->key_bits;
    params->key_mode = config->key_mode;
    params->value_bits = config->value_bits;
    params->value_mode = config->value_mode;
    params->bf16 = config->activation == INNERQ_BF16;
    params->learns_lambda = config->key_norm == INNERQ_KEY_NORM_PREFILL;
    const RecordLayout layout = layout_of(*params);
    params->parts[kKeys] = {layout.key_codes, layout.key_scales, layout.key_zeros, config->key_bits, config->key_mode};
    params->parts[kValues] = {layout.value_codes, layout.value_scales, layout.value_zeros, config->value_bits,
                              config->value_mode};
    params->record_bytes = layout.bytes;
    return INNERQ_OK;
}

innerq_status check_heads(int64_t batch, int64_t kv_heads) {
    INNERQ_TRY(check_range("kv_heads", kv_heads, 1, INNERQ_MAX_KV_HEADS));
    return check_range("batch", batch, 1, kMaxBatch);
}

innerq_status check_query_heads(int64_t query_heads, int64_t kv_heads) {
    INNERQ_TRY(check_range("query_heads", query_heads, kv_heads, INNERQ_MAX_GROUP_HEADS * kv_heads));
    if (query_heads % kv_heads == 0) return INNERQ_OK;
    return refuse("query_heads", "a multiple of kv_heads", query_heads);
}

innerq_status check_cache_shape(const innerq_config *config, const innerq_cache *cache, CacheParams *params) {
    INNERQ_TRY(flatten_config(config, params));
    INNERQ_TRY(check_struct("cache", cache));
    INNERQ_TRY(check_heads(cache->batch, cache->kv_heads));
    INNERQ_TRY(check_range("cache.capacity_blocks", cache->capacity_blocks, 0, kMaxTokens / kGroup));
    params->batch = cache->batch;
    params->kv_heads = cache->kv_heads;
    params->capacity_blocks = cache->capacity_blocks;
    return INNERQ_OK;
}

innerq_status check_cache(const innerq_config *config, const innerq_cache *cache, CacheParams *params) {
    INNERQ_TRY(check_cache_shape(config, cache, params));
    INNERQ_TRY(check_pointer("cache.window_B2HkvWD", cache->window_B2HkvWD, 16));
    if (cache->capacity_blocks > 0) INNERQ_TRY(check_pointer("cache.blocks", cache->blocks, 16));
    if (cache->flags != nullptr) INNERQ_TRY(check_pointer("cache.flags", cache->flags, sizeof(int32_t)));
    if (params->learns_lambda) INNERQ_TRY(check_pointer("cache.key_norm_BHkvD", cache->key_norm_BHkvD, 16));
    params->window = cache->window_B2HkvWD;
    params->blocks = static_cast<uint8_t *>(cache->blocks);
    params->key_norm = static_cast<uint16_t *>(cache->key_norm_BHkvD);
    params->flags = cache->flags;
    return check_pages(*cache, params);
}

innerq_status check_append(const innerq_config *config, const innerq_cache *cache, const innerq_append_args *args,
                           AppendParams *params) {
    INNERQ_TRY(check_struct("append", args));
    INNERQ_TRY(check_range("append.tokens", args->tokens, 1, kMaxTokens));
    INNERQ_TRY(check_cache(config, cache, &params->cache));
    const CacheParams &c = params->cache;
    INNERQ_TRY(check_tokens("append.key_BHkvSD", args->key_BHkvSD, c.kv_heads, args->tokens, c.head_dim, &params->key));
    INNERQ_TRY(
        check_tokens("append.value_BHkvSD", args->value_BHkvSD, c.kv_heads, args->tokens, c.head_dim, &params->value));
    INNERQ_TRY(check_pointer("append.past_length_B", args->past_length_B, sizeof(int32_t)));
    params->tokens = args->tokens;
    params->past_length_B = args->past_length_B;
    params->new_length_B = args->new_length_B;
    const int64_t blocks = blocks_of(c, args->tokens);
    if (args->new_length_B == nullptr && blocks > c.capacity_blocks)
        return fail(INNERQ_CAPACITY_EXCEEDED,
                    "append.tokens: %d tokens need %" PRId64 " blocks, the cache has room for %d", args->tokens, blocks,
                    c.capacity_blocks);
    return INNERQ_OK;
}

innerq_status check_attend(const innerq_config *config, const innerq_cache *cache, const innerq_attend_args *args,
                           int max_tokens, AttendParams *params) {
    INNERQ_TRY(check_struct("attend", args));
    INNERQ_TRY(check_range("attend.tokens", args->tokens, 1, max_tokens));
    INNERQ_TRY(check_cache(config, cache, &params->cache));
    const CacheParams &c = params->cache;
    INNERQ_TRY(check_query_heads(args->query_heads, c.kv_heads));
    const int s = args->tokens, d = c.head_dim;
    INNERQ_TRY(check_tokens("attend.query_BHqSD", args->query_BHqSD, args->query_heads, s, d, &params->query));
    INNERQ_TRY(check_tokens("attend.key_BHkvSD", args->key_BHkvSD, c.kv_heads, s, d, &params->key));
    INNERQ_TRY(check_tokens("attend.value_BHkvSD", args->value_BHkvSD, c.kv_heads, s, d, &params->value));
    INNERQ_TRY(check_tokens("attend.out_BHqSD", args->out_BHqSD, args->query_heads, s, d, &params->out));
    INNERQ_TRY(check_pointer("attend.past_length_B", args->past_length_B, sizeof(int32_t)));
    INNERQ_TRY(check_range("attend.max_past", args->max_past, 0, kMaxTokens));
    if (!std::isfinite(args->scale)) return fail(INNERQ_INVALID_ARGUMENT, "attend.scale: expected a finite number");
    params->query_heads = args->query_heads;
    params->tokens = s;
    params->past_length_B = args->past_length_B;
    params->new_length_B = args->new_length_B;
    params->scale = args->scale != 0.0f ? args->scale : 1.0f / std::sqrt(static_cast<float>(d));
    params->workspace_is_clean = args->workspace_is_clean != 0;
    params->max_past = args->max_past;
    return INNERQ_OK;
}

innerq_status check_dequantise(const innerq_config *config, const innerq_cache *cache,
                               const innerq_dequantise_args *args, DequantiseParams *params) {
    INNERQ_TRY(check_struct("dequantise", args));
    INNERQ_TRY(check_cache(config, cache, &params->cache));
    INNERQ_TRY(check_range("dequantise.tokens", args->tokens, 1, kMaxTokens));
    INNERQ_TRY(check_pointer("dequantise.key_BHkvTD", args->key_BHkvTD, 16));
    INNERQ_TRY(check_pointer("dequantise.value_BHkvTD", args->value_BHkvTD, 16));
    INNERQ_TRY(check_pointer("dequantise.length_B", args->length_B, sizeof(int32_t)));
    params->key = static_cast<uint16_t *>(args->key_BHkvTD);
    params->value = static_cast<uint16_t *>(args->value_BHkvTD);
    params->tokens = args->tokens;
    params->length_B = args->length_B;
    params->fresh = 0;
    params->fresh_B = nullptr;
    return INNERQ_OK;
}

innerq_status check_logical(const innerq_config *config, const innerq_cache *cache, const innerq_logical *logical,
                            LogicalParams *params) {
    INNERQ_TRY(check_struct("logical", logical));
    INNERQ_TRY(check_cache(config, cache, &params->cache));
    INNERQ_TRY(check_pointer("logical.key_codes_BHkvNB32D", logical->key_codes_BHkvNB32D, 4));
    INNERQ_TRY(check_pointer("logical.value_codes_BHkvNB32D", logical->value_codes_BHkvNB32D, 4));
    INNERQ_TRY(check_pointer("logical.key_scales_BHkvNB32Dg", logical->key_scales_BHkvNB32Dg, 2));
    INNERQ_TRY(check_pointer("logical.value_scales_BHkvNBD", logical->value_scales_BHkvNBD, 2));
    if (has_zeros(params->cache.key_mode))
        INNERQ_TRY(check_pointer("logical.key_zeros_BHkvNB32Dg", logical->key_zeros_BHkvNB32Dg, 2));
    if (has_zeros(params->cache.value_mode))
        INNERQ_TRY(check_pointer("logical.value_zeros_BHkvNBD", logical->value_zeros_BHkvNBD, 2));
    params->key_codes = logical->key_codes_BHkvNB32D;
    params->value_codes = logical->value_codes_BHkvNB32D;
    params->key_scales = static_cast<uint16_t *>(logical->key_scales_BHkvNB32Dg);
    params->key_zeros = static_cast<uint16_t *>(logical->key_zeros_BHkvNB32Dg);
    params->value_scales = static_cast<uint16_t *>(logical->value_scales_BHkvNBD);
    params->value_zeros = static_cast<uint16_t *>(logical->value_zeros_BHkvNBD);
    params->length_B = logical->length_B;
    return INNERQ_OK;
}

}  // namespace innerq
