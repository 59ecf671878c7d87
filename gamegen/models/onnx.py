"""Compilation of networks with ONNX Runtime, which fuses the many small operations of a small network on a CPU.

A graph holds no weights: they are added when it is loaded, so one graph serves every checkpoint of its structure.
Exporting one takes a minute or two: the graphs of the shipped model come with the package, `gamegen compile` exports
others into `$GAMEGEN_CACHE`, or the user's cache folder. No graph is trusted: before it is used, its outputs are
compared with the network's.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from filelock import FileLock
from torch import Tensor, nn
from torch.func import functional_call

from gamegen import folders
from gamegen.files import write_atomically
from gamegen.models.int8_graph import quantise_linears

logger = logging.getLogger(__name__)

GRAPHS_FOLDER = Path(__file__).parent.parent / "weights" / "graphs"
"""Folder of the graphs that come with the package."""
KEPT_GRAPHS = 12
"""Number of graphs kept in the cache folder; the least recently used are deleted first."""
OPSET = 23
"""First version with rotary embeddings, RMS norms and attention as single operations."""
_WEIGHT = "weight "
"""Prefix of the names of graph inputs that are weights of the module."""
DynamicAxes = Sequence[Sequence[int]]


class CompiledModule:
    """A module run by ONNX Runtime on the CPU, with as many threads as PyTorch has at construction.

    The linear layers named in `quantised` are computed in int8.
    """

    def __init__(self, graph: onnx.ModelProto, module: nn.Module, quantised: Sequence[str] = ()) -> None:
        self._graph = graph
        model = _with_weights(graph, module)
        if quantised:
            quantise_linears(model, {f"{_WEIGHT}{name}.weight" for name in quantised})
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Waking a sleeping thread takes as long as a small operation, so threads spin within a run. Between runs they
        # must not: PyTorch and other sessions need the cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._inputs = [entry.name for entry in self._session.get_inputs()]

    def __call__(self, *tensors: Tensor) -> list[Tensor]:
        """Outputs of the module."""
        feed = {name: tensor.numpy() for name, tensor in zip(self._inputs, tensors, strict=True)}
        return [torch.from_numpy(array) for array in self._session.run(None, feed)]

    def in_int8(self, module: nn.Module, layers: Sequence[str]) -> CompiledModule:
        """The module with the linear layers named in `layers` in int8."""
        return CompiledModule(self._graph, module, layers)


def compiled(
    name: str,
    module: nn.Module,
    example: Sequence[Tensor],
    dynamic_axes: DynamicAxes,
    may_export: bool,
) -> CompiledModule | None:
    """The compiled module; None if no valid graph of it is kept and `may_export` is false.

    `example` are float32 or bool inputs. `dynamic_axes` lists, for each input, the axes whose length may change from
    call to call; they must be longer than 1 in the example. All other axes keep their length. Raises RuntimeError if
    the outputs of ONNX Runtime differ from the module's.
    """
    file_name = graph_name(name, module, example)
    if not may_export and not is_kept(name, module, example):
        return None
    random = torch.Generator().manual_seed(0)
    inputs = [x if x.dtype == torch.bool else torch.rand(x.shape, generator=random) for x in example]
    # Computed before the export, so that the networks' caches hold tensors and not the exporter's placeholders.
    expected = _outputs(module, inputs)
    found = _kept(file_name, module, inputs, expected)
    if found is not None or not may_export:
        return found
    path = cache_folder() / file_name
    folders.create_folder(path.parent, "set GAMEGEN_CACHE to a folder that this user can write to")
    with FileLock(f"{path}.lock"):
        # Another process may have exported it while this one waited.
        return _kept(file_name, module, inputs, expected) or _export(
            module, inputs, expected, dynamic_axes, path
        )


def is_kept(name: str, module: nn.Module, example: Sequence[Tensor]) -> bool:
    """Whether a graph of this structure is kept, valid or not."""
    file_name = graph_name(name, module, example)
    return any((folder / file_name).exists() for folder in _folders())


def _kept(
    file_name: str, module: nn.Module, inputs: Sequence[Tensor], expected: Sequence[Tensor]
) -> CompiledModule | None:
    """The module compiled from a kept graph whose outputs are as expected, or None."""
    for folder in _folders():
        path = folder / file_name
        if not path.exists():
            continue
        found = CompiledModule(onnx.load(path), module)
        if _are_close(found(*inputs), expected):
            if folder == cache_folder():
                # Its time says that it is still used, which a cache that came with the machine need not know.
                with contextlib.suppress(OSError):
                    path.touch()
            return found
        logger.warning("%s computes something else than this code and is not used; run gamegen compile", path)
    return None


def _export(
    module: nn.Module,
    inputs: Sequence[Tensor],
    expected: Sequence[Tensor],
    dynamic_axes: DynamicAxes,
    path: Path,
) -> CompiledModule:
    """The module compiled from a newly exported graph, which is written to `path`."""
    graph = _graph(module, inputs, dynamic_axes).SerializeToString()
    found = CompiledModule(onnx.ModelProto.FromString(graph), module)
    if not _are_close(found(*inputs), expected):
        raise RuntimeError(f"ONNX Runtime computes something else than {path.stem}: use compiled=false")
    with write_atomically(path, is_shared=True) as partial:
        partial.write_bytes(graph)
    graphs = sorted(path.parent.glob("*.onnx"), key=lambda file: file.stat().st_mtime)
    for old in graphs[:-KEPT_GRAPHS]:
        old.unlink(missing_ok=True)
    return found


@torch.inference_mode()
def _outputs(module: nn.Module, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    found = module(*inputs)
    return (found,) if isinstance(found, Tensor) else found


def _are_close(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Whether two results differ by rounding at most."""
    return [x.shape for x in found] == [x.shape for x in expected] and all(
        bool((x - y).norm() <= 1e-4 * y.norm()) for x, y in zip(found, expected, strict=True)
    )


