// Which tile of every block: 32 tokens of 32 neighbouring channels of keys or of values.
#pragma once

#include "innerq/cache.cuh"

namespace innerq {

struct TilePlace {
    int batch, head, part, tile;  // `tile` counts 32 channels
};

}  // namespace innerq
