"""The model card of a trained classifier: what a stranger has to know, from the file of the classifier alone."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ltdd_core.data.longtail import shot_groups
from ltdd_core.errors import some_of
from ltdd_core.evaluation.stored import TrainedClassifier

COLOURS = {1: "grey", 3: "RGB"}
SHOTS = {
    "many": "classes with over 100 training images, mean",
    "medium": "classes with 20 to 100 training images, mean",
    "few": "classes with fewer than 20 training images, mean",
}
APPLIED = {
    **dict.fromkeys(("torch", "onnx"), "The probabilities that the file gives have it already."),
    "state-dict": "It is not part of the weights: the logarithms of the probabilities are to be divided by it.",
}
"""What has to be done with a temperature that was fitted."""
CALIBRATION = ("temperature", "images", "ece_before", "ece_after")
NAMED = 20
"""Classes that a sentence names before it says how many there are."""
_MARKUP = re.compile(r"[\\`*<>|\[\]]")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def model_card(trained: TrainedClassifier, kind: str, config: Mapping[str, Any]) -> str:
    """The card as Markdown.

    Args:
        trained: the classifier; of its facts the card says what is known and leaves out the rest.
        kind: the format that it stands beside: ``torch``, ``onnx`` or ``state-dict``.
        config: what ``config.json`` of that format says, or would say.
    """
    template = _environment().get_template("model-card.md.j2")
    return template.render(_facts(trained, config), kind=kind, applied=APPLIED[kind])


@functools.cache
def _environment() -> Environment:
    environment = Environment(  # noqa: S701 - Markdown, whose marks _plain() takes from names
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["number"] = _number
    return environment


def _facts(trained: TrainedClassifier, config: Mapping[str, Any]) -> dict[str, Any]:
    """What the templates show."""
    facts, counts = trained.facts, trained.counts
    channels, height, width = trained.image_shape
    row, tests = facts.get("row"), _known(facts, "data", "test_counts")
    names = [_plain(name) for name in trained.class_names]
    accuracies = row["per_class"] if row else [None] * len(names)
    rows = zip(names, counts, tests or [None] * len(names), accuracies, strict=True)
    tested = [accuracy for accuracy in accuracies if accuracy is not None]
    calibration = facts.get("calibration") or {}
    networks = config["ltdd"]["networks"]
    colours = COLOURS.get(channels, f"{channels} channels")
    return {
        "title": f"{_plain(_data_name(facts))}: {_plain(trained.line)}",
        "images": f"{colours} images of {width}x{height} pixels",
        "colours": colours,
        "size": f"{width}x{height}",
        "shape": f"{channels}, {height}, {width}",
        "most": _images(max(counts), "training "),
        "fewest": str(min(counts)),
        "line": _plain(trained.line),
        "network": _component(config["architecture"] and {"name": config["architecture"], **config["model_args"]}),
        "head": _component(facts.get("head")),
        "parameters": f"{sum(parameter.numel() for parameter in trained.classifier.parameters()):,}",
        "trained_on": _trained_on(trained),
        "sets": facts.get("sets") or [],
        "distilled": _distilled(facts),
        "groups": _groups(trained, names),
        "alone": networks[0] if _is_one_network(networks) else None,
        "whitened": config["pretrained_cfg"]["mean"] is None,
        "row": row,
        "tests": tests,
        "tested_on": f"{sum(tests)} test images" if tests else "the test images of its run",
        "balance": _balance(tests),
        "mean": sum(tested) / len(tested) if tested else None,
        "shots": [(text, row[name]) for name, text in SHOTS.items() if row and row[name] is not None],
        "classes": [{"name": n, "count": c, "tests": t, "accuracy": a} for n, c, t, a in rows],
        "calibration": calibration and {key: calibration.get(key) for key in CALIBRATION},
        "temperature": calibration.get("temperature"),
        "limits": list(_limits(trained, names, accuracies if row else None, tests)),
        "origin": list(_origin(facts)),
    }


def _is_one_network(networks: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the public names of ltdd make it again: the classifier is a network, and its last layer a known one."""
    return [network["prefix"] for network in networks] == [""] and networks[0]["last_layer"] in (
        "Linear",
        "CosineLinear",
    )


