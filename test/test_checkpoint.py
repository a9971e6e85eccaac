"""Checkpoints: what is written comes back, and whatever else a file holds is refused in one clear sentence."""

from __future__ import annotations

import json
import pickle
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

import mdkt_ros.checkpoint as module
from mdkt_ros.checkpoint import MARKER, CheckpointMeta, load_checkpoint, read_meta, save_checkpoint
from mdkt_ros.errors import CheckpointError, OutputError
from mdkt_ros.labels import LabelSpace
from mdkt_ros.network import PointNetwork, build_network
from mdkt_ros.voxel_grid import VoxelGrid

GRID = VoxelGrid(0.1, (-51.2, -51.2, -5.0), (51.2, 51.2, 3.0))
FUZZ = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


def meta(**changes: Any) -> CheckpointMeta:
    return replace(
        CheckpointMeta(
            "minkunet14s",
            0.1,
            GRID,
            LabelSpace.load("nuscenes"),
            intensity_scale=1 / 255,
            axes="y_forward",
            training={"recipe": {"epochs": 20}, "miou": 0.5},
            data={"scans": 21, "sha256": "00ff"},
        ),
        **changes,
    )


def small_network(seed: int = 0) -> PointNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network("minkunet14s", in_channels=4, classes=16, width=0.1)
        for name, value in network.named_buffers():
            if "running" in name:
                value.uniform_(0.5, 2.0)
    return network


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "good.safetensors"
    save_checkpoint(path, small_network(), meta())
    return path


