// Where things lie in a cache: records, window rows, new tokens. Offsets are 64-bit throughout.
#pragma once

#include <type_traits>

#include "innerq/params.cuh"
#include "innerq/portable.cuh"

namespace innerq {

enum Part { kKeys = 0, kValues = 1 };

INNERQ_HD inline RecordLayout layout_of(const CacheParams &cache) {
    return record_layout(cache.head_dim, cache.key_bits, cache.key_mode >= 2, cache.value_bits, cache.value_mode >= 2);
}

// q(n) of SPEC section 2.
INNERQ_HD inline int64_t blocks_of(const CacheParams &cache, int64_t tokens) {
    const int64_t beyond = tokens - cache.sink - (cache.ring - kGroup);
    return beyond < 0 ? 0 : beyond / kGroup;
}

// q(n), but no more than the cache has room for.
INNERQ_HD inline int64_t blocks_with_room(const CacheParams &cache, int64_t tokens) {
    const int64_t blocks = blocks_of(cache, tokens);
    return blocks < cache.capacity_blocks ? blocks : cache.capacity_blocks;
}

// Window slot of a token; tokens count below 2^31, so 32-bit division will do.
INNERQ_HD inline int slot_of(const CacheParams &cache, int64_t token) {
    if (token < cache.sink) return static_cast<int>(token);
    return cache.sink + static_cast<int>(static_cast<uint32_t>(token - cache.sink) % static_cast<uint32_t>(cache.ring));
}

// Record of block j, or NULL where the sequence has no room or no page for it.
INNERQ_HD inline uint8_t *record_of(const CacheParams &cache, int batch, int head, int64_t block) {
    if (block < 0 || block >= cache.capacity_blocks) return nullptr;
    int64_t row = (static_cast<int64_t>(batch) * cache.kv_heads + head) * cache.capacity_blocks + block;
    if (cache.block_table != nullptr) {
        const uint32_t page_blocks = cache.page_blocks, index = static_cast<uint32_t>(block) / page_blocks;
        const int page = cache.block_table[static_cast<int64_t>(batch) * cache.table_stride + index];
        if (page < 0 || page >= cache.pages) return nullptr;
        row = (static_cast<int64_t>(page) * cache.kv_heads + head) * page_blocks + (block - index * page_blocks);
    }
    return cache.blocks + row * cache.record_bytes;
}

// The D numbers of one window slot.
INNERQ_HD inline uint16_t *window_row(const CacheParams &cache, int batch, int part, int head, int64_t slot) {
    const int64_t sequence = static_cast<int64_t>(batch) * 2 + part;
    const int64_t row = (sequence * cache.kv_heads + head) * cache.window_slots + slot;
    return static_cast<uint16_t *>(cache.window) + row * cache.head_dim;
}

// The D lambdas of one head: fp16 bits.
INNERQ_HD inline uint16_t *lambda_row(const CacheParams &cache, int batch, int head) {
    return cache.key_norm + (static_cast<int64_t>(batch) * cache.kv_heads + head) * cache.head_dim;
}

// The D numbers of one activation row.
INNERQ_HD inline uint16_t *token_row(const TokenParams &tokens, int batch, int head, int64_t token) {
    return static_cast<uint16_t *>(tokens.data) + batch * tokens.stride_batch + head * tokens.stride_head +
           token * tokens.stride_token;
}

// Neighbouring 16-bit numbers, moved as 16 or as 8 bytes.
struct alignas(16) Chunk {
    uint32_t words[4];
};
struct alignas(8) HalfChunk {
    uint32_t words[2];
};

#ifdef __CUDA_ARCH__
template <class Words>
using VectorOf =
    std::conditional_t<sizeof(Words) == 16, uint4, std::conditional_t<sizeof(Words) == 8, uint2, uint32_t>>;
#endif

// Moves a word, a HalfChunk or a Chunk at once; what is pointed at is aligned to its size.
template <class Words>
INNERQ_HD inline Words load_as(const void *from) {
    Words words;
#ifdef __CUDA_ARCH__
    reinterpret_cast<VectorOf<Words> &>(words) = *static_cast<const VectorOf<Words> *>(from);
#else
    memcpy(&words, from, sizeof words);
#endif
    return words;
}

template <class Words>
INNERQ_HD inline void store_as(void *to, const Words &words) {
#ifdef __CUDA_ARCH__
    *static_cast<VectorOf<Words> *>(to) = reinterpret_cast<const VectorOf<Words> &>(words);
#else
    memcpy(to, &words, sizeof words);
#endif
}

INNERQ_HD inline uint16_t number_of(const Chunk &chunk, int i) {
    return static_cast<uint16_t>(chunk.words[i / 2] >> (16 * (i % 2)));
}

INNERQ_HD inline Chunk load_chunk(const uint16_t *from) { return load_as<Chunk>(from); }
INNERQ_HD inline void store_chunk(uint16_t *to, const Chunk &chunk) { store_as(to, chunk); }

}  // namespace innerq
