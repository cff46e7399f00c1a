#include "fake_tensorrt.h"

namespace host {

void Logger::log(Severity severity, nvinfer1::AsciiChar const *message) noexcept {
    messages_.push_back((severity <= Severity::kERROR ? "error: " : "note: ") + std::string(message));
}

std::vector<std::string> Logger::take() {
    std::vector<std::string> messages;
    messages.swap(messages_);
    return messages;
}

}  // namespace host
