#include "status.h"

#include <cstdarg>
#include <cstdio>

namespace innerq {
namespace {
thread_local char message[512] = "";
}

innerq_status fail(innerq_status status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    return status;
}

}  // namespace innerq

extern "C" const char *innerq_last_message(void) { return innerq::message; }

extern "C" const char *innerq_status_string(innerq_status status) {
    switch (status) {
        case INNERQ_OK:
            return "INNERQ_OK";
        case INNERQ_INVALID_ARGUMENT:
            return "INNERQ_INVALID_ARGUMENT";
        case INNERQ_UNSUPPORTED:
            return "INNERQ_UNSUPPORTED";
        case INNERQ_WORKSPACE_TOO_SMALL:
            return "INNERQ_WORKSPACE_TOO_SMALL";
        case INNERQ_CAPACITY_EXCEEDED:
            return "INNERQ_CAPACITY_EXCEEDED";
        case INNERQ_CUDA_ERROR:
            return "INNERQ_CUDA_ERROR";
    }
    return "unknown innerq_status";
}
