#include "world.h"

#include <dlfcn.h>

#include "memory.h"

namespace host {
namespace {

std::string quoted(const std::string &text) {
    std::string out = "\"";
    for (const char letter : text) {
        const auto byte = static_cast<unsigned char>(letter);
        if (letter == '"' || letter == '\\') out += '\\';
        if (byte >= 32 && byte < 127) out += letter;
        if (byte < 32 || byte >= 127) out += '?';
    }
    return out + "\"";
}

}  // namespace

nvinfer1::IPluginV3 &World::plugin(const std::string &name) {
    const auto found = plugins.find(name);
    if (found == plugins.end()) throw std::runtime_error("no plugin named " + name);
    return *found->second;
}

nvinfer1::IPluginV3OneCore &World::core(const std::string &name) {
    return *static_cast<nvinfer1::IPluginV3OneCore *>(
        plugin(name).getCapabilityInterface(nvinfer1::PluginCapabilityType::kCORE));
}

nvinfer1::IPluginV3OneBuildV2 &World::build(const std::string &name) {
    return *static_cast<nvinfer1::IPluginV3OneBuildV2 *>(
        plugin(name).getCapabilityInterface(nvinfer1::PluginCapabilityType::kBUILD));
}

nvinfer1::IPluginV3OneRuntime &World::runtime(const std::string &name) {
    return *static_cast<nvinfer1::IPluginV3OneRuntime *>(
        plugin(name).getCapabilityInterface(nvinfer1::PluginCapabilityType::kRUNTIME));
}

void *World::address(const std::string &buffer) {
    if (buffer == "null") return nullptr;
    const auto found = buffers.find(buffer);
    if (found == buffers.end()) throw std::runtime_error("no buffer named " + buffer);
    return found->second.data;
}

void *World::symbol(const char *name) {
    void *found = dlsym(library, name);
    if (found == nullptr) throw std::runtime_error(std::string("the library has no ") + name);
    return found;
}

std::string Words::text() {
    std::string word;
    if (!(stream_ >> word)) throw std::runtime_error("a word is missing");
    return word;
}

int64_t Words::integer() { return std::stoll(text()); }
double Words::real() { return std::stod(text()); }

void Answer::raw(const std::string &key, const std::string &json) {
    fields_ += (fields_.empty() ? "" : ", ") + quoted(key) + ": " + json;
}

void Answer::add(const std::string &key, const std::string &text) { raw(key, quoted(text)); }
void Answer::add(const std::string &key, int64_t value) { raw(key, std::to_string(value)); }

void Answer::add(const std::string &key, const std::vector<std::string> &texts) {
    std::string list;
    for (const std::string &text : texts) list += (list.empty() ? "" : ", ") + quoted(text);
    raw(key, "[" + list + "]");
}

nvinfer1::DataType data_type(const std::string &word) {
    using nvinfer1::DataType;
    static const std::map<std::string, DataType> names = {{"float", DataType::kFLOAT}, {"half", DataType::kHALF},
                                                          {"bf16", DataType::kBF16},   {"int32", DataType::kINT32},
                                                          {"int64", DataType::kINT64}, {"int8", DataType::kINT8}};
    const auto found = names.find(word);
    return found == names.end() ? static_cast<DataType>(std::stoi(word)) : found->second;
}

nvinfer1::Dims read_dims(Words &words) {
    nvinfer1::Dims dims{};
    dims.nbDims = static_cast<int32_t>(words.integer());
    for (int32_t i = 0; i < dims.nbDims && i < nvinfer1::Dims::MAX_DIMS; ++i) dims.d[i] = words.integer();
    return dims;
}

}  // namespace host
