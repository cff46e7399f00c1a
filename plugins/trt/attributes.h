// The attributes of a node: read from plugin fields with every check, and written back for serialisation.
#pragma once

#include <NvInferRuntime.h>

#include "../launch/innerq.h"
#include "op.h"

namespace innerq::trt {

// `config.head_dim` and `config.activation` are placeholders until the tensors are known (see Call in shapes.h).
struct Attributes {
    innerq_config config;
    float scale;  // of the scores; 0: 1/sqrt(D). Append ignores it
};

// Reads the fields of `op`: each exactly once, with its type and a value that can hold. Integers may come as int32 or
// int64, text with or without a final NUL. Returns 0, or logs op, field, expected and got and returns non-zero.
int32_t read_attributes(const OpSpec &op, const nvinfer1::PluginFieldCollection *fields,
                        Attributes &attributes) noexcept;

// Fields that `read_attributes` turns into equal attributes. The collection points into this object: it is not copied.
class FieldSet {
  public:
    FieldSet() = default;
    FieldSet(const FieldSet &) = delete;
    FieldSet &operator=(const FieldSet &) = delete;

    // The fields of `op` with the values of `attributes`; valid until the next call.
    const nvinfer1::PluginFieldCollection *write(const OpSpec &op, const Attributes &attributes) noexcept;

    // Names and types only, as a creator lists them.
    const nvinfer1::PluginFieldCollection *names(const OpSpec &op) noexcept;

  private:
    Attributes values_{};
    nvinfer1::PluginField fields_[kMaxFields];
    nvinfer1::PluginFieldCollection collection_{};
};

// "spec 1, keys 3-bit symmetric_full, values ..." into `text`.
void describe(const Attributes &attributes, char *text, size_t bytes) noexcept;

}  // namespace innerq::trt