def parts(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(str(path), "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata())  # noqa: SIM118


def refused(path: Path) -> str:
    """The message of the error, which names the file and is one line."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def with_document(good: Path, path: Path, change: Any) -> Path:
    """A copy of a good file, whose JSON document `change` has edited."""
    tensors, metadata = parts(good)
    document = json.loads(metadata[MARKER])
    change(document)
    save_file(tensors, path, {MARKER: json.dumps(document)})
    return path


def test_weights_and_metadata_come_back_as_they_were(good: Path) -> None:
    original = small_network()
    network, loaded = load_checkpoint(good)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    for name, value in original.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name
    assert loaded.to_dict() == meta().to_dict()
    assert loaded.labels == LabelSpace.load("nuscenes")
    assert (loaded.grid, loaded.features, loaded.intensity_scale) == (GRID, ("x", "y", "z", "intensity"), 1 / 255)
    assert loaded.text_embeddings is None
    assert read_meta(good).to_dict() == loaded.to_dict()


def test_text_embeddings_come_back(tmp_path: Path) -> None:
    embeddings = torch.randn(16, 5)
    save_checkpoint(tmp_path / "a.safetensors", small_network(), meta(text_embeddings=embeddings))
    _, loaded = load_checkpoint(tmp_path / "a.safetensors")
    assert loaded.text_embeddings is not None
    assert torch.equal(loaded.text_embeddings, embeddings)
    with pytest.raises(CheckpointError, match=r"'text_embeddings' has shape \(15, 5\), expected \(16, D\)"):
        save_checkpoint(tmp_path / "b.safetensors", small_network(), meta(text_embeddings=torch.zeros(15, 5)))


def test_half_precision_takes_half_the_room_and_comes_back_as_float32(good: Path, tmp_path: Path) -> None:
    original = small_network().state_dict()
    save_checkpoint(tmp_path / "half.safetensors", small_network(), meta(), dtype="float16")
    stored, metadata = parts(tmp_path / "half.safetensors")
    header = len(metadata[MARKER])
    assert (tmp_path / "half.safetensors").stat().st_size - header < 0.75 * (good.stat().st_size - header)
    network, _ = load_checkpoint(tmp_path / "half.safetensors")
    for name, value in network.state_dict().items():
        expected = original[name]
        if expected.ndim > 1:
            assert stored["network." + name].dtype == torch.float16
            expected = expected.half().float()
        assert value.dtype == original[name].dtype
        assert torch.equal(value, expected), name


def test_the_same_network_gives_the_same_bytes(good: Path, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "again.safetensors", small_network(), meta())
    assert (tmp_path / "again.safetensors").read_bytes() == good.read_bytes()


def test_loading_leaves_the_random_state_alone(good: Path) -> None:
    state = torch.random.get_rng_state()
    load_checkpoint(good)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_an_existing_file_is_refused_unless_forced(good: Path, tmp_path: Path) -> None:
    path = tmp_path / "taken.safetensors"
    path.write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        save_checkpoint(path, small_network(), meta())
    assert path.read_text() == "mine"
    save_checkpoint(path, small_network(), meta(), force=True)
    assert path.read_bytes() == good.read_bytes()
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken.safetensors"]


def test_what_cannot_be_loaded_is_not_saved(tmp_path: Path) -> None:
    path = tmp_path / "never.safetensors"
    network = small_network()
    with pytest.raises(CheckpointError, match=r"tells 16 classes apart .* 'semantickitti' has 19"):
        save_checkpoint(path, network, meta(labels=LabelSpace.load("semantickitti")))
    with pytest.raises(CheckpointError, match=r"but minkunet14s at width 0\.2"):
        save_checkpoint(path, network, meta(width=0.2))
    with pytest.raises(CheckpointError, match="not JSON"):
        save_checkpoint(path, network, meta(training={"when": object()}))
    with pytest.raises(CheckpointError, match="not JSON"):
        save_checkpoint(path, network, meta(training={"miou": float("nan")}))
    with pytest.raises(CheckpointError, match="'axes'"):
        save_checkpoint(path, network, meta(axes="z_forward"))
    with torch.no_grad():
        network.classifier[0].weight[3, 0] = 70_000
    with pytest.raises(CheckpointError, match=r"'network.classifier.0.weight' has values beyond float16"):
        save_checkpoint(path, network, meta(), dtype="float16")
    with torch.no_grad():
        network.classifier[0].weight[3, 0] = float("nan")
    with pytest.raises(CheckpointError, match=r"'network.classifier.0.weight' has NaN"):
        save_checkpoint(path, network, meta())
    assert list(tmp_path.iterdir()) == []


def test_missing_file_folder_and_device(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "none.safetensors")
    assert "a folder" in refused(tmp_path)
    assert "not a regular file" in refused(Path("/dev/null"))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_pickled_checkpoint_is_refused_with_the_way_to_import_it(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "model.pth"
    torch.save({"a": torch.zeros(2)}, path, _use_new_zipfile_serialization=not legacy)
    message = refused(path)
    assert "pickles can run code and are never loaded" in message
    assert "torch.load(path, weights_only=True)" in message


def test_other_files_are_told_apart(good: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(good.read_bytes() + b"\0")
    assert "damaged" in refused(path)
    for data in (b"", b"a", b"hello world, this is text", pickle.dumps([1], protocol=0)):
        path.write_bytes(data)
        assert "not a safetensors file" in refused(path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "git lfs pull" in refused(path)
    save_file({"a": torch.zeros(2)}, path, {"format": "pt"})
    assert f"not a checkpoint of mdkt_ros: its metadata lack the key {MARKER!r}" in refused(path)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.9999])
def test_a_truncated_file_says_so(good: Path, tmp_path: Path, share: float) -> None:
    data = good.read_bytes()
    (tmp_path / "short.safetensors").write_bytes(data[: int(share * len(data))])
    assert "truncated" in refused(tmp_path / "short.safetensors")


def test_missing_misshapen_unexpected_and_bad_tensors_are_named(good: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    kernel = "network.stem.0.kernel"

    def saying(change: Any) -> str:
        tensors, metadata = parts(good)
        change(tensors)
        save_file(tensors, path, metadata)
        return refused(path)

    shape = tuple(parts(good)[0][kernel].shape)
    message = saying(lambda tensors: tensors.pop(kernel))
    assert "tensor 'network.stem.0.kernel' is missing; minkunet14s at width 0.1 with 4 features" in message
    assert f"and 16 classes has it as {shape}" in message
    message = saying(lambda tensors: tensors.update({kernel: torch.zeros(27, 5, shape[2])}))
    assert f"tensor 'network.stem.0.kernel' has shape (27, 5, {shape[2]}), but" in message
    assert f"has it as {shape}" in message
    bare = kernel.removeprefix("network.")
    assert f"unexpected tensor '{bare}'" in saying(lambda tensors: tensors.update({bare: torch.zeros(1)}))
    assert "unexpected tensor 'network.extra'" in saying(
        lambda tensors: tensors.update({"network.extra": torch.zeros(1)})
    )
    assert "'network.stem.0.kernel' has type I64" in saying(
        lambda tensors: tensors.update({kernel: tensors[kernel].long()})
    )
    for value in (float("nan"), float("-inf")):
        message = saying(lambda tensors, value=value: tensors[kernel].fill_(value))
        assert "'network.stem.0.kernel' has NaN or infinite values" in message
    assert "'text_embeddings' has shape (3, 2), expected (16, D)" in saying(
        lambda tensors: tensors.update(text_embeddings=torch.zeros(3, 2))
    )


def test_metadata_that_promise_more_than_the_file_holds_cost_no_memory(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []

    def recording(*arguments: Any, **options: Any) -> PointNetwork:
        network = build_network(*arguments, **options)
        built.append(next(network.parameters()).device.type)
        return network

    monkeypatch.setattr(module, "build_network", recording)

    def widest(document: dict[str, Any]) -> None:
        document["network"] = {"preset": "minkunet34", "width": 8.0}

    refused(with_document(good, tmp_path / "f.safetensors", widest))
    assert built == ["meta"]
    load_checkpoint(good)
    assert built == ["meta", "meta", "cpu"]


def test_classes_that_do_not_match_the_weights(good: Path, tmp_path: Path) -> None:
    def drop_last(document: dict[str, Any]) -> None:
        name = document["labels"]["classes"].pop()["name"]
        for members in document["labels"]["groups"].values():
            if name in members:
                members.remove(name)

    message = refused(with_document(good, tmp_path / "f.safetensors", drop_last))
    assert (
        "tells 16 classes apart (tensor 'network.classifier.0.weight'), but the label space 'nuscenes' has 15"
        in message
    )


@pytest.mark.parametrize(
    "key",
    ["format_version", "network", "features", "grid", "labels", "intensity_scale", "axes", "training", "data"],
)
def test_every_metadata_key_is_required_and_typed(good: Path, tmp_path: Path, key: str) -> None:
    message = refused(with_document(good, tmp_path / "f.safetensors", lambda document: document.pop(key)))
    assert f"metadata key {key!r}: missing" in message
    for wrong in (None, True, [[]], "x"):
        if isinstance(wrong, str) and key == "axes":
            continue
        path = with_document(good, tmp_path / "g.safetensors", lambda document, v=wrong: document.update({key: v}))
        assert f"metadata key {key!r}: must be" in refused(path)


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        (None, "format_version", 2, "checkpoint format 2, this reads 1: written by a newer mdkt_ros; update it"),
        (None, "format_version", 0, "checkpoint format 0"),
        ("network", "preset", "resnet", "'network.preset': 'resnet' is not known; there are minkunet14s"),
        ("network", "width", 1e9, "'network.width': 1e+09 is not in 0 .. 8"),
        ("network", "width", 0, "'network.width': 0 is not in"),
        ("network", "width", 10**400, "'network.width': must be a number"),
        ("network", "width", 8.0, "tensor 'network.stem.0.kernel' has shape"),
        (None, "intensity_scale", -1, "'intensity_scale': -1 is not positive"),
        (None, "axes", "up", "'axes': 'up' is neither x_forward nor y_forward"),
        (None, "features", ["x", "colour"], "'features': feature 'colour' is not known"),
        (None, "features", [1], "'features': must be a list of names"),
        (None, "features", ["x", "y", "z"], "tensor 'network.stem.0.kernel' has shape"),
        ("grid", "voxel_size", 1e-30, "'grid': range of x"),
        ("grid", "minimum", [0, 0], "'grid.minimum': must be three numbers"),
        ("grid", "maximum", [0, "1", 2], "'grid.maximum': must be a number, is '1'"),
        ("labels", "classes", [], "metadata key 'labels'"),
        ("labels", "groups", {"g": ["ghost"]}, "group 'g' names the class 'ghost'"),
        ("labels", "ignore", [10**9], "raw id 1000000000 is not in 0 .. 65535"),
        ("labels", "name", "\ud800", "not JSON"),
    ],
)
def test_values_out_of_range_are_named(
    good: Path, tmp_path: Path, section: str | None, key: str, value: Any, message: str
) -> None:
    def change(document: dict[str, Any]) -> None:
        (document[section] if section else document)[key] = value

    assert message in refused(with_document(good, tmp_path / "f.safetensors", change))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"a": NaN}', "[" * 100_000, '{"format_version": ' + "9" * 5000 + "}"]
)
def test_a_document_that_is_not_one(good: Path, tmp_path: Path, text: str) -> None:
    save_file(parts(good)[0], tmp_path / "f.safetensors", {MARKER: text})
    assert "metadata" in refused(tmp_path / "f.safetensors")


def read_or_refused(path: Path) -> None:
    try:
        network, loaded = load_checkpoint(path)
    except CheckpointError as error:
        assert str(error).startswith(str(path))  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
        return
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())
    assert len(loaded.labels.names) == network.classes


@FUZZ
@given(st.binary(max_size=300))
@example(struct.pack("<Q", 2) + b"{}")
@example(struct.pack("<Q", 2**63) + b"{}")
def test_fuzz_any_bytes(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "f.safetensors").write_bytes(data)
    read_or_refused(tmp_path / "f.safetensors")


@FUZZ
@given(st.text(max_size=120))
def test_fuzz_any_header(tmp_path: Path, header: str) -> None:
    encoded = ("{" + header).encode("utf-8", "surrogatepass")
    (tmp_path / "f.safetensors").write_bytes(struct.pack("<Q", len(encoded)) + encoded)
    read_or_refused(tmp_path / "f.safetensors")


@FUZZ
@given(st.data())
def test_fuzz_cut_and_flipped(good: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(good.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    for _ in range(data.draw(st.integers(0, 3))):
        # Mostly in the header, which decides; the weights are most of the bytes.
        limit = data.draw(st.sampled_from([8, header, header, len(content)]))
        content[data.draw(st.integers(0, limit - 1))] ^= 1 << data.draw(st.integers(0, 7))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    (tmp_path / "f.safetensors").write_bytes(content)
    read_or_refused(tmp_path / "f.safetensors")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@FUZZ
@given(st.data())
def test_fuzz_mutated_document(good: Path, tmp_path: Path, data: st.DataObject) -> None:
    tensors, metadata = parts(good)
    document = json.loads(metadata[MARKER])
    for _ in range(data.draw(st.integers(1, 3))):
        place: Any = document
        while True:
            keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = data.draw(st.sampled_from(keys))
            deeper = isinstance(place[key], dict | list) and len(place[key]) > 0
            if not deeper or data.draw(st.integers(0, 3)) == 0:
                place[key] = data.draw(JSON_VALUES)
                break
            place = place[key]
    save_file(tensors, tmp_path / "f.safetensors", {MARKER: json.dumps(document)})
    read_or_refused(tmp_path / "f.safetensors")
