/* A prompt and some decode steps through innerq.h, in plain C: sizes, a cache, append, attend, reading it back.
 *
 * Written for the host build (libinnerq_host.so), whose pointers are the host's. On a card the calls are the same:
 * take memory from cudaMalloc, copy tokens in and outputs out, and pass a stream instead of NULL.
 * After each step plain attention over what innerq_dequantise gives back must be what innerq_attend said.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "innerq.h"

enum { kBatch = 2, kHeads = 8, kKvHeads = 2, kDim = 64, kPrompt = 250, kSteps = 40, kBlocks = 8, kMost = 1024 };

static void check(innerq_status status, const char *what) {
    if (status == INNERQ_OK) return;
    fprintf(stderr, "%s: %s: %s\n", what, innerq_status_string(status), innerq_last_message());
    exit(1);
}

static void *room(size_t bytes) {
    void *memory = calloc(bytes + 16, 1);
    if (memory == NULL) exit(2);
    return memory;
}

/* bfloat16 is the upper half of a float. */
static uint16_t bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)(bits >> 16);
}

static float from_bf16(uint16_t x) {
    const uint32_t bits = (uint32_t)x << 16;
    float result;
    memcpy(&result, &bits, sizeof result);
    return result;
}

/* Random [B, heads, tokens, D]. */
static innerq_tokens random_tokens(int heads, int tokens) {
    const size_t count = (size_t)kBatch * heads * tokens * kDim;
    uint16_t *data = room(count * sizeof *data);
    for (size_t i = 0; i < count; i++) data[i] = bf16(4.0f * (float)rand() / (float)RAND_MAX - 2.0f);
    return (innerq_tokens){.data = data}; /* all strides zero: contiguous */
}

static float dot(const uint16_t *a, const uint16_t *b) {
    float sum = 0.0f;
    for (int d = 0; d < kDim; d++) sum += from_bf16(a[d]) * from_bf16(b[d]);
    return sum;
}

/* One head's attention over `tokens` keys and values [tokens, D]: how far `out` is from it, squared, and its length. */
static void compare(const uint16_t *query, const uint16_t *key, const uint16_t *value, int tokens, const uint16_t *out,
                    double *error, double *length) {
    float weight[kMost], total = 0.0f;
    for (int t = 0; t < tokens; t++) total += weight[t] = expf(dot(query, key + t * kDim) / sqrtf(kDim));
    for (int d = 0; d < kDim; d++) {
        float expected = 0.0f;
        for (int t = 0; t < tokens; t++) expected += weight[t] / total * from_bf16(value[t * kDim + d]);
        *error += pow(from_bf16(out[d]) - expected, 2);
        *length += pow(expected, 2);
    }
}

static void append(const innerq_config *config, const innerq_cache *cache, const innerq_attend_args *step) {
    const innerq_append_args args = {.struct_bytes = sizeof args,
                                     .tokens = step->tokens,
                                     .key_BHkvSD = step->key_BHkvSD,
                                     .value_BHkvSD = step->value_BHkvSD,
                                     .past_length_B = step->past_length_B};
    size_t bytes;
    check(innerq_append_workspace_bytes(config, cache, args.tokens, &bytes), "append's workspace");
    void *workspace = room(bytes);
    check(innerq_append(config, cache, &args, workspace, bytes, NULL), "append");
    free(workspace);
}

/* Up to 16 tokens by the decode kernel, more by the one for prompts. */
static void attend(const innerq_config *config, const innerq_cache *cache, const innerq_attend_args *step) {
    const int few = step->tokens <= INNERQ_MAX_ATTEND_TOKENS;
    size_t bytes;
    check(few ? innerq_attend_workspace_bytes(config, cache, kHeads, step->tokens, &bytes)
              : innerq_prefill_workspace_bytes(config, cache, step->max_past, &bytes),
          "attention's workspace");
    void *workspace = room(bytes);
    check((few ? innerq_attend : innerq_prefill)(config, cache, step, workspace, bytes, NULL), "attention");
    free(workspace);
}

