// The parts of a record, and scales and zeros in them.
#pragma once

#include "innerq/quantise.cuh"
#include "innerq/tile.cuh"

namespace innerq {

// Parts of one record that belong to the keys or to the values.
struct TileParts {
    uint32_t *codes;
    uint16_t *scales, *zeros;  // zeros: NULL where the mode has none
    int tiles, bits, mode;
};

INNERQ_HD inline TileParts parts_of(const CacheParams &cache, uint8_t *record, int part) {
    const PartPlan &plan = cache.parts[part];
    return {reinterpret_cast<uint32_t *>(record + plan.codes),
            reinterpret_cast<uint16_t *>(record + plan.scales),
            plan.zeros < 0 ? nullptr : reinterpret_cast<uint16_t *>(record + plan.zeros),
            cache.head_dim / kGroup,
            plan.bits,
            plan.mode};
}

// fp16 index of a group's scale in its part; `group` is a token of a key tile or a channel of a value tile.
INNERQ_HD inline int group_scale_index(const TileParts &parts, int part, int tile, int group) {
    return part == kKeys ? key_scale_index(parts.tiles, tile, group)
                         : value_scale_index(parts.tiles, kGroup * tile + group);
}

INNERQ_HD inline void store_scale(const TileParts &parts, int part, int tile, int group, GroupScale scale) {
    const int index = group_scale_index(parts, part, tile, group);
    parts.scales[index] = scale.scale;
    if (parts.zeros != nullptr) parts.zeros[index] = scale.zero;
}

INNERQ_HD inline GroupScale load_scale(const TileParts &parts, int part, int tile, int group) {
    const int index = group_scale_index(parts, part, tile, group);
    return {parts.scales[index], parts.zeros != nullptr ? parts.zeros[index] : static_cast<uint16_t>(0)};
}

// Group whose codes are in (lane, sub) of the record.
INNERQ_HD constexpr int slot_group(int part, int lane, int sub) {
    return part == kKeys ? key_slot_token(lane, sub) : value_slot_channel(lane, sub);
}

}  // namespace innerq
