"""Stands in for TensorRT where only TensorRT-RTX can be had: its parser and builder are real, its registry records."""

import json
import os
from pathlib import Path

import tensorrt_rtx
from tensorrt_rtx import *  # noqa: F403

__version__ = "11.4.0"
SEEN = Path(os.environ["STAND_IN_SEEN"])
loaded: list[str] = []


class _Registry:
    all_creators = ()

    def load_library(self, path):
        loaded.append(path)
        return None if "refused" in path else object()


def get_plugin_registry():
    return _Registry()


class Builder(tensorrt_rtx.Builder):
    def build_serialized_network_to_stream(self, network, config, writer):
        aliased = config.get_preview_feature(tensorrt_rtx.PreviewFeature.ALIASED_PLUGIN_IO_10_03)
        SEEN.write_text(
            json.dumps({"loaded": loaded, "aliased": aliased, "profiles": config.num_optimization_profiles})
        )
        return super().build_serialized_network_to_stream(network, config, writer)
