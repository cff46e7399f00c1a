// Faults between the plugin and the kernels. Preloaded before the plugin host (LD_PRELOAD), these functions take the
// place of the C ABI's for the plugin library named by INNERQ_PLUGIN_LIBRARY alone: each calls the real one and spoils
// what goes in or what comes out, as INNERQ_FAULT says (names: tests/parity/mutations.py). Memory may be a card's.
#include <dlfcn.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "../../plugins/launch/innerq.h"

namespace {

using Half = uint16_t;  // the bits of an fp16 number
constexpr Half kOne = 0x3C00;

bool is(const char *name) {
    const char *fault = getenv("INNERQ_FAULT");
    return fault != nullptr && strcmp(fault, name) == 0;
}

template <typename Function>
Function *real(Function *, const char *name) {
    void *library = dlopen(getenv("INNERQ_PLUGIN_LIBRARY"), RTLD_NOW | RTLD_NOLOAD);
    return reinterpret_cast<Function *>(dlsym(library, name));
}

// Copies in either direction; the driver finds out by itself which address is a card's.
void copy(void *to, const void *from, size_t bytes) {
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    if (driver == nullptr) {
        memcpy(to, from, bytes);
        return;
    }
    reinterpret_cast<int (*)()>(dlsym(driver, "cuCtxSynchronize"))();
    using Copy = int (*)(uint64_t, uint64_t, size_t);
    const auto status = reinterpret_cast<Copy>(dlsym(driver, "cuMemcpy"))(reinterpret_cast<uint64_t>(to),
                                                                          reinterpret_cast<uint64_t>(from), bytes);
    if (status != 0) abort();
}

// A tensor as numbers on the host; `write` puts them back.
template <typename T>
struct Tensor {
    Tensor(const void *data, size_t count) : at(const_cast<void *>(data)), values(count) {
        copy(values.data(), at, count * sizeof(T));
    }
    void write() const { copy(at, values.data(), values.size() * sizeof(T)); }
    void *at;
    std::vector<T> values;
};

size_t window_slots(const innerq_config &c) { return static_cast<size_t>(c.sink + c.recent + INNERQ_GROUP); }

size_t window_numbers(const innerq_config &c, const innerq_cache &k) {
    return 2 * window_slots(c) * static_cast<size_t>(c.head_dim) * static_cast<size_t>(k.batch * k.kv_heads);
}

int32_t blocks_of(const innerq_config &c, int32_t tokens) {
    return std::max(0, tokens - c.sink - c.recent) / INNERQ_GROUP;
}

std::vector<int32_t> lengths_after(const innerq_cache &k, const innerq_append_args &args) {
    const auto batch = static_cast<size_t>(k.batch);
    Tensor<int32_t> past(args.past_length_B, batch), now(args.new_length_B, batch);
    for (size_t b = 0; b < batch; ++b) now.values[b] += past.values[b];
    return now.values;
}

void one_code(const innerq_cache &k) {
    Tensor<uint8_t> record(k.blocks, 1);
    record.values[0] ^= 1;  // bit 0 of a record is the lowest bit of a key code: layout.cuh
    record.write();
}

void swap_value_scales(const innerq_config &c, const innerq_cache &k) {
    const int tiles = c.head_dim / INNERQ_GROUP;
    const int offset = tiles * (128 * c.key_bits + 64 + 128 * c.value_bits);
    Tensor<Half> scales(static_cast<char *>(k.blocks) + offset, 2);
    std::swap(scales.values[0], scales.values[1]);
    scales.write();
}

void turn_window(const innerq_config &c, const innerq_cache &k) {
    Tensor<Half> window(k.window_B2HkvWD, window_numbers(c, k));
    const auto row = static_cast<ptrdiff_t>(c.head_dim), plane = row * static_cast<ptrdiff_t>(window_slots(c));
    for (auto at = window.values.begin(); at != window.values.end(); at += plane)
        std::rotate(at, at + plane - row, at + plane);
    window.write();
}

// Flushes the next block by pretending that a token arrives which makes it due; the window is put back.
void flush_early(const innerq_config &c, const innerq_cache &k, innerq_append_args args, void *stream) {
    const Tensor<Half> window(k.window_B2HkvWD, window_numbers(c, k));
    const auto batch = static_cast<size_t>(k.batch);
    Tensor<int32_t> past(args.past_length_B, batch), now(args.new_length_B, batch);
    const std::vector<int32_t> true_past = past.values, true_now = now.values, after = lengths_after(k, args);
    for (size_t b = 0; b < batch; ++b) {
        const int32_t next = blocks_of(c, after[b]) + 1;
        const int32_t first = c.sink + INNERQ_GROUP * (next - 1);
        now.values[b] = after[b] >= first + INNERQ_GROUP;
        past.values[b] = now.values[b] ? c.sink + c.recent + INNERQ_GROUP * next - 1 : after[b];
    }
    past.write(), now.write();
    args.tokens = 1;
    real(innerq_append, "innerq_append")(&c, &k, &args, nullptr, 0, stream);
    window.write();
    past.values = true_past, now.values = true_now;
    past.write(), now.write();
}

// Exchanges head h, which reads KV head h / group, with one that reads KV head h mod Hkv; or back.
void map_heads(const innerq_tokens &tokens, const innerq_config &c, const innerq_cache &k,
               const innerq_attend_args &args, bool back) {
    const size_t heads = static_cast<size_t>(args.query_heads), kv_heads = static_cast<size_t>(k.kv_heads);
    const size_t group = heads / kv_heads, row = static_cast<size_t>(args.tokens * c.head_dim);
    Tensor<Half> all(tokens.data, static_cast<size_t>(k.batch) * heads * row);
    const std::vector<Half> before = all.values;
    for (size_t b = 0; b < static_cast<size_t>(k.batch); ++b)
        for (size_t h = 0; h < heads; ++h) {
            const size_t other = h % group * kv_heads + h / group;
            const size_t from = back ? h : other, to = back ? other : h;
            std::copy_n(&before[(b * heads + from) * row], row, &all.values[(b * heads + to) * row]);
        }
    all.write();
}

// Rounds fp16 to the 8 significant bits of bf16, ties to even.
void coarsen(const void *data, size_t count) {
    Tensor<Half> all(data, count);
    for (Half &x : all.values) x = static_cast<Half>((x + 3 + (x >> 3 & 1)) & ~7);
    all.write();
}

void coarsen_inputs(const innerq_config &c, const innerq_cache &k, const innerq_attend_args &args) {
    const auto row = static_cast<size_t>(args.tokens * c.head_dim * k.batch);
    coarsen(args.query_BHqSD.data, row * static_cast<size_t>(args.query_heads));
    for (const innerq_tokens &tokens : {args.key_BHkvSD, args.value_BHkvSD})
        coarsen(tokens.data, row * static_cast<size_t>(k.kv_heads));
    coarsen(k.window_B2HkvWD, window_numbers(c, k));
}

template <typename Function>
innerq_status attend(Function *call, const innerq_config *c, const innerq_cache *k, const innerq_attend_args *args,
                     void *workspace, size_t bytes, void *stream) {
    const auto batch = static_cast<size_t>(k->batch);
    if (is("lambda not applied")) {
        Tensor<Half> norm(k->key_norm_BHkvD, batch * static_cast<size_t>(k->kv_heads * c->head_dim));
        std::fill(norm.values.begin(), norm.values.end(), kOne);
        norm.write();
    }
    if (is("last split dropped")) {
        Tensor<int32_t> past(args->past_length_B, batch);
        for (int32_t &length : past.values) length -= length / 4;
        past.write();
    }
    if (is("GQA head mapped wrongly")) map_heads(args->query_BHqSD, *c, *k, *args, false);
    if (is("bf16 for fp16")) coarsen_inputs(*c, *k, *args);
    const innerq_status status = call(c, k, args, workspace, bytes, stream);
    if (is("GQA head mapped wrongly")) map_heads(args->out_BHqSD, *c, *k, *args, true);
    return status;
}

}  // namespace

innerq_status innerq_append(const innerq_config *c, const innerq_cache *k, const innerq_append_args *args,
                            void *workspace, size_t bytes, void *stream) {
    const innerq_status status = real(innerq_append, "innerq_append")(c, k, args, workspace, bytes, stream);
    if (is("window slot off by one")) turn_window(*c, *k);
    if (is("a block flushed too early")) flush_early(*c, *k, *args, stream);
    if (blocks_of(*c, lengths_after(*k, *args)[0]) == 0) return status;
    if (is("one code off by one")) one_code(*k);
    if (is("two scales swapped")) swap_value_scales(*c, *k);
    return status;
}

innerq_status innerq_attend(const innerq_config *c, const innerq_cache *k, const innerq_attend_args *args,
                            void *workspace, size_t bytes, void *stream) {
    return attend(real(innerq_attend, "innerq_attend"), c, k, args, workspace, bytes, stream);
}

innerq_status innerq_prefill(const innerq_config *c, const innerq_cache *k, const innerq_attend_args *args,
                             void *workspace, size_t bytes, void *stream) {
    return attend(real(innerq_prefill, "innerq_prefill"), c, k, args, workspace, bytes, stream);
}
