// What kernels are given, by value: the C structs of innerq.h after checking. One struct per operation.
// Plain C++17 on raw pointers, shared by host and device builds.
#pragma once

#include <cstdint>

namespace innerq {

// Keys or values within a record: byte offsets, zeros -1 where the mode has none.
struct PartPlan {
    int codes, scales, zeros, bits, mode;
};

// One layer's cache. Shapes and units as in innerq.h.
struct CacheParams {
    int batch, kv_heads, head_dim;
    int sink, ring, window_slots;  // ring = recent + 32, window_slots = sink + ring
    int capacity_blocks;           // NB
    int key_bits, key_mode, value_bits, value_mode;
    PartPlan parts[2];  // keys, values
    int record_bytes;
    bool bf16;                   // activation dtype
    bool learns_lambda;          // key_norm == prefill; else lambda is 1 and key_norm is NULL
    void *window;                // [B, 2, Hkv, W, D]
    uint8_t *blocks;             // [B, Hkv, NB, record] or [pages, Hkv, page_blocks, record]
    uint16_t *key_norm;          // fp16 bits [B, Hkv, D]
    const int32_t *block_table;  // NULL, or [B, table_stride]
    int page_blocks, pages, table_stride;
    int32_t *flags;  // may be NULL
};

// Activations [B, H, S, D]; strides in elements, never implicit here.
struct TokenParams {
    void *data;
    int64_t stride_batch, stride_head, stride_token;
};

struct AppendParams {
    CacheParams cache;
    TokenParams key, value;
    int tokens;  // S
    const int32_t *past_length_B;
    const int32_t *new_length_B;  // may be NULL
};

struct AttendParams {
    CacheParams cache;
    TokenParams query, key, value, out;
    int query_heads, tokens;  // Hq, S
    const int32_t *past_length_B;
    const int32_t *new_length_B;  // may be NULL: S for all
    float scale;                  // never 0
    bool workspace_is_clean;
    void *workspace;   // attend_workspace_bytes() bytes, 16-byte aligned
    int64_t max_past;  // prefill only
};

}  // namespace innerq
