// Commands that create plugins and ask them what TensorRT asks while it builds an engine.
#include <dlfcn.h>

#include <cstring>

#include "world.h"

namespace host {
namespace {

using namespace nvinfer1;

constexpr int kMost = 32;

// One plugin field with the memory it points to.
struct Field {
    std::string name, bytes;
    PluginFieldType type = PluginFieldType::kUNKNOWN;
    int32_t length = 0;
    bool null_data = false, null_name = false;
};

std::string from_hex(const std::string &hex) {
    std::string bytes;
    for (size_t i = 0; i + 1 < hex.size(); i += 2) bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
    return bytes;
}

// NAME TYPE LENGTH DATA: type as PluginFieldType's number, data in hex or "null".
Field read_field(Words &words) {
    Field field;
    field.name = words.text();
    field.type = static_cast<PluginFieldType>(words.integer());
    field.length = static_cast<int32_t>(words.integer());
    const std::string data = words.text();
    field.null_name = field.name == "null";
    field.null_data = data == "null";
    if (!field.null_data) field.bytes = from_hex(data);
    return field;
}

std::vector<Field> read_fields(Words &words) {
    std::vector<Field> fields(static_cast<size_t>(words.integer()));
    for (Field &field : fields) field = read_field(words);
    return fields;
}

std::vector<PluginField> as_plugin_fields(const std::vector<Field> &fields) {
    std::vector<PluginField> out;
    for (const Field &field : fields)
        out.emplace_back(field.null_name ? nullptr : field.name.c_str(), field.null_data ? nullptr : field.bytes.data(),
                         field.type, field.length);
    return out;
}

TensorRTPhase phase_of(const std::string &word) {
    return word == "runtime" ? TensorRTPhase::kRUNTIME : TensorRTPhase::kBUILD;
}

IPluginCreatorV3One &creator_of(World &world, const std::string &op) {
    for (IPluginCreatorV3One *creator : world.creators)
        if (op == creator->getPluginName()) return *creator;
    throw std::runtime_error("no creator for " + op);
}

void keep(World &world, const std::string &name, IPluginV3 *plugin, Answer &answer) {
    answer.add("status", plugin == nullptr);
    if (plugin != nullptr) world.plugins[name].reset(plugin);
}

void take_creators(World &world, IPluginCreatorInterface *const *creators, int32_t count, Answer &answer) {
    std::vector<std::string> names;
    for (int32_t i = 0; i < count; ++i) {
        if (std::string(creators[i]->getInterfaceInfo().kind) != "PLUGIN CREATOR_V3ONE") continue;
        auto *creator = static_cast<IPluginCreatorV3One *>(creators[i]);
        if (std::string(creator->getPluginNamespace()) != "innerq") continue;
        world.creators.push_back(creator);
        names.emplace_back(creator->getPluginName());
    }
    answer.add("creators", names);
}

// load PATH: as TensorRT does it, without TensorRT.
void load(World &world, Words &words, Answer &answer) {
    world.library = dlopen(words.text().c_str(), RTLD_NOW | RTLD_LOCAL);
    if (world.library == nullptr) throw std::runtime_error(dlerror());
    world.function<void(ILoggerFinder *)>("setLoggerFinder")(&world.logger);
    int32_t count = 0;
    auto *creators = world.function<IPluginCreatorInterface *const *(int32_t &)>("getCreators")(count);
    take_creators(world, creators, count, answer);
}

// registry TENSORRT PATH: the registry inside TensorRT's library loads the plugin library.
void registry(World &world, Words &words, Answer &answer) {
    void *tensorrt = dlopen(words.text().c_str(), RTLD_NOW | RTLD_LOCAL);
    if (tensorrt == nullptr) throw std::runtime_error(dlerror());
    auto *find = reinterpret_cast<IPluginRegistry *(*)()>(dlsym(tensorrt, "getPluginRegistry"));
    const std::string path = words.text();
    answer.add("status", find()->loadLibrary(path.c_str()) == nullptr);
    world.library = dlopen(path.c_str(), RTLD_NOW | RTLD_NOLOAD);
    int32_t count = 0;
    IPluginCreatorInterface *const *creators = find()->getAllCreators(&count);
    take_creators(world, creators, count, answer);
}

// create NAME OP build|runtime N FIELD...
void create(World &world, Words &words, Answer &answer) {
    const std::string name = words.text();
    IPluginCreatorV3One &creator = creator_of(world, words.text());
    const TensorRTPhase phase = phase_of(words.text());
    const std::vector<Field> fields = read_fields(words);
    const std::vector<PluginField> plugin_fields = as_plugin_fields(fields);
    const PluginFieldCollection collection{static_cast<int32_t>(plugin_fields.size()), plugin_fields.data()};
    keep(world, name, creator.createPlugin(name.c_str(), &collection, phase), answer);
}

// create_raw NAME OP COUNT: COUNT fields at NULL; a count of 99 passes no collection at all.
void create_raw(World &world, Words &words, Answer &answer) {
    const std::string name = words.text();
    IPluginCreatorV3One &creator = creator_of(world, words.text());
    const PluginFieldCollection collection{static_cast<int32_t>(words.integer()), nullptr};
    const auto *given = collection.nbFields == 99 ? nullptr : &collection;
    keep(world, name, creator.createPlugin(name.c_str(), given, TensorRTPhase::kBUILD), answer);
}

void clone(World &world, Words &words, Answer &answer) {
    IPluginV3 &source = world.plugin(words.text());
    keep(world, words.text(), source.clone(), answer);
}

void attach(World &world, Words &words, Answer &answer) {
    IPluginV3OneRuntime &source = world.runtime(words.text());
    keep(world, words.text(), source.attachToContext(&world.context), answer);
}

void destroy(World &world, Words &words, Answer &) { world.plugins.erase(words.text()); }

// recreate NAME NEW build|runtime VERSION: what an engine file does; VERSION replaces spec_version where it is not 0.
void recreate(World &world, Words &words, Answer &answer) {
    const std::string name = words.text(), fresh = words.text();
    const PluginFieldCollection *saved = world.runtime(name).getFieldsToSerialize();
    std::vector<Field> fields;
    for (int32_t i = 0; i < saved->nbFields; ++i) {
        const PluginField &field = saved->fields[i];
        const size_t bytes = static_cast<size_t>(field.length) * (field.type == PluginFieldType::kCHAR ? 1 : 4);
        fields.push_back({field.name, std::string(static_cast<const char *>(field.data), bytes), field.type,
                          field.length, false, false});
    }
    const TensorRTPhase phase = phase_of(words.text());
    const auto version = static_cast<int32_t>(words.integer());
    for (Field &field : fields)
        if (version != 0 && field.name == "spec_version") std::memcpy(&field.bytes[0], &version, sizeof version);
    const std::vector<PluginField> plugin_fields = as_plugin_fields(fields);
    const PluginFieldCollection collection{static_cast<int32_t>(plugin_fields.size()), plugin_fields.data()};
    IPluginCreatorV3One &creator = creator_of(world, world.core(name).getPluginName());
    keep(world, fresh, creator.createPlugin(fresh.c_str(), &collection, phase), answer);
}

void describe(World &world, Words &words, Answer &answer) {
    const std::string name = words.text();
    IPluginV3OneBuildV2 &build = world.build(name);
    answer.add("name", world.core(name).getPluginName());
    answer.add("version", world.core(name).getPluginVersion());
    answer.add("namespace", world.core(name).getPluginNamespace());
    answer.add("metadata", build.getMetadataString());
    answer.add("timing_cache_id", build.getTimingCacheID());
    answer.add("build_interface", build.getInterfaceInfo().major);
    std::vector<std::string> aliases;
    for (int32_t i = 0; i < build.getNbOutputs(); ++i) aliases.push_back(std::to_string(build.getAliasedInput(i)));
    answer.add("aliases", aliases);
    answer.add("outside", build.getAliasedInput(-1) == -1 && build.getAliasedInput(build.getNbOutputs()) == -1);
}

// types NAME OUTPUTS INPUTS TYPE...
void types(World &world, Words &words, Answer &answer) {
    IPluginV3OneBuildV2 &build = world.build(words.text());
    const auto outputs = static_cast<int32_t>(words.integer()), inputs = static_cast<int32_t>(words.integer());
    DataType in[kMost], out[kMost];
    for (int32_t i = 0; i < inputs; ++i) in[i] = data_type(words.text());
    answer.add("status", build.getOutputDataTypes(out, outputs, in, inputs));
    std::vector<std::string> texts;
    for (int32_t i = 0; i < outputs; ++i) texts.push_back(std::to_string(static_cast<int32_t>(out[i])));
    answer.add("types", texts);
}

// shapes NAME OUTPUTS INPUTS {RANK LABEL...}
void shapes(World &world, Words &words, Answer &answer) {
    IPluginV3OneBuildV2 &build = world.build(words.text());
    const auto outputs = static_cast<int32_t>(words.integer()), inputs = static_cast<int32_t>(words.integer());
    std::deque<Expression> expressions;
    DimsExprs in[kMost]{}, out[kMost]{};
    for (int32_t i = 0; i < inputs; ++i) {
        in[i].nbDims = static_cast<int32_t>(words.integer());
        for (int32_t axis = 0; axis < in[i].nbDims; ++axis) in[i].d[axis] = &expressions.emplace_back(words.text());
    }
    ExpressionBuilder builder;
    const int32_t status = build.getOutputShapes(in, inputs, nullptr, 0, out, outputs, builder);
    answer.add("status", status);
    std::vector<std::string> texts;
    for (int32_t i = 0; status == 0 && i < outputs; ++i) {
        std::string text;
        for (int32_t axis = 0; axis < out[i].nbDims; ++axis)
            text += (axis ? " " : "") + static_cast<const Expression *>(out[i].d[axis])->label;
        texts.push_back(text);
    }
    answer.add("shapes", texts);
}

// format NAME POSITION INPUTS OUTPUTS {TYPE FORMAT}
void format(World &world, Words &words, Answer &answer) {
    IPluginV3OneBuildV2 &build = world.build(words.text());
    const auto position = static_cast<int32_t>(words.integer());
    const auto inputs = static_cast<int32_t>(words.integer()), outputs = static_cast<int32_t>(words.integer());
    DynamicPluginTensorDesc tensors[kMost]{};
    for (int32_t i = 0; i < inputs + outputs; ++i) {
        tensors[i].desc.type = data_type(words.text());
        tensors[i].desc.format = static_cast<TensorFormat>(words.integer());
    }
    answer.add("fits", build.supportsFormatCombination(position, tensors, inputs, outputs));
}

// INPUTS OUTPUTS {TYPE MIN OPT MAX}, each bound RANK d0 d1 ...
int32_t read_dynamic(Words &words, DynamicPluginTensorDesc *tensors, int32_t &outputs) {
    const auto inputs = static_cast<int32_t>(words.integer());
    outputs = static_cast<int32_t>(words.integer());
    for (int32_t i = 0; i < inputs + outputs; ++i) {
        tensors[i].desc.type = data_type(words.text());
        tensors[i].min = read_dims(words);
        tensors[i].opt = read_dims(words);
        tensors[i].max = read_dims(words);
    }
    return inputs;
}

void configure(World &world, Words &words, Answer &answer) {
    IPluginV3OneBuildV2 &build = world.build(words.text());
    DynamicPluginTensorDesc tensors[kMost]{};
    int32_t outputs = 0;
    const int32_t inputs = read_dynamic(words, tensors, outputs);
    answer.add("status", build.configurePlugin(tensors, inputs, tensors + inputs, outputs));
}

void workspace(World &world, Words &words, Answer &answer) {
    IPluginV3OneBuildV2 &build = world.build(words.text());
    DynamicPluginTensorDesc tensors[kMost]{};
    int32_t outputs = 0;
    const int32_t inputs = read_dynamic(words, tensors, outputs);
    answer.add("bytes", static_cast<int64_t>(build.getWorkspaceSize(tensors, inputs, tensors + inputs, outputs)));
}

}  // namespace

std::map<std::string, Command> build_commands() {
    return {{"load", load},           {"registry", registry},  {"create", create},   {"create_raw", create_raw},
            {"clone", clone},         {"attach", attach},      {"destroy", destroy}, {"recreate", recreate},
            {"describe", describe},   {"types", types},        {"shapes", shapes},   {"format", format},
            {"configure", configure}, {"workspace", workspace}};
}

}  // namespace host
