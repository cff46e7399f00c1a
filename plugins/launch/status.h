// Status codes with a message per thread. Nothing here throws or allocates.
#pragma once

#include "innerq.h"

namespace innerq {

// Formats the message of this thread (printf style) and returns `status`.
__attribute__((format(printf, 2, 3))) innerq_status fail(innerq_status status, const char *format, ...);

}  // namespace innerq
