// Status codes with a message per thread. Nothing here throws or allocates.
#pragma once

#include "innerq.h"

namespace innerq {

// Formats the message of this thread (printf style) and returns `status`.
__attribute__((format(printf, 2, 3))) innerq_status fail(innerq_status status, const char *format, ...);

}  // namespace innerq

// Hands a failed check on to the caller.
#define INNERQ_TRY(call)                                              \
    do {                                                              \
        const innerq_status innerq_try_status = (call);               \
        if (innerq_try_status != INNERQ_OK) return innerq_try_status; \
    } while (false)
