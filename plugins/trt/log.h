// What the plugin says goes to TensorRT's own logger (stderr before one is known). Nothing here throws or allocates.
#pragma once

#include <NvInferRuntime.h>

namespace innerq::trt {

// Keeps the finder that TensorRT hands to the library on loading; NULL goes back to stderr.
void use_logger(nvinfer1::ILoggerFinder *finder) noexcept;

// Logs an error (printf style) and returns 1, the status every failed plugin method answers with.
__attribute__((format(printf, 1, 2))) int32_t refuse(const char *format, ...) noexcept;

__attribute__((format(printf, 1, 2))) void warn(const char *format, ...) noexcept;

}  // namespace innerq::trt