def cache_folder() -> Path:
    """Folder of the graphs that were exported on this machine."""
    folder = os.environ.get("GAMEGEN_CACHE")
    return Path(folder) if folder else folders.cache_folder()


def _folders() -> tuple[Path, Path]:
    """Folders of graphs in the order in which they are searched."""
    return cache_folder(), GRAPHS_FOLDER


def graph_name(name: str, module: nn.Module, example: Sequence[Tensor]) -> str:
    """File name of the graph of a module's structure."""
    structure = [(weight_name, tuple(weight.shape)) for weight_name, weight in module.state_dict().items()]
    inputs = [(tuple(tensor.shape), str(tensor.dtype)) for tensor in example]
    return f"{name}-{hashlib.sha256(repr((structure, inputs)).encode()).hexdigest()[:20]}.onnx"


class _Functional(nn.Module):
    """A module whose weights are its first inputs."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        # In a list, so that the exporter does not register its weights as constants.
        self._module = [module]

    def forward(self, weights: dict[str, Tensor], tensors: tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        return functional_call(self._module[0], weights, tensors)


def _graph(module: nn.Module, example: Sequence[Tensor], dynamic_axes: DynamicAxes) -> onnx.ModelProto:
    """Exports the graph of a module's structure."""
    weights = {name: weight.detach().clone() for name, weight in module.state_dict().items()}
    tensors = tuple(tensor.clone() for tensor in example)
    dynamic = tuple(dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for axes in dynamic_axes)
    fixed: dict[str, dict] = {name: {} for name in weights}
    names = [*(_WEIGHT + name for name in weights), *(f"input {i}" for i in range(len(tensors)))]
    # The exporter logs missing optional packages and coming changes of PyTorch at length.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _Functional(module).eval(),
            (weights, tensors),
            input_names=names,
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=(fixed, dynamic),
            verbose=False,
        )
    assert program is not None
    return _bare(program.model_proto)


def _bare(model: onnx.ModelProto) -> onnx.ModelProto:
    """Removes source locations and intermediate shapes from a graph."""
    del model.graph.value_info[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    del model.metadata_props[:], model.graph.metadata_props[:]
    return model


def _with_weights(graph: onnx.ModelProto, module: nn.Module) -> onnx.ModelProto:
    """A copy of the graph whose weight inputs are replaced by a module's weights."""
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    used = {name for node in model.graph.node for name in node.input}
    inputs = [entry for entry in model.graph.input if not entry.name.startswith(_WEIGHT)]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    for name, weight in module.state_dict().items():
        if _WEIGHT + name in used:
            array = np.ascontiguousarray(weight.numpy())
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, _WEIGHT + name))
    return model
