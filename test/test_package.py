"""The package as pip and colcon see it: what it says of itself, what it ships, and what imports what."""

from __future__ import annotations

import ast
import configparser
import importlib
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
import setuptools
from conftest import ROOT
from setuptools.command.build_py import build_py

import mdkt_ros

DISTRIBUTION = {"yaml": "pyyaml", "open_clip": "open_clip_torch", "PIL": "pillow", "backports": "backports.zstd"}
"""Names on the package index of modules that are called otherwise."""
SINCE_314 = {"compression"}
"""Standard modules that not every supported Python has."""


@pytest.fixture(scope="module")
def said() -> dict:
    """What setup.py says."""
    found: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(setuptools, "setup", lambda **keywords: found.update(keywords))
        runpy.run_path("setup.py")
    return found


@pytest.fixture(scope="module")
def manifest() -> ElementTree.Element:
    return ElementTree.parse(ROOT / "package.xml").getroot()


def files_below(folder: Path) -> list[Path]:
    parts = (path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts)
    return [path for path in parts if ".part" not in path.name]


def imports(path: Path, *, late: bool = True) -> Iterator[str]:
    """Modules that a file imports; without `late` only those that importing the file imports."""
    nodes: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module)
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if late or not (typing_only or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))):
            nodes.extend(ast.iter_child_nodes(node))


def importers(folder: str, module: str, *, late: bool = True) -> list[str]:
    """Files below `folder` that import `module` or a part of it."""
    return [
        path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / folder).rglob("*.py"))
        if any(name.split(".")[0] == module for name in imports(path, late=late))
    ]


def third_party(folder: str) -> dict[str, str]:
    """Distribution -> a file that imports it."""
    own = {"mdkt_ros", "training"} | SINCE_314 | set(sys.stdlib_module_names)
    return {
        DISTRIBUTION.get(module, module): path.name
        for path in (ROOT / folder).rglob("*.py")
        if "ros" not in path.relative_to(ROOT / folder).parts
        for module in {name.split(".")[0] for name in imports(path)} - own
    }


def names(requirements: list[str]) -> set[str]:
    return {re.match(r"[\w.-]+", line)[0].lower() for line in requirements}


def test_version_name_and_licence_are_said_alike_everywhere(said, manifest):
    assert said["version"] == manifest.findtext("version") == mdkt_ros.__version__
    assert said["name"] == manifest.findtext("name") == mdkt_ros.__name__
    assert said["license"] == manifest.findtext("license") == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert manifest.findtext("description").startswith(said["description"])
    maintainer = manifest.find("maintainer")
    assert (said["maintainer"], said["maintainer_email"]) == (maintainer.text, maintainer.get("email"))


def test_ament_python_finds_what_it_looks_for(said, manifest):
    assert manifest.get("format") == "3"
    assert manifest.findtext("export/build_type") == "ament_python"
    installed = dict(said["data_files"])
    assert installed["share/ament_index/resource_index/packages"] == ["resource/mdkt_ros"]
    assert installed["share/mdkt_ros"] == ["package.xml"]
    assert all((ROOT / path).is_file() for paths in installed.values() for path in paths)
    for folder in ("config", "launch"):
        shipped = {
            f"{place}/{Path(path).name}" for place, paths in said["data_files"] for path in paths if folder in place
        }
        assert shipped == {f"share/mdkt_ros/{path.relative_to(ROOT).as_posix()}" for path in files_below(ROOT / folder)}
    scripts = configparser.ConfigParser()
    scripts.read(ROOT / "setup.cfg")
    # `ros2 run` looks for executables nowhere else.
    assert scripts["install"]["install_scripts"] == scripts["develop"]["script_dir"] == "$base/lib/mdkt_ros"


def test_the_command_is_there(said):
    (command,) = said["entry_points"]["console_scripts"]
    name, module, function = re.split(r"\s*[=:]\s*", command)
    assert name == "mdkt"
    assert callable(getattr(importlib.import_module(module), function))


def test_the_oldest_python_is_said_alike_everywhere(said):
    (minor,) = re.fullmatch(r">=3\.(\d+)", said["python_requires"]).groups()
    assert f'target-version = "py3{minor}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_every_file_travels_with_the_package(said, monkeypatch):
    monkeypatch.chdir(ROOT)
    keys = ("name", "packages", "package_dir", "package_data")
    command = build_py(setuptools.Distribution({"script_name": "setup.py", **{key: said[key] for key in keys}}))
    command.finalize_options()
    shipped = {Path(folder, name) for _, folder, _, files in command.data_files for name in files}
    shipped |= {Path(path) for _, _, path in command.find_all_modules()}
    shipped = {path.resolve() for path in shipped}
    expected = [*files_below(ROOT / "mdkt_ros"), *files_below(ROOT / "config")]
    assert [path.name for path in expected if path.resolve() not in shipped] == []
    assert {"py.typed", "page.html", "viewer.js", "style.css", "LabelInfo.msg", "semantickitti.yaml"} <= {
        path.name for path in shipped
    }
    # Installed, label spaces and recipes are where resources.config_dir looks.
    assert Path(command.get_package_dir("mdkt_ros.config")) == Path("config")


@pytest.mark.parametrize("folder", ["mdkt_ros", "training"])
def test_what_is_imported_is_required(said, folder):
    extras = {"mdkt_ros": ("synthetic", "text", "triton", "bench"), "training": ("train",)}
    required = names(said["install_requires"])
    for extra in extras[folder]:
        required |= names(said["extras_require"][extra])
    undeclared = {module: path for module, path in third_party(folder).items() if module.lower() not in required}
    assert undeclared == {}


def test_the_vehicle_half_stays_apart():
    assert importers("mdkt_ros", "training") == []
    ros = [path for path in importers("mdkt_ros", "rclpy") if not path.startswith("mdkt_ros/ros/")]
    assert ros == []
    assert importers("mdkt_ros", "open_clip", late=False) == []


@pytest.mark.parametrize("program", [
    "import mdkt_ros, mdkt_ros.labels, mdkt_ros.cloud, mdkt_ros.scan, mdkt_ros.camera, mdkt_ros.metrics, mdkt_ros.drive"
    "; mdkt_ros.LabelSpace.load('semantickitti'); mdkt_ros.MdktError",
    *(
        f"import sys, mdkt_ros.cli; sys.argv = {['mdkt', *command]}; sys.stderr = sys.stdout\n"
        "try: mdkt_ros.cli.main()\nexcept SystemExit: pass"
        for command in (
            ("--help",), ("info", "missing"), ("segment", "missing", "out"), ("convert", "auto", "missing", "out"),
            ("view", "missing", "out.html"), ("picture", "missing", "out.png"),
        )
    ),
])  # fmt: skip
def test_what_needs_no_network_does_not_wait_for_torch(program):
    late = "import sys; print(sorted({'torch', 'open_clip', 'rclpy', 'embreex'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", f"{program}\n{late}"], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.splitlines()[-1] == "[]"


def test_public_names():
    assert all(getattr(mdkt_ros, name) is not None for name in mdkt_ros.__all__)
    with pytest.raises(AttributeError, match="module 'mdkt_ros' has no attribute 'Segmentor'"):
        _ = mdkt_ros.Segmentor
