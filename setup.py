"""ament_python package and pip package in one: `colcon build`, `pip install .`, `pip install .[train]`."""

import sys
from pathlib import Path

from setuptools import find_packages, setup

NAME = "mdkt_ros"
# Resolved, because `colcon build --symlink-install` runs a link to this file from a folder that lacks most others.
ROOT = Path(__file__).resolve().parent


def tree(folder: str) -> list[tuple[str, list[str]]]:
    """Every file below `folder`, laid out under share/<package>/ as ament wants it."""
    by_folder: dict[str, list[str]] = {}
    for path in sorted((ROOT / folder).rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            relative = path.relative_to(ROOT)
            by_folder.setdefault(f"share/{NAME}/{relative.parent.as_posix()}", []).append(relative.as_posix())
    return list(by_folder.items())


SYNTHETIC = ["embreex>=4.4"]
TEXT = ["open_clip_torch>=2.24", "torchvision"]
BENCH = ["matplotlib>=3.7"]
TRITON = ["triton>=3.0; sys_platform == 'linux'"]  # PyTorch for CUDA brings it along
TRAIN = [*SYNTHETIC, *TEXT, "omegaconf>=2.3", "scipy>=1.9", "tensorboard>=2.15", "timm>=1.0"]

SCRIPTS = ["mdkt = mdkt_ros.cli:main"]
COMMANDS = ("convert", "synthesize", "view", "picture", "info", "import", "bench", "demo")
if {"install", "develop"} & set(sys.argv):
    # colcon alone runs these, and puts executables into lib/mdkt_ros, where `ros2 run` looks. pip would put them beside
    # `python`, where `view` and `info` are somebody else's names.
    SCRIPTS += ["segment = mdkt_ros.ros.main:main", *(f"{name} = mdkt_ros.ros.main:command" for name in COMMANDS)]

setup(
    name=NAME,
    version="0.1.0",
    description="Semantic labels for every LiDAR point on a vehicle, trained from very few labelled points",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    author="mdkt_ros authors",
    maintainer="mdkt_ros authors",
    maintainer_email="maintainers@example.com",
    python_requires=">=3.10",
    zip_safe=False,
    packages=[*find_packages(include=[NAME, f"{NAME}.*"]), f"{NAME}.config"],
    package_dir={f"{NAME}.config": "config"},
    package_data={
        NAME: ["py.typed", "weights/*", "render/*.html", "render/*.js", "render/*.css", "drive/messages/*"],
        f"{NAME}.config": ["*", "*/*"],  # not "**/*", which Humble's setuptools (59) reads as "*/*"
    },
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        *tree("launch"),
        *tree("config"),
    ],
    install_requires=[
        "numpy>=1.21",
        "torch>=2.4",
        "llvmlite>=0.45",
        "numba>=0.62",  # with llvmlite, the engine `native`; without them the package runs on PyTorch alone
        "safetensors>=0.4",
        "pyyaml>=5.4",
        "rosbags>=0.11",
        "apsw",  # with backports.zstd, what rosbags raises on a damaged bag
        "backports.zstd; python_version < '3.14'",
        "typer>=0.12",
        "rich>=13",
        "pillow>=9.1",
        "pypcd4>=1.2",
    ],
    extras_require={
        "synthetic": SYNTHETIC,
        "text": TEXT,  # to name what to look for: mdkt segment --prompt
        "train": TRAIN,
        "bench": [*TRAIN, *BENCH],
        "torchsparse": ["torchsparse"],
        "triton": TRITON,
        "dev": [
            *TRAIN,
            *BENCH,
            *TRITON,
            "pytest>=8",
            "pytest-cov",
            "pytest-xdist",
            "hypothesis",
            "selenium",
            "ruff",
            "mypy",
            "types-PyYAML",
        ],
    },
    entry_points={"console_scripts": SCRIPTS},
)
