// raised_code_of_short and raised_code against a division and a rounding, for every fp16 number by every fp16 scale that
// can meet it, and for bf16 numbers of the same size. Prints how many codes differ.
#include <cstdio>

#include "innerq/quantise.cuh"

using namespace innerq;

__device__ int differs(float code, float x, float divisor, const CodeRange &range) {
    return float_bits(code) != float_bits(ieee::add(ieee::divide(x, divisor), range.offset + ieee::kRounder));
}

__device__ int wrong_codes(float x, float scale, int bits) {
    const CodeRange range = range_of(kSymmetricFull, bits);
    const float inverse = ieee::inverse_of(scale);
    return differs(raised_code_of_short(x, scale, inverse, range), x, scale, range) +
           differs(raised_code(x, scale, inverse, range), x, scale, range);
}

__global__ void check(unsigned long long *wrong, float most) {
    unsigned long long mine = 0;
    for (unsigned s = 1 + blockIdx.x; s < 0x7c00; s += gridDim.x) {
        for (unsigned x = threadIdx.x; x < 0x7c00; x += blockDim.x) {
            const float scale = from_half(s), number = from_half(x);
            if (number > most * scale) break;
            for (int bits = 2; bits <= 8; bits *= 2) {
                mine += wrong_codes(number, scale, bits) + wrong_codes(-number, scale, bits);
                mine += wrong_codes(number, -scale, bits);
                mine += wrong_codes(bits_float(float_bits(number) & 0xffff0000u), scale, bits);
            }
        }
    }
    if (mine != 0) atomicAdd(wrong, mine);
}

int main(int count, char **) {
    unsigned long long *wrong;
    cudaMallocManaged(&wrong, sizeof *wrong);
    *wrong = 0;
    check<<<1320, 256>>>(wrong,
                         count > 1 ? 4000.0f : 192.0f);  // 192: 128 steps of a scale that rounding made 1.5 smaller
    const cudaError_t error = cudaDeviceSynchronize();
    std::printf("%llu wrong, %s\n", *wrong, cudaGetErrorString(error));
}
