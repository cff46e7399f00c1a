// The sizes of a call, found by holding the shapes of its tensors to the op table.
#pragma once

#include <NvInferRuntime.h>

#include "attributes.h"
#include "op.h"

namespace innerq::trt {

// What a call works on, once every shape and type has been checked.
struct Call {
    innerq_config config;  // complete: head_dim and activation are the tensors'
    float scale;
    int32_t size[kSymbols];
};

// Shapes and types of the inputs and outputs of one node, in whichever of TensorRT's structs they came.
class Tensors {
  public:
    using Dims = nvinfer1::Dims;
    using DataType = nvinfer1::DataType;

    static Tensors of(const nvinfer1::PluginTensorDesc *in, int32_t in_count, const nvinfer1::PluginTensorDesc *out,
                      int32_t out_count) noexcept;
    // `bound` picks min, max or opt of the inputs. Ranges of outputs are not looked at: they follow from the inputs.
    static Tensors of(const nvinfer1::DynamicPluginTensorDesc *in, int32_t in_count,
                      const nvinfer1::DynamicPluginTensorDesc *out, int32_t out_count,
                      Dims nvinfer1::DynamicPluginTensorDesc::*bound) noexcept;

    const Dims *dims[2 * kMaxTensors];  // NULL: unknown
    DataType types[2 * kMaxTensors];
    int32_t in_count, out_count;
};

// Whether `type` may stand for `kind` in a node whose activations have type `activation`.
bool type_fits(Kind kind, nvinfer1::DataType type, nvinfer1::DataType activation) noexcept;

// Returns 0 where `type_fits`, or logs op, tensor, expected and got and returns non-zero.
int32_t check_type(const OpSpec &op, const TensorSpec &spec, nvinfer1::DataType type,
                   nvinfer1::DataType activation) noexcept;

// Checks counts, types, ranks and sizes of `tensors` against `op`, and fills `call`. Returns 0, or logs op, tensor,
// expected and got and returns non-zero.
int32_t resolve(const OpSpec &op, const Attributes &attributes, const Tensors &tensors, Call &call) noexcept;

}  // namespace innerq::trt
