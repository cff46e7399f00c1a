#include "session.h"

#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <utility>

using nvinfer1::DataType;
using nvinfer1::Dims;

namespace {

enum Profile { kPrefill = 0, kDecode = 1 };  // the order in which innerq-export adds them

void check(cudaError_t error, const char *what) {
    if (error != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

void require(bool good, const std::string &message) {
    if (!good) throw std::runtime_error(message);
}

size_t elements(const Dims &dims) {
    size_t count = 1;
    for (int32_t i = 0; i < dims.nbDims; ++i) count *= static_cast<size_t>(dims.d[i]);
    return count;
}

size_t bytes_of(DataType type) {
    if (type == DataType::kHALF || type == DataType::kBF16) return 2;
    return type == DataType::kINT64 ? 8 : 4;
}

}  // namespace

void Logger::log(Severity severity, nvinfer1::AsciiChar const *message) noexcept {
    if (severity <= Severity::kWARNING) fprintf(stderr, "%s\n", message);
}

DeviceBuffer::DeviceBuffer(size_t bytes) {
    if (bytes > 0) check(cudaMalloc(&data_, bytes), "cudaMalloc");
}

DeviceBuffer::~DeviceBuffer() { cudaFree(data_); }

DeviceBuffer::DeviceBuffer(DeviceBuffer &&other) noexcept : data_(std::exchange(other.data_, nullptr)) {}

DeviceBuffer &DeviceBuffer::operator=(DeviceBuffer &&other) noexcept {
    std::swap(data_, other.data_);
    return *this;
}

void DeviceBuffer::upload(const void *data, size_t bytes, cudaStream_t stream) {
    check(cudaMemcpyAsync(data_, data, bytes, cudaMemcpyHostToDevice, stream), "upload");
}

void DeviceBuffer::download(void *data, size_t bytes, cudaStream_t stream) const {
    check(cudaMemcpyAsync(data, data_, bytes, cudaMemcpyDeviceToHost, stream), "download");
}

Session::Session(const std::filesystem::path &folder) {
    load(folder);
    check(cudaStreamCreate(&stream_), "cudaStreamCreate");
    context_.reset(engine_->createExecutionContext());
    require(context_ != nullptr, "no execution context: too little GPU memory? See the log above");
    allocate_caches();
}

Session::~Session() {
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

void Session::load(const std::filesystem::path &folder) {
    const std::filesystem::path plan = folder / "model.engine", library = folder / "libinnerq_trt.so";
    std::ifstream file(plan, std::ios::binary);
    require(file.good(), "cannot read " + plan.string() + "; make it: innerq-export build --backend tensorrt");
    require(std::filesystem::exists(library), "no " + library.string() + " beside the engine");
    const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    check(cudaFree(nullptr), "no CUDA card to run on");  // without one createInferRuntime returns a bad pointer (11.4)
    runtime_.reset(nvinfer1::createInferRuntime(logger_));
    require(runtime_ != nullptr, "TensorRT does not start here");
    require(runtime_->getPluginRegistry().loadLibrary(library.c_str()) != nullptr,
            library.string() + " was refused; `innerq-export doctor " + folder.string() + "` says why");
    engine_.reset(runtime_->deserializeCudaEngine(bytes.data(), bytes.size()));
    require(engine_ != nullptr, plan.string() + " was built for another TensorRT or card; build it again here");
}

// One buffer per cache tensor, as large as the profile allows, for one sequence.
void Session::allocate_caches() {
    for (int32_t i = 0; i < engine_->getNbIOTensors(); ++i) {
        const std::string name = engine_->getIOTensorName(i);
        const bool cache = name.rfind("past_", 0) == 0 && name != "past_length";
        if (!cache) continue;
        Dims shape = engine_->getProfileShape(name.c_str(), kDecode, nvinfer1::OptProfileSelector::kMAX);
        shape.d[0] = 1;
        const size_t count = elements(shape);
        const size_t bytes = count * bytes_of(engine_->getTensorDataType(name.c_str()));
        DeviceBuffer &buffer = caches_[name] = DeviceBuffer(bytes);
        check(cudaMemsetAsync(buffer.data(), 0, bytes, stream_), "cudaMemset");
        if (name.rfind("past_key_norm_", 0) == 0) {
            const std::vector<__half> ones(count, __float2half(1.0F));
            buffer.upload(ones.data(), bytes, stream_);
            check(cudaStreamSynchronize(stream_), "upload");
        }
        const std::string present = "present_" + name.substr(5);
        require(context_->setInputShape(name.c_str(), shape) &&
                    context_->setTensorAddress(name.c_str(), buffer.data()) &&
                    context_->setTensorAddress(present.c_str(), buffer.data()),
                "cannot bind " + name + " and " + present);
    }
}

void Session::bind(const std::string &name, const void *data, size_t bytes, const Dims &shape) {
    DeviceBuffer &buffer = fed_[name] = DeviceBuffer(bytes);
    buffer.upload(data, bytes, stream_);
    require(context_->setInputShape(name.c_str(), shape) && context_->setTensorAddress(name.c_str(), buffer.data()),
            "cannot bind " + name + ": longer than the engine's profile?");
}

int64_t Session::step(const std::vector<int64_t> &ids) {
    const auto tokens = static_cast<int32_t>(ids.size());
    require(tokens > 0, "a step needs at least one token");
    require(context_->setOptimizationProfileAsync(tokens == 1 ? kDecode : kPrefill, stream_), "no such profile");
    std::vector<int64_t> positions(ids.size());
    for (int32_t i = 0; i < tokens; ++i) positions[static_cast<size_t>(i)] = past_ + i;
    const Dims rows{2, {1, tokens}}, one{1, {1}};
    bind("input_ids", ids.data(), ids.size() * sizeof ids[0], rows);
    bind("position_ids", positions.data(), positions.size() * sizeof positions[0], rows);
    bind("past_length", &past_, sizeof past_, one);
    bind("new_length", &tokens, sizeof tokens, one);

    const Dims shape = context_->getTensorShape("logits");  // [1, 1, vocabulary], fp16
    const size_t vocabulary = elements(shape);
    std::vector<__half> logits(vocabulary);
    if (logits_.data() == nullptr) logits_ = DeviceBuffer(vocabulary * sizeof logits[0]);
    require(context_->setTensorAddress("logits", logits_.data()), "cannot bind logits");
    require(context_->enqueueV3(stream_), "the engine failed; the log above names op and reason");
    logits_.download(logits.data(), vocabulary * sizeof logits[0], stream_);
    check(cudaStreamSynchronize(stream_), "step");
    past_ += tokens;
    const auto best = std::max_element(logits.begin(), logits.end(), [](const __half &a, const __half &b) {
        return __half2float(a) < __half2float(b);
    });
    return best - logits.begin();
}
