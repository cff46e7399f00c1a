// What TensorRT's registry lists: one creator per op.
#pragma once

#include <NvInferRuntime.h>

#include "attributes.h"
#include "operation.h"

namespace innerq::trt {

class Creator final : public nvinfer1::IPluginCreatorV3One {
  public:
    explicit Creator(const Operation &operation) noexcept : operation_(operation) {}

    // Returns a plugin the caller owns, or NULL after logging which field is wrong.
    nvinfer1::IPluginV3 *createPlugin(nvinfer1::AsciiChar const *name, nvinfer1::PluginFieldCollection const *fields,
                                      nvinfer1::TensorRTPhase phase) noexcept override;
    nvinfer1::PluginFieldCollection const *getFieldNames() noexcept override;
    nvinfer1::AsciiChar const *getPluginName() const noexcept override;
    nvinfer1::AsciiChar const *getPluginVersion() const noexcept override;
    nvinfer1::AsciiChar const *getPluginNamespace() const noexcept override;

  private:
    const Operation &operation_;
    FieldSet names_;
};

}  // namespace innerq::trt
