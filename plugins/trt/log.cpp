#include "log.h"

#include <atomic>
#include <cstdarg>
#include <cstdio>

namespace innerq::trt {
namespace {

using nvinfer1::ILogger;

std::atomic<nvinfer1::ILoggerFinder *> g_finder{nullptr};

ILogger *logger() noexcept {
    nvinfer1::ILoggerFinder *finder = g_finder.load();
    if (finder == nullptr) return nullptr;
    try {
        return finder->findLogger();
    } catch (...) {
        return nullptr;
    }
}

void write(ILogger::Severity severity, const char *format, va_list arguments) noexcept {
    char message[1024];
    vsnprintf(message, sizeof message, format, arguments);
    if (ILogger *sink = logger()) {
        sink->log(severity, message);
    } else {
        fprintf(stderr, "innerq: %s\n", message);
    }
}

}  // namespace

void use_logger(nvinfer1::ILoggerFinder *finder) noexcept { g_finder.store(finder); }

int32_t refuse(const char *format, ...) noexcept {
    va_list arguments;
    va_start(arguments, format);
    write(ILogger::Severity::kERROR, format, arguments);
    va_end(arguments);
    return 1;
}

void warn(const char *format, ...) noexcept {
    va_list arguments;
    va_start(arguments, format);
    write(ILogger::Severity::kWARNING, format, arguments);
    va_end(arguments);
}

}  // namespace innerq::trt
