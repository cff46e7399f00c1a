// What the host program holds between commands, and how a command reads its words and writes its answer.
#pragma once

#include <map>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "fake_tensorrt.h"

namespace host {

struct Buffer {
    void *data = nullptr;
    size_t bytes = 0;
};

struct World {
    void *library = nullptr;
    std::vector<nvinfer1::IPluginCreatorV3One *> creators;
    std::map<std::string, std::unique_ptr<nvinfer1::IPluginV3>> plugins;
    std::map<std::string, Buffer> buffers;
    std::map<std::string, void *> streams{{"0", nullptr}};
    std::map<std::string, void *> graphs;
    Logger logger;
    Context context;

    nvinfer1::IPluginV3 &plugin(const std::string &name);
    nvinfer1::IPluginV3OneCore &core(const std::string &name);
    nvinfer1::IPluginV3OneBuildV2 &build(const std::string &name);
    nvinfer1::IPluginV3OneRuntime &runtime(const std::string &name);
    void *address(const std::string &buffer);  // "null" is NULL

    template <typename Function>
    Function *function(const char *name) {
        return reinterpret_cast<Function *>(symbol(name));
    }

  private:
    void *symbol(const char *name);
};

// Words of one command line.
class Words {
  public:
    explicit Words(const std::string &line) : stream_(line) {}
    std::string text();
    int64_t integer();
    double real();

  private:
    std::istringstream stream_;
};

// A JSON object in the making; keys are never repeated.
class Answer {
  public:
    void add(const std::string &key, const std::string &text);
    void add(const std::string &key, int64_t value);
    void add(const std::string &key, const std::vector<std::string> &texts);
    std::string json() const { return "{" + fields_ + "}"; }

  private:
    void raw(const std::string &key, const std::string &json);
    std::string fields_;
};

using Command = void (*)(World &, Words &, Answer &);
std::map<std::string, Command> build_commands();
std::map<std::string, Command> run_commands();
std::map<std::string, Command> abi_commands();

// "half", "bf16", "int32", ... as DataType; a number is taken as it is.
nvinfer1::DataType data_type(const std::string &word);
nvinfer1::Dims read_dims(Words &words);  // rank d0 d1 ...

}  // namespace host
