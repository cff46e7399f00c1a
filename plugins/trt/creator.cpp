#include "creator.h"

#include <new>

#include "log.h"
#include "op_tables.h"
#include "plugin.h"

namespace innerq::trt {

nvinfer1::IPluginV3 *Creator::createPlugin(nvinfer1::AsciiChar const *, nvinfer1::PluginFieldCollection const *fields,
                                           nvinfer1::TensorRTPhase phase) noexcept {
    Attributes attributes;
    if (read_attributes(operation_.spec, fields, attributes) != 0) return nullptr;
    auto *plugin = new (std::nothrow) Plugin(operation_, attributes, phase);
    if (plugin == nullptr) refuse("%s: no memory for the plugin", operation_.spec.name);
    return plugin;
}

nvinfer1::PluginFieldCollection const *Creator::getFieldNames() noexcept { return names_.names(operation_.spec); }
nvinfer1::AsciiChar const *Creator::getPluginName() const noexcept { return operation_.spec.name; }
nvinfer1::AsciiChar const *Creator::getPluginVersion() const noexcept { return kVersion; }
nvinfer1::AsciiChar const *Creator::getPluginNamespace() const noexcept { return kNamespace; }

}  // namespace innerq::trt
