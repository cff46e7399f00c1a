// Which tile of every block: 32 tokens of 32 neighbouring channels of keys or of values.
#pragma once

#include "innerq/cache.cuh"

namespace innerq {

struct TilePlace {
    int batch, head, part, tile;  // `tile` counts 32 channels
};

// A window slot, from channel 0 of the tile on.
INNERQ_HD inline uint16_t *slot_row(const CacheParams &cache, TilePlace at, int slot) {
    return window_row(cache, at.batch, at.part, at.head, slot) + kGroup * at.tile;
}

// Lambda of channel 0 of a key tile.
INNERQ_HD inline uint16_t *lambda_place(const CacheParams &cache, TilePlace at) {
    return lambda_row(cache, at.batch, at.head) + kGroup * at.tile;
}

}  // namespace innerq
