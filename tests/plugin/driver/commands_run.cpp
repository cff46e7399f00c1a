// Commands that do what TensorRT does while an engine runs: memory, streams, onShapeChange, enqueue, graphs.
#include <chrono>
#include <cstring>
#include <fstream>

#include "memory.h"
#include "world.h"

namespace host {
namespace {

using namespace nvinfer1;

constexpr int kMost = 16;

// Tensors of one call: INPUTS OUTPUTS {BUFFER TYPE RANK d0 d1 ...}.
struct Tensors {
    PluginTensorDesc descs[kMost]{};
    void *addresses[kMost]{};
    int32_t inputs = 0, outputs = 0;

    Tensors(World &world, Words &words) {
        inputs = static_cast<int32_t>(words.integer());
        outputs = static_cast<int32_t>(words.integer());
        for (int32_t i = 0; i < inputs + outputs; ++i) {
            addresses[i] = world.address(words.text());
            descs[i].type = data_type(words.text());
            descs[i].dims = read_dims(words);
        }
    }
    const PluginTensorDesc *out() const { return descs + inputs; }
};

void buffer(World &world, Words &words, Answer &) {
    const std::string name = words.text();
    const auto bytes = static_cast<size_t>(words.integer());
    world.buffers[name] = {allocate(bytes), bytes};
    std::vector<unsigned char> poison(bytes, 0xEE);
    upload(world.buffers[name].data, poison.data(), bytes);
}

void free_buffer(World &world, Words &words, Answer &) {
    const std::string name = words.text();
    release(world.address(name));
    world.buffers.erase(name);
}

// write BUFFER FILE; the file must be as large as the buffer.
void write(World &world, Words &words, Answer &) {
    Buffer &target = world.buffers.at(words.text());
    std::ifstream file(words.text(), std::ios::binary);
    std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    if (bytes.size() != target.bytes) throw std::runtime_error("file and buffer differ in size");
    upload(target.data, bytes.data(), bytes.size());
}

void read(World &world, Words &words, Answer &) {
    const Buffer &source = world.buffers.at(words.text());
    std::vector<char> bytes(source.bytes);
    download(bytes.data(), source.data, bytes.size());
    std::ofstream(words.text(), std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

// differ A B: number of the first byte that is not the same, -1 for none.
void differ(World &world, Words &words, Answer &answer) {
    const Buffer &left = world.buffers.at(words.text()), &right = world.buffers.at(words.text());
    if (left.bytes != right.bytes) throw std::runtime_error("buffers differ in size");
    std::vector<char> a(left.bytes), b(left.bytes);
    download(a.data(), left.data, a.size());
    download(b.data(), right.data, b.size());
    int64_t first = -1;
    for (size_t i = 0; i < a.size() && first < 0; ++i)
        if (a[i] != b[i]) first = static_cast<int64_t>(i);
    answer.add("first", first);
}

void stream(World &world, Words &words, Answer &) { world.streams[words.text()] = make_stream(); }

void sync(World &world, Words &words, Answer &answer) {
    synchronise(world.streams.at(words.text()));
    answer.add("cuda_error", last_error());
}

void shape_change(World &world, Words &words, Answer &answer) {
    IPluginV3OneRuntime &runtime = world.runtime(words.text());
    const Tensors tensors(world, words);
    answer.add("status", runtime.onShapeChange(tensors.descs, tensors.inputs, tensors.out(), tensors.outputs));
}

// enqueue NAME STREAM WORKSPACE REPEAT TENSORS: the time is the host's, per call.
void enqueue(World &world, Words &words, Answer &answer) {
    IPluginV3OneRuntime &runtime = world.runtime(words.text());
    auto *stream = static_cast<cudaStream_t>(world.streams.at(words.text()));
    void *workspace = world.address(words.text());
    const int64_t repeat = words.integer();
    const Tensors tensors(world, words);
    const auto start = std::chrono::steady_clock::now();
    int32_t status = 0;
    for (int64_t i = 0; i < repeat; ++i)
        status |= runtime.enqueue(tensors.descs, tensors.out(), tensors.addresses, tensors.addresses + tensors.inputs,
                                  workspace, stream);
    const std::chrono::duration<double, std::nano> spent = std::chrono::steady_clock::now() - start;
    answer.add("status", status);
    answer.add("nanoseconds", static_cast<int64_t>(spent.count() / static_cast<double>(repeat)));
}

// enqueue_null NAME WHICH: calls with descriptions, inputs or outputs missing.
void enqueue_null(World &world, Words &words, Answer &answer) {
    IPluginV3OneRuntime &runtime = world.runtime(words.text());
    const std::string which = words.text();
    const Tensors tensors(world, words);
    answer.add("status",
               runtime.enqueue(which == "descriptions" ? nullptr : tensors.descs, tensors.out(),
                               which == "inputs" ? nullptr : tensors.addresses,
                               which == "outputs" ? nullptr : tensors.addresses + tensors.inputs, nullptr, nullptr));
}

void tactic(World &world, Words &words, Answer &answer) {
    IPluginV3OneRuntime &runtime = world.runtime(words.text());
    answer.add("status", runtime.setTactic(static_cast<int32_t>(words.integer())));
}

void capture(World &world, Words &words, Answer &) { begin_capture(world.streams.at(words.text())); }

void captured(World &world, Words &words, Answer &) {
    const std::string name = words.text();
    world.graphs[name] = end_capture(world.streams.at(words.text()));
}

void launch(World &world, Words &words, Answer &) {
    void *graph = world.graphs.at(words.text());
    replay(graph, world.streams.at(words.text()));
}

}  // namespace

std::map<std::string, Command> run_commands() {
    return {{"buffer", buffer},     {"free", free_buffer},
            {"write", write},       {"read", read},
            {"differ", differ},     {"stream", stream},
            {"sync", sync},         {"shape_change", shape_change},
            {"enqueue", enqueue},   {"enqueue_null", enqueue_null},
            {"tactic", tactic},     {"capture", capture},
            {"captured", captured}, {"launch", launch}};
}

}  // namespace host
