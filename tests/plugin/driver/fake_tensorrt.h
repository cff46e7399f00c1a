// The parts of TensorRT that a plugin sees and that no public function makes: expressions, contexts, the logger.
#pragma once

#include <NvInferRuntime.h>

#include <deque>
#include <string>
#include <vector>

namespace host {

// A dimension with a label instead of a value ("B", "64"): shows which input a dimension of an output came from.
class Expression : public nvinfer1::IDimensionExpr {
  public:
    explicit Expression(std::string text) : label(std::move(text)) {}
    std::string label;
};

class ExpressionBuilder : public nvinfer1::IExprBuilder {};

struct Context : nvinfer1::IPluginResourceContext {
    nvinfer1::IGpuAllocator *getGpuAllocator() const noexcept override { return nullptr; }
    nvinfer1::IErrorRecorder *getErrorRecorder() const noexcept override { return nullptr; }
};

// Keeps what the plugin says until `take`.
class Logger : public nvinfer1::ILogger, public nvinfer1::ILoggerFinder {
  public:
    void log(Severity severity, nvinfer1::AsciiChar const *message) noexcept override;
    nvinfer1::ILogger *findLogger() override { return this; }
    std::vector<std::string> take();

  private:
    std::vector<std::string> messages_;
};

}  // namespace host
