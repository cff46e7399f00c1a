// The two functions TensorRT looks up when it loads the library.
#include <dlfcn.h>

#include "creator.h"
#include "log.h"

namespace innerq::trt {
namespace {

// Major version of the TensorRT library that holds `code`, 0 where that is no TensorRT library.
int32_t tensorrt_major(void *code) noexcept {
    Dl_info where{};
    if (dladdr(code, &where) == 0) return 0;
    void *library = dlopen(where.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    if (library == nullptr) return 0;
    auto *version = reinterpret_cast<int32_t (*)()>(dlsym(library, "getInferLibVersion"));
    const int32_t major = version == nullptr ? 0 : version() / 10000;
    dlclose(library);
    return major;
}

// The logger's table of methods differs between TensorRT 10 and 11: calling it across would crash the process.
bool speaks_our_version(void *caller) noexcept {
    const int32_t major = tensorrt_major(caller);
    return major == 0 || major == NV_TENSORRT_MAJOR;
}

}  // namespace
}  // namespace innerq::trt

#define INNERQ_EXPORT extern "C" __attribute__((visibility("default"), noinline))

INNERQ_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder *finder) {
    if (innerq::trt::speaks_our_version(__builtin_return_address(0))) innerq::trt::use_logger(finder);
}

INNERQ_EXPORT nvinfer1::IPluginCreatorInterface *const *getCreators(int32_t &count) {
    using namespace innerq::trt;
    static Creator append(kAppendOperation);
    static Creator attention(kAttentionOperation);
    static nvinfer1::IPluginCreatorInterface *const creators[] = {&append, &attention};
    count = 0;
    if (!speaks_our_version(__builtin_return_address(0))) {
        refuse(
            "this plugin library was built for TensorRT %d, the process runs TensorRT %d: build it again with "
            "-DTENSORRT_INCLUDE_DIR=<headers of TensorRT %d>",
            NV_TENSORRT_MAJOR, tensorrt_major(__builtin_return_address(0)),
            tensorrt_major(__builtin_return_address(0)));
        return creators;
    }
    count = 2;
    return creators;
}
