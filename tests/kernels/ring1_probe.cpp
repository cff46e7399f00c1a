// Ring 1's conversions and bit places as plain loops, for tests by ctypes.
#include "innerq/tile.cuh"

extern "C" {

void probe_to_half(const float *from, uint16_t *to, int64_t count) {
    for (int64_t i = 0; i < count; ++i) to[i] = innerq::to_half(from[i]);
}

void probe_from_half(const uint16_t *from, float *to, int64_t count) {
    for (int64_t i = 0; i < count; ++i) to[i] = innerq::from_half(from[i]);
}

void probe_to_bfloat(const float *from, uint16_t *to, int64_t count) {
    for (int64_t i = 0; i < count; ++i) to[i] = innerq::to_bfloat(from[i]);
}

// Bit index from the part's start of bit i of every code, [bits, 32 tokens, D].
void probe_code_bits(int keys, int bits, int head_dim, int64_t *places) {
    for (int i = 0; i < bits; ++i)
        for (int token = 0; token < 32; ++token)
            for (int channel = 0; channel < head_dim; ++channel) {
                const int c = channel % 32, tiles = head_dim / 32;
                const innerq::Slot slot = keys ? innerq::key_slot(token, c) : innerq::value_slot(c, token);
                const innerq::BitPlace at = innerq::bit_place(bits, slot.cls, slot.sub, i);
                const int word = innerq::code_word(tiles, bits, channel / 32, slot.lane, at.word);
                places[(i * 32 + token) * head_dim + channel] = 32 * int64_t{word} + at.bit + 16 * slot.half;
            }
}
}
