"""The graph and its rewrites, each made when something first needs it: a build that reuses everything makes none."""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from innerq_export.artifacts import Checkpoint, Graph, OnnxModel, WeightFile
from innerq_export.engine import BACKENDS, PLUGIN_ONNX_NAME, BuildRequest
from innerq_export.engine.ledger import Ledger
from innerq_export.engine.strict import decode
from innerq_export.graph import TraceStore, export_graph
from innerq_export.onnx_io import MODEL_NAME, save_onnx, share_weights
from innerq_export.progress import Progress
from innerq_export.rewrite import RewriteReport, prepare_for_rtx, rewrite

if TYPE_CHECKING:
    import onnx_ir as ir

EXPORT = "export"


class Networks:
    """What `source` becomes for `request`: a stage of `ledger` for each file, under `key` (see engine.keys)."""

    def __init__(
        self, source: Checkpoint | Graph, request: BuildRequest, ledger: Ledger, key: str, progress: Progress
    ) -> None:
        self._source, self._request, self._ledger = source, request, ledger
        self._key, self._progress = key, progress

    def native(self, folder: Path) -> tuple[OnnxModel, dict[str, int]]:
        """Return model.onnx in `folder`, as ONNX Runtime reads it, and how often each rule of the rewrite applied."""

        def work() -> dict[str, Any]:
            model, report = self._native
            copy = self._request.copy_weights
            return _told(self._save(model, folder, MODEL_NAME, "native", copy)) | {"rewrites": report.counts}

        made = self._ledger.run(MODEL_NAME, self._key, work)
        return self._saved(folder / MODEL_NAME, "native", made), made["rewrites"]

    def plugin(self, folder: Path, first: OnnxModel) -> OnnxModel:
        """Return model.plugin.onnx in `folder`, as TensorRT reads it; it shares the weights of `first`, model.onnx."""

        def work() -> dict[str, Any]:
            return _told(self._save(self._beside("tensorrt", first), folder, PLUGIN_ONNX_NAME, "plugin"))

        made = self._ledger.run(PLUGIN_ONNX_NAME, self._key, work)
        return self._saved(folder / PLUGIN_ONNX_NAME, "plugin", made)

    def for_rtx(self, folder: Path, first: OnnxModel) -> OnnxModel:
        """Write the model as TensorRT-RTX reads it into `folder`, sharing the weights of `first`; nothing is kept."""
        return self._save(self._beside("tensorrt-rtx", first), folder, MODEL_NAME, "native")

    def close(self) -> None:
        """Keep the export that an earlier build made, where nothing needed it again."""
        if EXPORT not in self._ledger.stages:
            self._ledger.take(EXPORT, self._key)

    @cached_property
    def graph(self) -> Graph:
        """The decoder before the rewrite."""
        source = self._source
        if isinstance(source, Graph):
            return source
        store, graphs = TraceStore(wanted=not self._request.fresh), []

        def work() -> dict[str, float]:
            graphs.append(export_graph(source, self._request.dtype, self._progress, store=store))
            return {"saved": store.saved}

        self._ledger.make(EXPORT, self._key, work)
        return graphs[0]

    @cached_property
    def _native(self) -> tuple[ir.Model, RewriteReport]:
        return self._rewritten("onnxruntime")

    def _rewritten(self, backend: str) -> tuple[ir.Model, RewriteReport]:
        graph, request = self.graph, self._request
        flavour = "attention" if backend == "tensorrt-rtx" and graph.dtype == "float16" else "matmul"
        with self._progress.stage(f"rewriting for {backend}"):
            return rewrite(graph, request.cache, BACKENDS[backend].lowering, request.logits, flavour)

    def _beside(self, backend: str, first: OnnxModel) -> ir.Model:
        model, _ = self._rewritten(backend)
        model = prepare_for_rtx(model) if backend == "tensorrt-rtx" else model
        share_weights(model, self._native[0], first)
        return model

    def _save(self, model: ir.Model, folder: Path, name: str, lowering: str, copy: bool = False) -> OnnxModel:
        return save_onnx(
            model,
            folder,
            graph=self.graph,
            cache=self._request.cache,
            lowering=lowering,
            copy_weights=copy,
            progress=self._progress,
            name=name,
        )

    def _saved(self, path: Path, lowering: str, made: Any) -> OnnxModel:
        """Return the model that a stage wrote, now or in an earlier build, to `path`."""
        source, request = self._source, self._request
        dtype = source.dtype if isinstance(source, Graph) else request.dtype
        weights = decode(tuple[WeightFile, ...], made["weights"])
        return OnnxModel(path, lowering, request.cache, source.shape, dtype, made["digest"], weights)


def _told(model: OnnxModel) -> dict[str, Any]:
    return {"digest": model.digest, "weights": [asdict(file) for file in model.weights]}
