"""`mdkt bench`: what engines and the node take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mdkt_ros.terminal import console, progress_bar


def bench(
    scan: Annotated[
        Path | None, typer.Argument(help="A .bin or .pcd; without it a made-up street of 120 k points.")
    ] = None,
    voxel_size: Annotated[float, typer.Option(help="Metres.")] = 0.1,
    preset: Annotated[
        list[str] | None, typer.Option(help="NAME or NAME:WIDTH, again for more; all without it.")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Passes; medians are shown.", min=1)] = 5,
    device: Annotated[str, typer.Option(help="Where the engines run: cpu, cuda or cuda:N.")] = "cpu",
    engine: Annotated[
        list[str] | None, typer.Option(help="NAME or NAME:bf16, again for more; all that run here without it.")
    ] = None,
    threads: Annotated[
        list[int] | None, typer.Option(help="CPU threads, again for more; 1 and all without it.", min=1)
    ] = None,
    scaling: Annotated[bool, typer.Option("--scaling", help="Also 10 k to 1 M points and 1 to 16 scans.")] = False,
    as_json: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw them: .png, .svg or .pdf.")] = None,
    node: Annotated[
        bool, typer.Option("--node", help="Each stage of the ROS 2 node instead, on one thread; latency with rclpy.")
    ] = False,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="With --node: a .safetensors checkpoint; without it --preset with random weights, or the shipped one."
        ),
    ] = None,
    precision: Annotated[str, typer.Option(help="With --node: fp32, bf16, fp16 or auto.")] = "fp32",
) -> None:
    """Measure what each engine takes for a network on a scan; with --node, what each stage of the ROS 2 node takes."""
    from mdkt_ros.benchmark.command import bench_engines, bench_node

    with progress_bar("Measuring") as progress:
        if node:
            show = bench_node(
                scan,
                checkpoint,
                presets=preset or (),
                voxel_size=voxel_size,
                device=device,
                precision=precision,
                repeats=repeats,
                progress=progress,
                as_json=as_json,
            )
        else:
            show = bench_engines(
                scan,
                preset or (),
                chosen=engine or (),
                threads=threads or (),
                voxel_size=voxel_size,
                repeats=repeats,
                device=device,
                scaling=scaling,
                progress=progress,
                as_json=as_json,
                picture=plot,
            )
    show(console)
