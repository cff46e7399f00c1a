#include "plugin.h"

#include <cstdio>
#include <cstring>
#include <initializer_list>
#include <new>

#include "log.h"
#include "op_tables.h"

namespace innerq::trt {

using nvinfer1::DataType;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginCapabilityType;
using nvinfer1::TensorRTPhase;

Plugin::Plugin(const Operation &operation, const Attributes &attributes, TensorRTPhase phase) noexcept
    : operation_(operation), spec_(operation.spec), attributes_(attributes), phase_(phase) {
    char text[160];
    describe(attributes, text, sizeof text);
    innerq_build build{};
    build.struct_bytes = sizeof build;
    if (innerq_build_info(&build) != INNERQ_OK) build.git_hash = build.architectures = "unknown";
    snprintf(description_, sizeof description_, "%s: %s; library %s, CUDA %d, architectures %s, TensorRT headers %d.%d",
             spec_.name, text, build.git_hash, build.cuda_version, build.architectures, NV_TENSORRT_MAJOR,
             NV_TENSORRT_MINOR);
}

nvinfer1::IPluginCapability *Plugin::getCapabilityInterface(PluginCapabilityType type) noexcept {
    switch (type) {
        case PluginCapabilityType::kCORE:
            return static_cast<nvinfer1::IPluginV3OneCore *>(this);
        case PluginCapabilityType::kBUILD:
            return static_cast<nvinfer1::IPluginV3OneBuildV2 *>(this);
        case PluginCapabilityType::kRUNTIME:
            return static_cast<nvinfer1::IPluginV3OneRuntime *>(this);
    }
    return nullptr;
}

nvinfer1::IPluginV3 *Plugin::clone() noexcept { return copy(); }

Plugin *Plugin::copy() const noexcept {
    auto *copied = new (std::nothrow) Plugin(operation_, attributes_, phase_);
    if (copied == nullptr) {
        refuse("%s: no memory for a clone", spec_.name);
        return nullptr;
    }
    copied->call_ = call_;
    memcpy(copied->shapes_, shapes_, sizeof shapes_);
    copied->activation_ = activation_;
    copied->workspace_bytes_ = workspace_bytes_;
    copied->ready_ = ready_;
    return copied;
}

nvinfer1::AsciiChar const *Plugin::getPluginName() const noexcept { return spec_.name; }
nvinfer1::AsciiChar const *Plugin::getPluginVersion() const noexcept { return kVersion; }
nvinfer1::AsciiChar const *Plugin::getPluginNamespace() const noexcept { return kNamespace; }

int32_t Plugin::configurePlugin(DynamicDesc const *in, int32_t in_count, DynamicDesc const *out,
                                int32_t out_count) noexcept {
    for (auto bound : {&DynamicPluginTensorDesc::min, &DynamicPluginTensorDesc::opt, &DynamicPluginTensorDesc::max}) {
        Call call;
        if (resolve(spec_, attributes_, Tensors::of(in, in_count, out, out_count, bound), call) != 0) return 1;
    }
    return 0;
}

int32_t Plugin::getOutputDataTypes(DataType *output_types, int32_t output_count, const DataType *input_types,
                                   int32_t input_count) const noexcept {
    if (output_types == nullptr || input_types == nullptr || input_count != spec_.input_count ||
        output_count != spec_.output_count)
        return refuse("%s: expected %d inputs and %d outputs, got %d and %d", spec_.name, spec_.input_count,
                      spec_.output_count, input_count, output_count);
    for (int32_t i = 0; i < input_count; ++i)
        if (check_type(spec_, spec_.inputs[i], input_types[i], input_types[0]) != 0) return 1;
    for (int32_t i = 0; i < output_count; ++i) {
        const Kind kind = spec_.outputs[i].kind;
        output_types[i] = kind == Kind::kInt32  ? DataType::kINT32
                          : kind == Kind::kHalf ? DataType::kHALF
                                                : input_types[0];
    }
    return 0;
}

namespace {

// Where the size of `symbol` can be read: the first axis of the first input that has it.
nvinfer1::IDimensionExpr const *size_of(const OpSpec &spec, nvinfer1::DimsExprs const *inputs, Symbol symbol) noexcept {
    for (int32_t i = 0; i < spec.input_count; ++i)
        for (int32_t axis = 0; axis < spec.inputs[i].rank; ++axis)
            if (spec.inputs[i].dims[axis] == symbol) return inputs[i].d[axis];
    return nullptr;
}

}  // namespace

int32_t Plugin::getOutputShapes(DimsExprs const *inputs, int32_t input_count, DimsExprs const *, int32_t,
                                DimsExprs *outputs, int32_t output_count, nvinfer1::IExprBuilder &) noexcept {
    if (inputs == nullptr || outputs == nullptr || input_count != spec_.input_count ||
        output_count != spec_.output_count)
        return refuse("%s: expected %d inputs and %d outputs, got %d and %d", spec_.name, spec_.input_count,
                      spec_.output_count, input_count, output_count);
    for (int32_t i = 0; i < input_count; ++i)
        if (inputs[i].nbDims != spec_.inputs[i].rank)
            return refuse("%s: tensor '%s': expected %d dimensions, got %d", spec_.name, spec_.inputs[i].name,
                          spec_.inputs[i].rank, inputs[i].nbDims);
    for (int32_t i = 0; i < output_count; ++i) {
        const TensorSpec &output = spec_.outputs[i];
        outputs[i].nbDims = output.rank;
        for (int32_t axis = 0; axis < output.rank; ++axis)
            outputs[i].d[axis] =
                spec_.aliases[i] >= 0 ? inputs[spec_.aliases[i]].d[axis] : size_of(spec_, inputs, output.dims[axis]);
    }
    return 0;
}

bool Plugin::supportsFormatCombination(int32_t position, DynamicDesc const *tensors, int32_t in_count,
                                       int32_t out_count) noexcept {
    if (tensors == nullptr || in_count != spec_.input_count || out_count != spec_.output_count || position < 0 ||
        position >= in_count + out_count)
        return false;
    const TensorSpec &spec = position < in_count ? spec_.inputs[position] : spec_.outputs[position - in_count];
    const nvinfer1::PluginTensorDesc &desc = tensors[position].desc;
    return desc.format == nvinfer1::TensorFormat::kLINEAR && type_fits(spec.kind, desc.type, tensors[0].desc.type);
}

int32_t Plugin::getNbOutputs() const noexcept { return spec_.output_count; }

size_t Plugin::getWorkspaceSize(DynamicDesc const *in, int32_t in_count, DynamicDesc const *out,
                                int32_t out_count) const noexcept {
    Call call;
    size_t bytes = 0;
    const Tensors tensors = Tensors::of(in, in_count, out, out_count, &DynamicPluginTensorDesc::max);
    if (resolve(spec_, attributes_, tensors, call) != 0) return 0;
    if (operation_.workspace_bytes(call, &bytes) == INNERQ_OK) return bytes;
    refuse("%s: %s", spec_.name, innerq_last_message());
    return 0;
}

int32_t Plugin::getAliasedInput(int32_t output) noexcept {
    return output >= 0 && output < spec_.output_count ? spec_.aliases[output] : -1;
}

int32_t Plugin::setTactic(int32_t tactic) noexcept {
    return tactic == 0 ? 0 : refuse("%s: tactic: expected 0, the only one, got %d", spec_.name, tactic);
}

nvinfer1::IPluginV3 *Plugin::attachToContext(nvinfer1::IPluginResourceContext *) noexcept {
    Plugin *attached = copy();
    const char *reason = "";
    if (attached == nullptr || !operation_.reports_flags || phase_ == TensorRTPhase::kBUILD) return attached;
    if (attached->flags_.allocate(&reason) == 0) return attached;
    refuse("%s: no pinned memory for the flag word: %s", spec_.name, reason);
    delete attached;
    return nullptr;
}

nvinfer1::PluginFieldCollection const *Plugin::getFieldsToSerialize() noexcept {
    return fields_.write(spec_, attributes_);
}

}  // namespace innerq::trt
