#!/bin/sh
# Builds the plugin library and the program that drives it without TensorRT, for parity's rung "plugin":
#   scripts/build_plugin_host.sh TENSORRT_INCLUDE_DIR [ON|OFF]     ON: with the CUDA kernels, for a machine with a card
set -eu
include=${1:?"the folder of NvInfer.h, for example /usr/local/tensorrt/include"} cuda=${2:-OFF}
root=$(cd "$(dirname "$0")/.." && pwd)
for pair in plugins:library tests/plugin/driver:program; do
    build="$root/build/plugin_host/${pair#*:}"
    cmake -S "$root/${pair%:*}" -B "$build" -DTENSORRT_INCLUDE_DIR="$include" -DINNERQ_CUDA="$cuda" \
        -DCMAKE_BUILD_TYPE=Release
    cmake --build "$build" --parallel 2
done
