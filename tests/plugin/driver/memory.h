// Memory and streams of the machine under test: the GPU's, or plain memory where the plugin is the host build.
#pragma once

#include <cstddef>

namespace host {

void *allocate(size_t bytes);  // throws std::runtime_error
void release(void *data);
void upload(void *to, const void *from, size_t bytes);
void download(void *to, const void *from, size_t bytes);

void *make_stream();
void synchronise(void *stream);

// Work issued into `stream` between the two is recorded, not done; `replay` does it.
void begin_capture(void *stream);
void *end_capture(void *stream);
void replay(void *graph, void *stream);

// Error that CUDA keeps for this thread, which is cleared; "" for none.
const char *last_error();

}  // namespace host
