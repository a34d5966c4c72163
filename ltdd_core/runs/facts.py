"""What is written down about a run: its data, and what it computed on and with."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from ltdd_core.config.model import Config
from ltdd_core.data.sets import LongTailedSet
from ltdd_core.runs.moved import paths_of


def data_facts(data: LongTailedSet) -> dict[str, Any]:
    """What a report says about the data, and a digest by which a run knows them again."""
    return {
        "name": data.name,
        "classes": list(data.class_names),
        "counts": list(data.counts),
        "images": len(data.train_labels),
        "test_images": len(data.test_labels),
        "imbalance": round(data.imbalance, 4),
        "image_shape": list(data.image_shape),
        "digest": data.digest,
        **({"test_digest": data.test_digest} if data.test_digest is not None else {}),
        **({"left_out_images": len(data.left_out)} if data.left_out else {}),
        **({"validation_images": data.validation_count} if data.validation_count else {}),
    }


def knows_again(facts: Mapping[str, Any], data: LongTailedSet) -> bool:
    """Whether data are those that a run wrote ``facts`` about; an earlier version noted no digest."""
    now = data_facts(data)
    same = all(facts[key] == now[key] for key in ("classes", "counts", "test_images", "image_shape"))
    return same and facts.get("digest") in (None, data.digest)


def session_facts(config: Config, device: torch.device, plugins: Sequence[str]) -> dict[str, Any]:
    """When a process began, what it computes on and with, and where its files are; ``plugins`` are the active ones.

    Where its networks begin with pretrained weights, a digest of their file is among them.
    """
    weights = config.science()["network"].get("weights")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": f"{device.type}: {name}",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "paths": paths_of(config),
        "active_plugins": list(plugins),
        "versions": versions(config),
        **({} if weights is None else {"weights": weights}),
    }


def other_machine(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """A sentence for a run that goes on with what may round in another way; None where it does not.

    Args:
        before: what :func:`session_facts` said of the process that went before.
        now: what it says of this one.
    """
    said = []
    if before.get("device") != now["device"]:
        said.append(f"on {before.get('device')} before, and on {now['device']} now")
    elif before.get("threads") != now["threads"] and now["device"].startswith("cpu"):
        said.append(f"on {before.get('threads')} CPU threads before, and on {now['threads']} now")
    torch_before, torch_now = (session.get("versions", {}).get("torch") for session in (before, now))
    if torch_before != torch_now:
        said.append(f"with torch {torch_before} before, and with {torch_now} now")
    if before.get("compiled", now.get("compiled")) != now.get("compiled"):
        of_before, of_now = ("with" if each.get("compiled") else "without" for each in (before, now))
        said.append(f"{of_before} compiled networks before, and {of_now} them now")
    if not said:
        return None
    return (
        f"the run was {' and '.join(said)}: sums are rounded in another way, so its pixels are those of an "
        "uninterrupted run up to rounding, and not bit for bit."
    )


def versions(config: Config) -> dict[str, str]:
    """Versions of everything that takes part in a run."""
    by_name = {"torch": str(torch.__version__)}
    for name in ("ltdd", "torchvision", "numpy", "scikit-learn"):
        try:
            by_name[name] = version(name)
        except PackageNotFoundError:
            by_name[name] = "not installed"
    for kind in ("data", "sampler", "network", "matcher", "labeller", "head", "recipe"):
        selection = getattr(config, kind)
        by_name[f"{kind} {selection.name}"] = selection.owner
    if config.start is not None:
        by_name[f"sampler {config.start.name}"] = config.start.owner
    return by_name
