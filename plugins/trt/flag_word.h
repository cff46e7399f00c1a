// A word that kernels set and the host reads without waiting for the stream: pinned memory mapped into the device, or
// plain memory in the host build.
#pragma once

#include <cstdint>

namespace innerq::trt {

class FlagWord {
  public:
    FlagWord() = default;
    FlagWord(const FlagWord &) = delete;
    FlagWord &operator=(const FlagWord &) = delete;
    ~FlagWord();

    // Returns 0, or non-zero with the reason in `reason` (static memory); the word then stays absent.
    int32_t allocate(const char **reason) noexcept;

    // Address for kernels; NULL before `allocate`.
    int32_t *device() const noexcept { return device_; }

    // The bits that kernels have set so far, which are cleared.
    int32_t take() noexcept;

  private:
    int32_t *host_ = nullptr;
    int32_t *device_ = nullptr;
};

}  // namespace innerq::trt
