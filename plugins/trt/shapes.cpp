#include "shapes.h"

#include <climits>
#include <cstdio>
#include <cstring>

#include "log.h"

namespace innerq::trt {
namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;

constexpr int32_t kUnbound = -1;

// "[2, 8, 64]" of a shape, or "[B, Hkv, D]" of a table entry.
struct Text {
    char text[128];
};

Text shape_text(const Dims &dims) noexcept {
    Text out{"["};
    size_t used = 1;
    for (int32_t i = 0; i < dims.nbDims && i < Dims::MAX_DIMS && used < sizeof out.text - 24; ++i)
        used += static_cast<size_t>(
            snprintf(out.text + used, sizeof out.text - used, "%s%lld", i ? ", " : "", (long long)dims.d[i]));
    snprintf(out.text + used, sizeof out.text - used, "]");
    return out;
}

Text symbol_text(const TensorSpec &spec) noexcept {
    Text out{"["};
    size_t used = 1;
    for (int32_t i = 0; i < spec.rank; ++i)
        used += static_cast<size_t>(
            snprintf(out.text + used, sizeof out.text - used, "%s%s", i ? ", " : "", kSymbolNames[spec.dims[i]]));
    snprintf(out.text + used, sizeof out.text - used, "]");
    return out;
}

const char *type_text(DataType type) noexcept {
    switch (type) {
        case DataType::kHALF:
            return "fp16";
        case DataType::kBF16:
            return "bf16";
        case DataType::kINT32:
            return "int32";
        case DataType::kFLOAT:
            return "fp32";
        case DataType::kINT8:
            return "int8";
        case DataType::kINT64:
            return "int64";
        default:
            return "another type";
    }
}

const char *kind_text(Kind kind, DataType activation) noexcept {
    if (kind == Kind::kInt32) return "int32";
    if (kind == Kind::kHalf) return "fp16";
    return activation == DataType::kBF16 ? "bf16" : activation == DataType::kHALF ? "fp16" : "fp16 or bf16";
}

// D is the first symbol that the derived ones need; it is bound by the first tensor of either op.
int32_t bind_derived(const OpSpec &op, Call &call) noexcept {
    call.config.head_dim = call.size[kD];
    size_t record = 0;
    if (innerq_validate(&call.config) != INNERQ_OK || innerq_record_bytes(&call.config, &record) != INNERQ_OK)
        return refuse("%s: tensor '%s' %s: %s", op.name, op.inputs[0].name, symbol_text(op.inputs[0]).text,
                      innerq_last_message());
    call.size[kPair] = 2;
    call.size[kWindow] = call.config.sink + call.config.recent + INNERQ_GROUP;
    call.size[kWords] = static_cast<int32_t>(record / sizeof(int32_t));
    return 0;
}

int32_t bind_tensor(const OpSpec &op, const TensorSpec &spec, const Dims &dims, Call &call) noexcept {
    const Text expected = symbol_text(spec);
    if (dims.nbDims != spec.rank)
        return refuse("%s: tensor '%s': expected %d dimensions %s, got %d", op.name, spec.name, spec.rank,
                      expected.text, dims.nbDims);
    for (int32_t axis = 0; axis < spec.rank; ++axis) {
        const Symbol symbol = spec.dims[axis];
        const int64_t extent = dims.d[axis];
        const int32_t least = symbol == kNB ? 0 : 1;
        int32_t &size = call.size[symbol];
        if (size == kUnbound && extent >= least && extent <= INT32_MAX) size = static_cast<int32_t>(extent);
        if (size == kUnbound)
            return refuse("%s: tensor '%s' %s: dimension %d must be %d .. 2147483647, got %s", op.name, spec.name,
                          expected.text, axis, least, shape_text(dims).text);
        if (size != extent)
            return refuse("%s: tensor '%s' %s: dimension %d (%s): expected %d, got %lld in %s", op.name, spec.name,
                          expected.text, axis, kSymbolNames[symbol], size, (long long)extent, shape_text(dims).text);
    }
    return call.size[kWords] == kUnbound && call.size[kD] != kUnbound ? bind_derived(op, call) : 0;
}

int32_t check_heads(const OpSpec &op, const Call &call) noexcept {
    const int32_t query = call.size[kHq];
    const int32_t shared = call.size[kHkv];
    if (query == kUnbound || (query % shared == 0 && query / shared <= INNERQ_MAX_GROUP_HEADS)) return 0;
    return refuse("%s: tensor 'query': expected Hq = 1 .. %d times Hkv = %d heads, got %d", op.name,
                  INNERQ_MAX_GROUP_HEADS, shared, query);
}

}  // namespace

