"""One safetensors file that holds the weights of a point network and everything needed to use them.

Nothing is unpickled. The file's metadata has one key, `mdkt_ros.checkpoint`, whose value is a JSON document (see
`CheckpointMeta.to_dict`); its tensors are `network.<name>` for the network's state and, where points can be asked for
by name, `text_embeddings` and `projection.<name>` for the projection head's state.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from mdkt_ros.checkpoint_meta import CheckpointMeta, OpenVocabulary, one_line
from mdkt_ros.errors import CheckpointError, MdktError
from mdkt_ros.network import PointNetwork, build_network
from mdkt_ros.output import atomic_output
from mdkt_ros.projection import ProjectionHead
from mdkt_ros.resources import shipped_checkpoints

__all__ = ["CheckpointMeta", "load_checkpoint", "load_projection", "read_meta", "save_checkpoint"]

MARKER = "mdkt_ros.checkpoint"
_PREFIX = "network."
_HEAD = "projection."
_TEXT = "text_embeddings"
_FLOATS = {"F16", "BF16", "F32", "F64"}
_INTEGERS = {"I64", "I32"}
_HALF_MAX = 65504.0


def _build(meta: CheckpointMeta) -> PointNetwork:
    return build_network(meta.preset, in_channels=len(meta.features), classes=len(meta.labels), width=meta.width)


def _expected(meta: CheckpointMeta) -> dict[str, torch.Tensor]:
    """Tensors that the file of the network that `meta` describes has, as shapes and dtypes without memory."""
    with torch.device("meta"):
        network = _build(meta)
        expected = {_PREFIX + name: value for name, value in network.state_dict().items()}
        if meta.open_vocabulary is not None:
            head = _build_head(network.feature_channels[1], meta.open_vocabulary)
            expected |= {_HEAD + name: value for name, value in head.state_dict().items()}
        return expected


def _build_head(in_channels: int, words: OpenVocabulary) -> ProjectionHead:
    return ProjectionHead(in_channels, words.hidden, words.dim)


def save_checkpoint(
    path: str | os.PathLike[str],
    network: PointNetwork,
    meta: CheckpointMeta,
    *,
    head: ProjectionHead | None = None,
    force: bool = False,
    dtype: Literal["float32", "float16"] = "float32",
) -> None:
    """Write `network` and `meta` to `path`, whole or not at all. The same input gives the same bytes.

    With `dtype="float16"` the convolution and linear weights take half the room; biases and statistics stay float32.
    `head` is the projection head that `meta.open_vocabulary` describes, if it describes one.

    Raises:
        CheckpointError: the network is not the one that `meta` describes, a weight is NaN, infinite or too large for
            float16, or the metadata is not JSON.
        OutputError: `path` exists and `force` is false, or cannot be written.
    """
    state = {_PREFIX + name: value.detach().cpu() for name, value in network.state_dict().items()}
    if head is not None:
        state |= {_HEAD + name: value.detach().cpu() for name, value in head.state_dict().items()}
    _compare({name: tuple(value.shape) for name, value in state.items()}, _expected(meta), meta, str(path))
    tensors: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        if value.is_floating_point():
            _refuse_not_finite(value, name, str(path))
            half = dtype == "float16" and value.ndim > 1
            if half and value.numel() and value.abs().max() > _HALF_MAX:
                raise CheckpointError(f"{path}: tensor {name!r} has values beyond float16; store it as float32")
            value = value.to(torch.float16 if half else torch.float32)
        tensors[name] = value.contiguous()
    if meta.open_vocabulary is not None and meta.text_embeddings is None:
        raise CheckpointError(f"{path}: a projection head without the text embeddings that it belongs to")
    if meta.text_embeddings is not None:
        tensors[_TEXT] = meta.text_embeddings.detach().float().cpu().contiguous()
        _check_text(tuple(meta.text_embeddings.shape), meta, str(path))
        _refuse_not_finite(tensors[_TEXT], _TEXT, str(path))
    try:
        document = json.dumps(meta.to_dict(), allow_nan=False, sort_keys=True, ensure_ascii=True)
        # What cannot be loaded again is not written: numbers out of range, a feature that does not exist.
        CheckpointMeta.from_dict(json.loads(document), str(path))
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: the metadata is not JSON: {one_line(error)}") from error
    data = save(tensors, metadata={MARKER: document})
    with atomic_output(path, force=force) as temporary:
        temporary.write_bytes(data)


def read_meta(path: str | os.PathLike[str]) -> CheckpointMeta:
    """Metadata of a checkpoint without its weights (`text_embeddings` is None). Raises CheckpointError."""
    with _open(Path(path)) as file:
        return _meta_of(file, str(path))


def load_checkpoint(
    path: str | os.PathLike[str], device: torch.device | str = "cpu"
) -> tuple[PointNetwork, CheckpointMeta]:
    """The network (float32, evaluation mode, on `device`) and the metadata of a checkpoint.

    Raises:
        CheckpointError: the file is missing, truncated, of another format or version, or what it holds does not fit
            together. The message names the file, and the key or tensor.
    """
    source = str(path)
    with _open(Path(path)) as file:
        meta = _meta_of(file, source)
        expected = _expected(meta)
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # not a dict
        shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
        has_text = _TEXT in shapes
        if has_text:
            _check_text(shapes.pop(_TEXT), meta, source)
        elif meta.open_vocabulary is not None:
            raise CheckpointError(f"{source}: tensor {_TEXT!r} is missing; a projection head belongs to it")
        _compare(shapes, expected, meta, source)
        state = {}
        for name, like in expected.items():
            if name.startswith(_HEAD):
                continue  # read by those who ask by name
            allowed = _FLOATS if like.is_floating_point() else _INTEGERS
            state[name.removeprefix(_PREFIX)] = _read(file, name, allowed, like.dtype, source)
        if has_text:
            meta = meta.with_text(_read(file, _TEXT, _FLOATS, torch.float32, source))
    # Only now, when the file has been found to hold as many bytes as the network takes.
    with torch.random.fork_rng(devices=[]):
        network = _build(meta)
    network.load_state_dict(state)
    return network.eval().requires_grad_(False).to(device), meta


def load_projection(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> ProjectionHead:
    """The projection head (float32, evaluation mode, on `device`) of a checkpoint that `load_checkpoint` can read.

    Raises:
        CheckpointError: it has none, or what it holds does not fit together.
    """
    source = str(path)
    with _open(Path(path)) as file:
        meta = _meta_of(file, source)
        if meta.open_vocabulary is None:
            raise CheckpointError(f"{source}: has no projection head")
        with torch.device("meta"):
            channels = _build(meta).feature_channels[1]
        with torch.random.fork_rng(devices=[]):
            head = _build_head(channels, meta.open_vocabulary)
        names = list(head.state_dict())
        head.load_state_dict({name: _read(file, _HEAD + name, _FLOATS, torch.float32, source) for name in names})
    return head.eval().requires_grad_(False).to(device)


def _refuse_not_finite(value: torch.Tensor, name: str, source: str) -> None:
    if not torch.isfinite(value).all():
        raise CheckpointError(f"{source}: tensor {name!r} has NaN or infinite values; the training went wrong")


def _read(file: Any, name: str, allowed: set[str], dtype: torch.dtype, source: str) -> torch.Tensor:
    kind = file.get_slice(name).get_dtype()
    if kind not in allowed:
        raise CheckpointError(
            f"{source}: tensor {name!r} has type {kind}, expected one of {', '.join(sorted(allowed))}"
        )
    value: torch.Tensor = file.get_tensor(name).to(dtype)
    if value.is_floating_point():
        _refuse_not_finite(value, name, source)
    return value


def _check_text(shape: tuple[int, ...], meta: CheckpointMeta, source: str) -> None:
    if len(shape) != 2 or shape[0] != len(meta.labels) or shape[1] < 1:
        raise CheckpointError(f"{source}: tensor {_TEXT!r} has shape {shape}, expected ({len(meta.labels)}, D)")
    if meta.open_vocabulary is not None and shape[1] != meta.open_vocabulary.dim:
        raise CheckpointError(
            f"{source}: tensor {_TEXT!r} has shape {shape}, but the projection head gives {meta.open_vocabulary.dim}"
        )


def _compare(
    shapes: dict[str, tuple[int, ...]], expected: dict[str, torch.Tensor], meta: CheckpointMeta, source: str
) -> None:
    """Raise CheckpointError that names the first tensor that is missing, misshapen or too many."""
    what = f"{meta.preset} at width {meta.width:g} with {len(meta.features)} features and {len(meta.labels)} classes"
    for name, like in expected.items():
        if name not in shapes:
            raise CheckpointError(f"{source}: tensor {name!r} is missing; {what} has it as {tuple(like.shape)}")
        if shapes[name] == tuple(like.shape):
            continue
        if name.startswith(f"{_PREFIX}classifier.") and shapes[name][1:] == tuple(like.shape)[1:]:
            raise CheckpointError(
                f"{source}: the network tells {shapes[name][0]} classes apart (tensor {name!r}), but the label space "
                f"{meta.labels.name!r} has {len(meta.labels)}"
            )
        raise CheckpointError(
            f"{source}: tensor {name!r} has shape {shapes[name]}, but {what} has it as {tuple(like.shape)}"
        )
    if unexpected := sorted(shapes.keys() - expected.keys()):
        raise CheckpointError(f"{source}: unexpected tensor {one_line(repr(unexpected[0]))}; {what} does not have it")


def _meta_of(file: Any, source: str) -> CheckpointMeta:
    document = (file.metadata() or {}).get(MARKER)
    if document is None:
        raise CheckpointError(
            f"{source}: a safetensors file, but not a checkpoint of mdkt_ros: its metadata lack the key {MARKER!r}"
        )
    try:
        data = json.loads(document, parse_constant=_refuse_constant)
        json.dumps(data, ensure_ascii=False).encode()  # lone surrogates would fail later, when a name is printed
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{source}: the metadata {MARKER!r} are not JSON: {one_line(error)}") from error
    try:
        return CheckpointMeta.from_dict(data, source)
    except RecursionError as error:
        raise CheckpointError(f"{source}: the metadata {MARKER!r} are nested too deeply") from error
    except CheckpointError:
        raise
    except MdktError as error:
        message = one_line(error)
        raise CheckpointError(message if message.startswith(source) else f"{source}: metadata: {message}") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """Open a safetensors file; every failure of the file itself becomes a CheckpointError that names it."""
    try:
        _refuse_other_formats(path)
        with safe_open(os.fspath(path), framework="pt", device="cpu") as file:
            yield file
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or one_line(error)}") from error
    except SafetensorError as error:
        raise CheckpointError(f"{path}: truncated or damaged safetensors file: {one_line(error)}") from error


def _refuse_other_formats(path: Path) -> None:
    if path.is_dir():
        raise CheckpointError(f"{path}: a folder; a checkpoint is one .safetensors file")
    if not path.exists():
        names = f", and none of that name ships with the package: {', '.join(shipped_checkpoints())} do"
        raise CheckpointError(f"{path}: no such file{'' if path.suffix else names}")
    if not path.is_file():
        raise CheckpointError(f"{path}: not a regular file; a checkpoint is one .safetensors file")
    with path.open("rb") as stream:
        head = stream.read(24)
    # A safetensors file may begin with any length, but then its JSON follows.
    if head[8:9] != b"{":
        if head.startswith(b"PK\x03\x04") or (
            head[:1] == b"\x80" and head[1:2] in {b"\x02", b"\x03", b"\x04", b"\x05"}
        ):
            raise CheckpointError(
                f"{path}: a pickled file (.pth, .pt, .ckpt); pickles can run code and are never loaded here. A "
                "MinkUNet of a public model zoo: mdkt import FILE. Another one that you trust: read its tensors with "
                "torch.load(path, weights_only=True) and write them with mdkt_ros.checkpoint.save_checkpoint"
            )
        if head.startswith(b"version https://git-lfs"):
            raise CheckpointError(f"{path}: a Git LFS pointer, not the file itself; run `git lfs pull`")
        raise CheckpointError(f"{path}: not a safetensors file")
    size, length = path.stat().st_size, int.from_bytes(head[:8], "little")
    if length > size - 8:
        raise CheckpointError(f"{path}: truncated: its header takes {length} bytes, the file has {size}")