/* The relative distance of a step's output from plain attention over the cache read back. */
static double error_of(const innerq_config *config, const innerq_cache *cache, const innerq_attend_args *step,
                       const int32_t *length) {
    const size_t rows = (size_t)kBatch * kKvHeads * length[0];
    innerq_dequantise_args args = {.struct_bytes = sizeof args, .tokens = length[0], .length_B = length};
    uint16_t *key = args.key_BHkvTD = room(rows * kDim * sizeof *key);
    uint16_t *value = args.value_BHkvTD = room(rows * kDim * sizeof *value);
    check(innerq_dequantise(config, cache, &args, NULL), "dequantise");
    double error = 0.0, size = 0.0;
    for (int head = 0; head < kBatch * kHeads; head++) {
        const size_t first = (size_t)(head / (kHeads / kKvHeads)) * length[0] * kDim;
        const uint16_t *query = step->query_BHqSD.data, *out = step->out_BHqSD.data;
        compare(query + head * kDim, key + first, value + first, length[0], out + head * kDim, &error, &size);
    }
    free(key), free(value);
    return sqrt(error / size);
}

int main(void) {
    const innerq_config config = {.struct_bytes = sizeof config,
                                  .spec_version = INNERQ_SPEC_VERSION,
                                  .head_dim = kDim,
                                  .key_bits = 3,
                                  .key_mode = INNERQ_SYMMETRIC_FULL,
                                  .value_bits = 3,
                                  .value_mode = INNERQ_SYMMETRIC_FULL,
                                  .group_size = INNERQ_GROUP,
                                  .sink = 32,
                                  .recent = 96,
                                  .key_norm = INNERQ_KEY_NORM_PREFILL,
                                  .activation = INNERQ_BF16};
    int32_t length[kBatch] = {0}, flags = 0;
    size_t window, blocks;
    check(innerq_window_bytes(&config, kBatch, kKvHeads, &window), "window");
    check(innerq_blocks_bytes(&config, kBatch, kKvHeads, kBlocks, &blocks), "blocks");
    const innerq_cache cache = {.struct_bytes = sizeof cache,
                                .batch = kBatch,
                                .kv_heads = kKvHeads,
                                .capacity_blocks = kBlocks,
                                .window_B2HkvWD = room(window),
                                .blocks = room(blocks),
                                .key_norm_BHkvD = room((size_t)kBatch * kKvHeads * kDim * 2),
                                .flags = &flags};
    double worst = 0.0;
    for (int i = 0; i <= kSteps; i++) {
        const int tokens = i == 0 ? kPrompt : 1; /* the prompt, then a token at a time */
        const innerq_attend_args step = {.struct_bytes = sizeof step,
                                         .query_heads = kHeads,
                                         .tokens = tokens,
                                         .query_BHqSD = random_tokens(kHeads, tokens),
                                         .key_BHkvSD = random_tokens(kKvHeads, tokens),
                                         .value_BHkvSD = random_tokens(kKvHeads, tokens),
                                         .out_BHqSD = random_tokens(kHeads, tokens),
                                         .past_length_B = length};
        append(&config, &cache, &step);
        attend(&config, &cache, &step);
        for (int b = 0; b < kBatch; b++) length[b] += tokens; /* lengths are the caller's */
        if (tokens == 1) worst = fmax(worst, error_of(&config, &cache, &step, length));
        free(step.query_BHqSD.data), free(step.key_BHkvSD.data);
        free(step.value_BHkvSD.data), free(step.out_BHqSD.data);
    }
    int64_t held;
    check(innerq_blocks_of(&config, length[0], &held), "blocks of a sequence");
    printf("%d tokens, %d blocks of a head packed, flags %d\n", (int)length[0], (int)held, (int)flags);
    printf("attention is that over the cache read back, to %s\n", worst < 0.01 ? "1%" : "MORE THAN 1%");
    return flags != 0 || !(worst < 0.01);
}
