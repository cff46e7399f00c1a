// How an op is described: what op_tables.h holds, generated from the op table of the Python package.
#pragma once

#include <cstdint>

namespace innerq::trt {

// Sizes a call has. kWindow, kPair and kWords follow from the others and the attributes; the rest come from the tensors.
enum Symbol : int8_t { kB, kHq, kHkv, kS, kD, kNB, kWindow, kPair, kWords, kSymbols };
inline constexpr const char *kSymbolNames[kSymbols] = {"B", "Hq", "Hkv", "S", "D", "NB", "W", "2", "words"};

// kActivation is fp16 or bf16, the same one for all tensors of a node.
enum class Kind : int8_t { kActivation, kHalf, kInt32 };

inline constexpr int kMaxRank = 5;
inline constexpr int kMaxTensors = 8;

struct TensorSpec {
    const char *name;
    Kind kind;
    int32_t rank;
    Symbol dims[kMaxRank];
};

enum class FieldKind : int8_t { kInt, kFloat, kText };

struct FieldSpec {
    const char *name;
    FieldKind kind;
};

inline constexpr int kMaxFields = 16;

struct OpSpec {
    const char *name;
    const TensorSpec *inputs;
    int32_t input_count;
    const TensorSpec *outputs;
    int32_t output_count;
    const int32_t *aliases;  // of every output: the input whose memory it is, or -1
    const FieldSpec *fields;
    int32_t field_count;
};

}  // namespace innerq::trt
