// The same work through the C ABI of the same library: what the plugin is held to, bit for bit.
#include <chrono>

#include "../../../plugins/launch/innerq.h"
#include "world.h"

namespace host {
namespace {

// HEAD_DIM KEY_BITS KEY_MODE VALUE_BITS VALUE_MODE SINK RECENT KEY_NORM ACTIVATION, modes as numbers.
innerq_config read_config(Words &words) {
    innerq_config config{};
    config.struct_bytes = sizeof config;
    config.spec_version = INNERQ_SPEC_VERSION;
    config.group_size = INNERQ_GROUP;
    for (int32_t *field : {&config.head_dim, &config.key_bits, &config.key_mode, &config.value_bits, &config.value_mode,
                           &config.sink, &config.recent, &config.key_norm, &config.activation})
        *field = static_cast<int32_t>(words.integer());
    return config;
}

// B HKV NB WINDOW KEY_NORM BLOCKS
innerq_cache read_cache(World &world, Words &words, const innerq_config &config) {
    innerq_cache cache{};
    cache.struct_bytes = sizeof cache;
    cache.batch = static_cast<int32_t>(words.integer());
    cache.kv_heads = static_cast<int32_t>(words.integer());
    cache.capacity_blocks = static_cast<int32_t>(words.integer());
    cache.window_B2HkvWD = world.address(words.text());
    void *key_norm = world.address(words.text());
    cache.blocks = world.address(words.text());
    if (config.key_norm == INNERQ_KEY_NORM_PREFILL) cache.key_norm_BHkvD = key_norm;
    return cache;
}

// Runs `call` REPEAT times and answers with its status and the host's time per call.
template <typename Call>
void timed(World &world, int64_t repeat, Answer &answer, const Call &call) {
    const auto start = std::chrono::steady_clock::now();
    int status = 0;
    for (int64_t i = 0; i < repeat; ++i) status |= call();
    const std::chrono::duration<double, std::nano> spent = std::chrono::steady_clock::now() - start;
    answer.add("status", status);
    answer.add("nanoseconds", static_cast<int64_t>(spent.count() / static_cast<double>(repeat)));
    if (status != 0) answer.add("message", world.function<const char *()>("innerq_last_message")());
}

// abi_append CONFIG CACHE STREAM REPEAT S KEY VALUE PAST NEW WORKSPACE
void abi_append(World &world, Words &words, Answer &answer) {
    const innerq_config config = read_config(words);
    const innerq_cache cache = read_cache(world, words, config);
    void *stream = world.streams.at(words.text());
    const int64_t repeat = words.integer();
    innerq_append_args args{};
    args.struct_bytes = sizeof args;
    args.tokens = static_cast<int32_t>(words.integer());
    args.key_BHkvSD.data = world.address(words.text());
    args.value_BHkvSD.data = world.address(words.text());
    args.past_length_B = static_cast<const int32_t *>(world.address(words.text()));
    args.new_length_B = static_cast<const int32_t *>(world.address(words.text()));
    void *workspace = world.address(words.text());
    size_t bytes = 0;
    world.function<decltype(innerq_append_workspace_bytes)>("innerq_append_workspace_bytes")(&config, &cache,
                                                                                             args.tokens, &bytes);
    auto *append = world.function<decltype(innerq_append)>("innerq_append");
    timed(world, repeat, answer, [&] { return append(&config, &cache, &args, workspace, bytes, stream); });
}

// abi_attend CONFIG CACHE STREAM REPEAT HQ S QUERY KEY VALUE PAST NEW OUT WORKSPACE; decode or prefill by S.
void abi_attend(World &world, Words &words, Answer &answer) {
    const innerq_config config = read_config(words);
    const innerq_cache cache = read_cache(world, words, config);
    void *stream = world.streams.at(words.text());
    const int64_t repeat = words.integer();
    innerq_attend_args args{};
    args.struct_bytes = sizeof args;
    args.query_heads = static_cast<int32_t>(words.integer());
    args.tokens = static_cast<int32_t>(words.integer());
    for (innerq_tokens *tokens : {&args.query_BHqSD, &args.key_BHkvSD, &args.value_BHkvSD})
        tokens->data = world.address(words.text());
    args.past_length_B = static_cast<const int32_t *>(world.address(words.text()));
    args.new_length_B = static_cast<const int32_t *>(world.address(words.text()));
    args.out_BHqSD.data = world.address(words.text());
    args.max_past = config.sink + config.recent + INNERQ_GROUP + INNERQ_GROUP * cache.capacity_blocks;
    void *workspace = world.address(words.text());
    const bool decodes = args.tokens <= INNERQ_MAX_ATTEND_TOKENS;
    size_t bytes = 0;
    if (decodes)
        world.function<decltype(innerq_attend_workspace_bytes)>("innerq_attend_workspace_bytes")(
            &config, &cache, args.query_heads, args.tokens, &bytes);
    else
        world.function<decltype(innerq_prefill_workspace_bytes)>("innerq_prefill_workspace_bytes")(
            &config, &cache, args.max_past, &bytes);
    auto *attend = world.function<decltype(innerq_attend)>(decodes ? "innerq_attend" : "innerq_prefill");
    timed(world, repeat, answer, [&] { return attend(&config, &cache, &args, workspace, bytes, stream); });
}

}  // namespace

std::map<std::string, Command> abi_commands() { return {{"abi_append", abi_append}, {"abi_attend", abi_attend}}; }

}  // namespace host
