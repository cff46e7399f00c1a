#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "memory.h"

namespace host {

void *allocate(size_t bytes) {
    void *data = std::aligned_alloc(256, (bytes + 255) / 256 * 256 + 256);
    if (data == nullptr) throw std::runtime_error("out of memory");
    return data;
}

void release(void *data) { std::free(data); }
void upload(void *to, const void *from, size_t bytes) { std::memcpy(to, from, bytes); }
void download(void *to, const void *from, size_t bytes) { std::memcpy(to, from, bytes); }
void *make_stream() { return nullptr; }
void synchronise(void *) {}
void begin_capture(void *) { throw std::runtime_error("no graphs without a GPU"); }
void *end_capture(void *) { throw std::runtime_error("no graphs without a GPU"); }
void replay(void *, void *) { throw std::runtime_error("no graphs without a GPU"); }
const char *last_error() { return ""; }

}  // namespace host
