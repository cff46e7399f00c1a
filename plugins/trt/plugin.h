// The IPluginV3 shell that both ops share. No method throws, exits or resets the device: a failed check is logged with
// op, tensor, expected and got, and answered with a non-zero status.
#pragma once

#include <NvInferRuntime.h>

#include "attributes.h"
#include "flag_word.h"
#include "operation.h"

namespace innerq::trt {

// One node in one execution context. TensorRT owns it and calls it from one thread at a time.
class Plugin final : public nvinfer1::IPluginV3,
                     public nvinfer1::IPluginV3OneCore,
                     public nvinfer1::IPluginV3OneBuildV2,
                     public nvinfer1::IPluginV3OneRuntime {
    using AsciiChar = nvinfer1::AsciiChar;
    using DataType = nvinfer1::DataType;
    using DynamicDesc = nvinfer1::DynamicPluginTensorDesc;
    using Desc = nvinfer1::PluginTensorDesc;
    using DimsExprs = nvinfer1::DimsExprs;

  public:
    Plugin(const Operation &operation, const Attributes &attributes, nvinfer1::TensorRTPhase phase) noexcept;

    // IPluginV3
    nvinfer1::IPluginCapability *getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
    nvinfer1::IPluginV3 *clone() noexcept override;

    // Core
    AsciiChar const *getPluginName() const noexcept override;
    AsciiChar const *getPluginVersion() const noexcept override;
    AsciiChar const *getPluginNamespace() const noexcept override;

    // Build
    int32_t configurePlugin(DynamicDesc const *in, int32_t in_count, DynamicDesc const *out,
                            int32_t out_count) noexcept override;
    int32_t getOutputDataTypes(DataType *output_types, int32_t output_count, const DataType *input_types,
                               int32_t input_count) const noexcept override;
    int32_t getOutputShapes(DimsExprs const *inputs, int32_t input_count, DimsExprs const *shape_inputs,
                            int32_t shape_input_count, DimsExprs *outputs, int32_t output_count,
                            nvinfer1::IExprBuilder &builder) noexcept override;
    bool supportsFormatCombination(int32_t position, DynamicDesc const *tensors, int32_t in_count,
                                   int32_t out_count) noexcept override;
    int32_t getNbOutputs() const noexcept override;
    size_t getWorkspaceSize(DynamicDesc const *in, int32_t in_count, DynamicDesc const *out,
                            int32_t out_count) const noexcept override;
    int32_t getAliasedInput(int32_t output) noexcept override;
    char const *getTimingCacheID() noexcept override { return description_; }
    char const *getMetadataString() noexcept override { return description_; }

    // Runtime
    int32_t setTactic(int32_t tactic) noexcept override;
    int32_t onShapeChange(Desc const *in, int32_t in_count, Desc const *out, int32_t out_count) noexcept override;
    int32_t enqueue(Desc const *in, Desc const *out, void const *const *inputs, void *const *outputs, void *workspace,
                    cudaStream_t stream) noexcept override;
    nvinfer1::IPluginV3 *attachToContext(nvinfer1::IPluginResourceContext *context) noexcept override;
    nvinfer1::PluginFieldCollection const *getFieldsToSerialize() noexcept override;

  private:
    Plugin *copy() const noexcept;
    bool shapes_are(Desc const *in) const noexcept;
    int32_t check_pointers(void const *const *inputs, void *const *outputs) const noexcept;
    int32_t check_flags() noexcept;

    const Operation &operation_;
    const OpSpec &spec_;
    const Attributes attributes_;
    const nvinfer1::TensorRTPhase phase_;
    Call call_{};  // of the shapes below, once `ready_`
    nvinfer1::Dims shapes_[kMaxTensors]{};
    DataType activation_{};
    size_t workspace_bytes_ = 0;
    bool ready_ = false;
    FlagWord flags_;
    FieldSet fields_;
    char description_[320];
};

}  // namespace innerq::trt
