// One sequence decoded by an InnerQ engine: the engine, its plugin, and the caches it updates in place.
#pragma once

#include <NvInferRuntime.h>

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

struct Logger : nvinfer1::ILogger {
    void log(Severity severity, nvinfer1::AsciiChar const *message) noexcept override;
};

// Memory on the GPU, freed with the object.
class DeviceBuffer {
  public:
    explicit DeviceBuffer(size_t bytes = 0);
    ~DeviceBuffer();
    DeviceBuffer(DeviceBuffer &&other) noexcept;
    DeviceBuffer &operator=(DeviceBuffer &&other) noexcept;

    void upload(const void *data, size_t bytes, cudaStream_t stream);
    void download(void *data, size_t bytes, cudaStream_t stream) const;
    void *data() const { return data_; }

  private:
    void *data_ = nullptr;
};

// Throws std::runtime_error with what to do about it. Not for use by two threads at a time.
class Session {
  public:
    // `folder` as `innerq-export build --backend tensorrt` writes it: model.engine beside libinnerq_trt.so.
    explicit Session(const std::filesystem::path &folder);
    ~Session();

    // Feeds token ids (the prompt, then one at a time) and returns the most likely next one.
    int64_t step(const std::vector<int64_t> &ids);

  private:
    void load(const std::filesystem::path &folder);
    void allocate_caches();
    void bind(const std::string &name, const void *data, size_t bytes, const nvinfer1::Dims &shape);

    Logger logger_;
    std::unique_ptr<nvinfer1::IRuntime> runtime_;
    std::unique_ptr<nvinfer1::ICudaEngine> engine_;
    std::unique_ptr<nvinfer1::IExecutionContext> context_;
    std::map<std::string, DeviceBuffer> caches_;  // past_*: bound as past_* and as present_*
    std::map<std::string, DeviceBuffer> fed_;
    DeviceBuffer logits_;
    cudaStream_t stream_ = nullptr;
    int32_t past_ = 0;
};
