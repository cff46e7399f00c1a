// What the library offers TensorRT, as text: for tools that have no TensorRT to ask.
#include <NvInferRuntime.h>

#include <cstdarg>
#include <cstdio>

#include "../launch/innerq.h"
#include "op_tables.h"

namespace innerq::trt {
namespace {

struct Json {
    char text[2048] = "";
    size_t used = 0;

    __attribute__((format(printf, 2, 3))) void add(const char *format, ...) noexcept {
        va_list arguments;
        va_start(arguments, format);
        const int wrote = vsnprintf(text + used, sizeof text - used, format, arguments);
        va_end(arguments);
        if (wrote > 0 && used + static_cast<size_t>(wrote) < sizeof text) used += static_cast<size_t>(wrote);
    }

    void add_creator(const OpSpec &op) noexcept {
        add("{\"name\": \"%s\", \"version\": \"%s\", \"namespace\": \"%s\", \"fields\": [", op.name, kVersion,
            kNamespace);
        for (int i = 0; i < op.field_count; ++i) add("%s\"%s\"", i ? ", " : "", op.fields[i].name);
        add("]}");
    }
};

Json described() noexcept {
    Json json;
    json.add("{\"spec_version\": %d, \"tensorrt\": \"%d.%d\", \"creators\": [", INNERQ_SPEC_VERSION, NV_TENSORRT_MAJOR,
             NV_TENSORRT_MINOR);
    json.add_creator(kAppend);
    json.add(", ");
    json.add_creator(kAttention);
    json.add("]}");
    return json;
}

}  // namespace
}  // namespace innerq::trt

// JSON: {"spec_version", "tensorrt" (of the headers), "creators": [{"name", "version", "namespace", "fields"}]}. Static
// memory.
extern "C" __attribute__((visibility("default"))) const char *innerq_trt_describe() {
    static const innerq::trt::Json json = innerq::trt::described();
    return json.text;
}