bool type_fits(Kind kind, DataType type, DataType activation) noexcept {
    if (kind == Kind::kInt32) return type == DataType::kINT32;
    if (kind == Kind::kHalf) return type == DataType::kHALF;
    return type == activation && (type == DataType::kHALF || type == DataType::kBF16);
}

int32_t check_type(const OpSpec &op, const TensorSpec &spec, DataType type, DataType activation) noexcept {
    if (type_fits(spec.kind, type, activation)) return 0;
    return refuse("%s: tensor '%s': expected %s, got %s", op.name, spec.name, kind_text(spec.kind, activation),
                  type_text(type));
}

Tensors Tensors::of(const nvinfer1::PluginTensorDesc *in, int32_t in_count, const nvinfer1::PluginTensorDesc *out,
                    int32_t out_count) noexcept {
    Tensors tensors{};
    tensors.in_count = in == nullptr ? 0 : in_count;
    tensors.out_count = out == nullptr ? 0 : out_count;
    for (int32_t i = 0; i < tensors.in_count + tensors.out_count && i < 2 * kMaxTensors; ++i) {
        const nvinfer1::PluginTensorDesc &desc = i < in_count ? in[i] : out[i - in_count];
        tensors.dims[i] = &desc.dims;
        tensors.types[i] = desc.type;
    }
    return tensors;
}

Tensors Tensors::of(const nvinfer1::DynamicPluginTensorDesc *in, int32_t in_count,
                    const nvinfer1::DynamicPluginTensorDesc *out, int32_t out_count,
                    Dims nvinfer1::DynamicPluginTensorDesc::*bound) noexcept {
    Tensors tensors{};
    tensors.in_count = in == nullptr ? 0 : in_count;
    tensors.out_count = out == nullptr ? 0 : out_count;
    for (int32_t i = 0; i < tensors.in_count + tensors.out_count && i < 2 * kMaxTensors; ++i) {
        const nvinfer1::DynamicPluginTensorDesc &desc = i < in_count ? in[i] : out[i - in_count];
        tensors.dims[i] = i < in_count ? &(desc.*bound) : nullptr;
        tensors.types[i] = desc.desc.type;
    }
    return tensors;
}

int32_t resolve(const OpSpec &op, const Attributes &attributes, const Tensors &tensors, Call &call) noexcept {
    if (tensors.in_count != op.input_count || tensors.out_count != op.output_count)
        return refuse("%s: expected %d inputs and %d outputs, got %d and %d", op.name, op.input_count, op.output_count,
                      tensors.in_count, tensors.out_count);
    const DataType activation = tensors.types[0];
    call.config = attributes.config;
    call.config.activation = activation == DataType::kBF16 ? INNERQ_BF16 : INNERQ_FP16;
    call.scale = attributes.scale;
    for (int32_t &size : call.size) size = kUnbound;
    for (int32_t i = 0; i < op.input_count + op.output_count; ++i) {
        const TensorSpec &spec = i < op.input_count ? op.inputs[i] : op.outputs[i - op.input_count];
        if (check_type(op, spec, tensors.types[i], activation) != 0) return 1;
        if (tensors.dims[i] != nullptr && bind_tensor(op, spec, *tensors.dims[i], call) != 0) return 1;
    }
    return check_heads(op, call);
}

}  // namespace innerq::trt
