#include <new>

#include "flag_word.h"

namespace innerq::trt {

FlagWord::~FlagWord() { delete host_; }

int32_t FlagWord::allocate(const char **reason) noexcept {
    host_ = device_ = new (std::nothrow) int32_t(0);
    *reason = "out of memory";
    return host_ == nullptr;
}

int32_t FlagWord::take() noexcept {
    if (host_ == nullptr) return 0;
    const int32_t bits = *host_;
    *host_ = 0;
    return bits;
}

}  // namespace innerq::trt
