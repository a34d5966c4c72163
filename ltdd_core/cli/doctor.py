"""``ltdd doctor``: what this machine has and can do, to look at and to paste into a report of a bug."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ltdd_core.cli.settings import consoles, json_option

if TYPE_CHECKING:
    import torch

ENOUGH_ROOM = 2e9
"""Bytes; a run takes a few megabytes, but methods that keep trained networks may take gigabytes."""
PACKAGES = ("torch", "torchvision", "pluggy", "click", "pydantic", "safetensors", "numpy", "scikit-learn", "matplotlib")

Finding = tuple[str, str, str]
"""What, how it is, and a remark: empty where all is well."""


@click.command("doctor")
@json_option
def command(as_json: bool) -> None:
    """Check whether this installation works.

    Python, torch, devices, precision, compiler, plugins and disk are looked at. A remark says what will not work, and
    what to do about it. Nothing is changed. How fast bf16 is here is measured once and kept in the user's cache folder.
    """
    findings = [*_software(), *_devices(), *_compiler(), *_plugins(), *_disk()]
    if as_json:
        rows = [{"what": subject, "is": value, "remark": remark} for subject, value, remark in findings]
        click.echo(json.dumps(rows))
        return
    results, _ = consoles(as_json)
    width = max(len(subject) for subject, _, _ in findings)
    for subject, value, remark in findings:
        results.print(f"{subject.ljust(width)}  {value}", soft_wrap=True)
        if remark:
            results.print(f"{' ' * width}  ! {remark}", style="yellow", soft_wrap=True)
    remarks = sum(bool(remark) for _, _, remark in findings)
    results.print("all is well" if not remarks else f"{remarks} remark{'s' * (remarks > 1)}, marked with !")


def _software() -> Iterator[Finding]:
    from importlib.metadata import PackageNotFoundError, version

    yield "ltdd", version("ltdd"), ""
    yield "Python", f"{platform.python_version()} on {platform.platform()}", ""
    for name in PACKAGES:
        try:
            yield name, version(name), ""
        except PackageNotFoundError:
            yield name, "not installed", f"pip install {name}"


def _devices() -> Iterator[Finding]:
    import torch

    from ltdd_core.runs.devices import usual_threads

    yield "CPU", f"{os.cpu_count()} cores, {usual_threads()} threads", ""
    yield _bf16("bf16 on the CPU", torch.device("cpu"))
    if not torch.cuda.is_available():
        yield "GPU", "none that torch can use", ""
        return
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        yield f"GPU {index}", f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB", ""
        yield _bf16(f"bf16 on GPU {index}", torch.device("cuda", index))


def _bf16(subject: str, device: torch.device) -> Finding:
    """How fast bf16 is, and which precision a run takes for it."""
    from ltdd_core.config.model import Compute
    from ltdd_core.runs.precision import FASTER, bf16_speed

    speed = bf16_speed(Compute(), device)
    chosen = "bf16" if speed >= FASTER else "fp32"
    return subject, f"{speed:.1f} times as fast as fp32 (measured once): --precision auto is {chosen}", ""


def _compiler() -> Iterator[Finding]:
    from ltdd_core.runs.devices import compilers

    compiler = next(filter(None, map(shutil.which, compilers(on_gpu=False))), None)
    remark = "" if compiler else "networks are not compiled, which would make long runs faster: install g++ or clang"
    yield "C++ compiler", compiler or "none", remark


def _plugins() -> Iterator[Finding]:
    from ltdd_core.cli.plugin_commands import installed_with_commands

    listed = installed_with_commands()[0].plugins.listed
    ours = sum(plugin.state == "built-in" for plugin in listed)
    yield "plugins", f"{ours} built-in", ""
    for plugin in listed:
        if plugin.state != "built-in":
            remark = f"ltdd plugins {plugin.name} shows more" if plugin.state == "broken" else ""
            yield f"plugin {plugin.name}", f"{plugin}, {plugin.state} {plugin.reason}".strip(), remark


def _disk() -> Iterator[Finding]:
    folder = Path.cwd()
    free = shutil.disk_usage(folder).free
    remark = "" if free > ENOUGH_ROOM else "methods that keep trained networks may need more"
    yield "free disk", f"{free / 1e9:.1f} GB in {folder}", remark
    writable = os.access(folder, os.W_OK)
    yield "folder", "can be written" if writable else "cannot be written", "" if writable else "name one with --out"
    terminal = "terminal" if sys.stdout.isatty() else "no terminal"
    yield "output", f"{terminal}, {sys.stdout.encoding}", ""