def _limits(
    trained: TrainedClassifier, names: Sequence[str], accuracies: Sequence[float | None] | None, tests: Any
) -> Iterator[str]:
    few = [names[label] for label in shot_groups(trained.counts)["few"]]
    if few:
        yield (
            f"Classes with fewer than 20 training images: {_list(few)}. The classifier knows few of the ways in which "
            "their images can look."
        )
    if accuracies is not None:
        never = [name for name, accuracy in zip(names, accuracies, strict=True) if accuracy == 0]
        untested = [name for name, accuracy in zip(names, accuracies, strict=True) if accuracy is None]
        if never:
            yield f"It recognised no test image of these classes: {_list(never)}."
        if untested:
            yield f"Nobody knows how good it is at these classes, since there was no test image: {_list(untested)}."
    if tests and max(tests) < 100:
        yield f"A class has at most {_images(max(tests), 'test ')}, so that its accuracy is a rough number."
    yield (
        "It was tested on images of the same source as its training images only. Images from elsewhere, such as of "
        "another camera, background or cut, were not tried."
    )
    yield (
        "Every image gets one of the classes, whatever it shows. A low probability is no safe sign of an image that "
        "belongs to none of them."
    )
    yield "The numbers are those of one training with one seed. Another seed gives somewhat different ones."


def _origin(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "data", _plain(_data_name(facts))
    if "seed" in facts:
        yield "seed", str(facts["seed"])
    versions = dict(facts.get("versions") or {})
    packages = [name for name in ("ltdd", "torch", "torchvision", "numpy", "scikit-learn") if name in versions]
    if packages:
        yield "packages", ", ".join(f"{name} {_plain(versions[name])}" for name in packages)
    components = {name: owner for name, owner in versions.items() if " " in name and owner}
    for owner in sorted({*components.values()}):
        names = ", ".join(name for name in components if components[name] == owner)
        yield f"components of its run from {_plain(owner)}", _plain(names)


def _data_name(facts: Mapping[str, Any]) -> str:
    """The name of the data; of a classifier of an earlier ltdd it is in the names of the components."""
    named = [name.removeprefix("data ") for name in facts.get("versions") or {} if name.startswith("data ")]
    return _known(facts, "data", "name") or (named[0] if named else "unknown data")


def _trained_on(trained: TrainedClassifier) -> str:
    sets = trained.facts.get("sets") or []
    if len(sets) > 1:
        stages = ", ".join(f"stage {number} on the {name} set" for number, name in enumerate(sets, 1))
    else:
        stages = f"the {sets[0]} set" if sets else "unknown"
    return f"{stages}; {_images(trained.images)} in all"


def _distilled(facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """The method of the distilled set, None where it is not known, and its number of images."""
    known = facts.get("distilled")
    return known and {"images": known["images"], "method": known["method"] and _plain(known["method"])}


def _groups(trained: TrainedClassifier, names: Sequence[str]) -> str:
    if trained.groups is None:
        return ""
    groups = trained.groups.tolist()
    members = [
        _list([name for name, of in zip(names, groups, strict=True) if of == group]) for group in sorted({*groups})
    ]
    return " / ".join(members)


def _balance(tests: Any) -> str:
    if not tests:
        return "images that were kept apart from the training images"
    if min(tests) == max(tests):
        return f"balanced: {tests[0]} of each class"
    return f"not balanced: {min(tests)} to {max(tests)} of a class, so that the mean over the classes says more"


def _component(tree: Mapping[str, Any] | None) -> str:
    """A component and its options in one line: ``convnet-d3 (depth 3, width 128)``."""
    if not tree:
        return ""
    options = ", ".join(f"{key} {value}" for key, value in tree.items() if key != "name" and value is not None)
    return _plain(f"{tree.get('name')} ({options})" if options else str(tree.get("name")))


def _known(facts: Mapping[str, Any], *keys: str) -> Any:
    value: Any = facts
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _images(count: int, kind: str = "") -> str:
    return f"{count} {kind}image{'' if count == 1 else 's'}"


def _list(names: Sequence[str]) -> str:
    return some_of(names, NAMED)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _plain(text: str) -> str:
    """Text from outside as Markdown shows it: no marks, no line ends, no control characters."""
    visible = _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    return _MARKUP.sub(r"\\\g<0>", visible)
