// The runtime half of the shell: shapes are resolved when they change, a call only fills in pointers.
#include <cstring>

#include "log.h"
#include "plugin.h"

namespace innerq::trt {

int32_t Plugin::onShapeChange(Desc const *in, int32_t in_count, Desc const *out, int32_t out_count) noexcept {
    ready_ = false;
    if (resolve(spec_, attributes_, Tensors::of(in, in_count, out, out_count), call_) != 0) return 1;
    if (operation_.workspace_bytes(call_, &workspace_bytes_) != INNERQ_OK)
        return refuse("%s: %s", spec_.name, innerq_last_message());
    for (int32_t i = 0; i < in_count; ++i) shapes_[i] = in[i].dims;
    activation_ = in[0].type;
    ready_ = true;
    return 0;
}

int32_t Plugin::enqueue(Desc const *in, Desc const *out, void const *const *inputs, void *const *outputs,
                        void *workspace, cudaStream_t stream) noexcept {
    if (in == nullptr || out == nullptr) return refuse("%s: enqueue without tensor descriptions", spec_.name);
    if (!shapes_are(in) && onShapeChange(in, spec_.input_count, out, spec_.output_count) != 0) return 1;
    if (check_pointers(inputs, outputs) != 0 || check_flags() != 0) return 1;
    const Buffers buffers = {inputs, outputs, workspace, workspace_bytes_, flags_.device(), stream};
    const innerq_status status = operation_.launch(call_, buffers);
    if (status == INNERQ_OK) return 0;
    return refuse("%s: %s: %s", spec_.name, innerq_status_string(status), innerq_last_message());
}

bool Plugin::shapes_are(Desc const *in) const noexcept {
    if (!ready_ || in[0].type != activation_) return false;
    for (int32_t i = 0; i < spec_.input_count; ++i) {
        const nvinfer1::Dims &known = shapes_[i];
        if (in[i].dims.nbDims != known.nbDims ||
            memcmp(in[i].dims.d, known.d, static_cast<size_t>(known.nbDims) * sizeof known.d[0]) != 0)
            return false;
    }
    return true;
}

int32_t Plugin::check_pointers(void const *const *inputs, void *const *outputs) const noexcept {
    if (inputs == nullptr || outputs == nullptr) return refuse("%s: enqueue without tensors", spec_.name);
    for (int32_t i = 0; i < spec_.output_count; ++i) {
        const int32_t source = spec_.aliases[i];
        if (source < 0 || outputs[i] == inputs[source]) continue;
        if (phase_ == nvinfer1::TensorRTPhase::kBUILD) continue;
        return refuse(
            "%s: tensor '%s' is not the memory of '%s', so the cache would be lost; build the engine with "
            "PreviewFeature::kALIASED_PLUGIN_IO_10_03 and bind both names to one address",
            spec_.name, spec_.outputs[i].name, spec_.inputs[source].name);
    }
    return 0;
}

// What an earlier call found on the device. That call left the cache of such a sequence as it was.
int32_t Plugin::check_flags() noexcept {
    const int32_t bits = flags_.take();
    if (bits == 0) return 0;
    if (bits & INNERQ_FLAG_CAPACITY)
        return refuse(
            "%s: an earlier call had more tokens than %d blocks hold; those tokens were not appended and the cache is "
            "unharmed. Bind caches with more blocks, or end the sequence",
            spec_.name, call_.size[kNB]);
    return refuse(
        "%s: an earlier call had a negative past_length or a new_length outside 0 .. S = %d; nothing was appended "
        "there "
        "and the cache is unharmed",
        spec_.name, call_.size[kS]);
}

}  // namespace innerq::trt
