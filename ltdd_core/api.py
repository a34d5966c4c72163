"""The Python API: what the command line does, for programs.

::

    from ltdd_core import configure, distill, evaluate, load_distilled

    result = distill(configure(method="dm", plugins=["twostage"], ipc=10), "runs/a")
    lines = evaluate("runs/a", networks=["resnet18"], repeats=3)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ltdd_core.config.layers import Layer, Presets, normalised
from ltdd_core.config.model import Config, Selection, differences
from ltdd_core.config.resolve import resolve, resolve_data, select
from ltdd_core.config.stored import asked_for
from ltdd_core.data.load import load_long_tailed
from ltdd_core.data.sets import LongTailedSet
from ltdd_core.distillation.distill import Result, distill
from ltdd_core.errors import InputError, either, how_to_set, unknown
from ltdd_core.evaluation.controls import TEACHER, check_control
from ltdd_core.evaluation.export import FORMATS as OF_CLASSIFIERS, export_classifier
from ltdd_core.evaluation.labelling import check_same_images, labelled
from ltdd_core.evaluation.lines import control_of, line_of
from ltdd_core.evaluation.quality import Quality, quality_of
from ltdd_core.evaluation.repeats import Repeated
from ltdd_core.evaluation.results import Plan, results_of
from ltdd_core.evaluation.shown import Table
from ltdd_core.evaluation.table import check_fits, fitted
from ltdd_core.networks.network import Network, NetworkFactory, Shape
from ltdd_core.networks.store import FOLDER as NETWORKS, NetworkStore
from ltdd_core.plugging.catalog import Catalog, installed
from ltdd_core.progress import Display, usual_display
from ltdd_core.runs.claim import claimed
from ltdd_core.runs.distilled import DISTILLED_FILE, load_distilled, save_distilled
from ltdd_core.runs.export import FORMATS as OF_SETS, export_distilled, format_of
from ltdd_core.runs.facts import versions
from ltdd_core.runs.folder import CLASSIFIERS, CONFIG, RunFolder
from ltdd_core.runs.precision import in_one_precision
from ltdd_core.setup import Setup


def configure(preset: Presets = None, **settings: Any) -> Config:
    """A configuration from keyword arguments shaped like a configuration file.

    For example ``configure(method="dm", data={"name": "digits-lt", "imbalance": 20}, ipc=5)``.

    Args:
        preset: the name of a preset, or several names, which the settings override.
        settings: sections and options; ``method="dm"`` is short for ``matcher={"name": "dm"}``.

    Raises:
        InputError: an unknown name or option, a value out of range.
    """
    return resolve(installed(), [Layer("configure()", settings)], preset)


def load_data(name: str, *, display: Display | None = None, **options: Any) -> LongTailedSet:
    """A long-tailed set by the name of its data source: ``load_data("digits-lt", imbalance=20)``.

    Args:
        name: of the data source; ``ltdd describe data`` lists them.
        display: shows how many images are read; one line unless given, and ``Display()`` shows nothing.
        options: of the data source, among them those of :class:`ltdd_core.LongTailOptions`.

    Raises:
        InputError: an unknown name or option, or the images are missing or cannot be used.
    """
    source = resolve_data(installed(), [Layer("load_data()", {"data": {"name": name, **options}})])
    return load_long_tailed(name, source.make(), display or usual_display())


def make_network(name: str, image_shape: Shape, outputs: int, **options: Any) -> Network:
    """A network by its name, with initial weights from torch's global generator, in evaluation mode.

    Args:
        name: of the network; ``ltdd describe network`` lists them.
        image_shape: ``(C, H, W)`` of the images.
        outputs: number of logits.
        options: of the network.

    Raises:
        InputError: an unknown name or option, or the network is not for such images.
    """
    channels, height, width = image_shape
    chosen = select(installed(), "network", {"name": name, **options})
    return NetworkFactory(chosen.component, chosen.options)((channels, height, width), outputs).eval()


def evaluate(
    distilled: Path | str,
    *,
    networks: Sequence[str] = (),
    repeats: int = 1,
    settings: Sequence[Layer | Mapping[str, Any]] = (),
    preset: Presets = None,
    controls: Sequence[str] = (),
    test_imbalances: Sequence[float] = (),
    out: Path | str | None = None,
    catalog: Catalog | None = None,
    display: Display | None = None,
    told: Callable[[Repeated], None] = lambda line: None,
) -> list[Repeated]:
    """Train classifiers on a distilled set and score them, one line for each network.

    Args:
        distilled: the folder of a run, or its ``distilled.safetensors`` (then say where the images of its
            data set are: ``settings=[{"data": {"root": ...}}]``).
        networks: names; the network it was distilled with unless given.  That network keeps the options of
            the run; ``settings`` change the options of any.
        repeats: how many seeds, from the configured one on.
        settings: what to change in the stored configuration, shaped like configuration files: ``head``,
            ``recipe``, ``plugins``, ``training``.  Another head drops the stored recipe.
        preset: one or several named configurations, above the stored one and below ``settings``.
        controls: other images that are trained on with the same labels and in the same way: the representatives of a
            sampler, such as ``random`` or ``herding``, or the ``whole`` long-tailed set; and the ``teacher`` itself.
        test_imbalances: imbalance factors above 1 of long-tailed test distributions, which ``test_distributions`` of a
            row are about; those of the run unless given.
        out: folder that keeps the configuration, the table, the predictions and the classifiers; nothing is kept
            unless given.
        catalog: finds components by name; made anew unless given.
        display: shows how far the work is; one line unless given, and ``Display()`` shows nothing.
        told: called with each line as soon as it is known.

    Returns:
        One :class:`Repeated` for each network: the mean and the population standard deviation over the seeds, in
        per cent; then one for each control and network.

    Raises:
        InputError: the file, the settings, the data or the folder cannot be used.
        RunFailed: training diverged, memory ran out, or a file cannot be written.
    """
    catalog = catalog or installed()
    if test_imbalances:
        settings = [*settings, Layer("evaluate()", {"test_imbalances": [*test_imbalances]})]
    plan = plan_evaluation(distilled, networks, repeats, settings, preset, catalog, controls=controls)
    display = display or usual_display()
    results = results_of(plan, None if out is None else Path(out), catalog=catalog, display=display, told=told)
    return Table(results.lines)


def quality(
    distilled: Path | str,
    *,
    networks: Sequence[str] = (),
    repeats: int = 1,
    settings: Sequence[Layer | Mapping[str, Any]] = (),
    preset: Presets = None,
    catalog: Catalog | None = None,
    display: Display | None = None,
    told: Callable[[Quality], None] = lambda scores: None,
) -> list[Quality]:
    """Compare a distilled set with the whole one and with random real images; see :mod:`ltdd_core.evaluation.quality`.

    Arguments and errors are those of :func:`evaluate`; head and recipe play no part.

    Returns:
        One :class:`Quality` for each network: accuracies and scores in per cent, means and population standard
        deviations over the seeds.
    """
    catalog = catalog or installed()
    plan = plan_evaluation(distilled, networks, repeats, settings, preset, catalog)
    store, display = NetworkStore(plan.store(None)), display or usual_display()
    known = Table[Quality]()
    with Setup.open(plan.config, catalog=catalog, display=display, store=store) as setup:
        if plan.distilled is not None:
            for scores in quality_of(setup, plan.distilled, plan.networks, repeats):
                known.append(scores)
                told(scores)
    return known


def export(
    run: Path | str,
    kind: str,
    out: Path | str | None = None,
    *,
    line: str | None = None,
    catalog: Catalog | None = None,
) -> Path:
    """Write a distilled set or a trained classifier for another tool, as a whole or not at all.

    Of a distilled set, ``ddranking``: ``images.pt`` float32 ``[C * IPC, 3, H, W]`` in normalised colours and sorted by
    class, ``labels.pt`` float32 logits ``[C * IPC, C]``, ``lr.pt``, a scalar; ``folder``: PNG files in a folder for
    each class, in displayable colours; ``npz``: arrays ``images``, ``labels``, ``soft_probabilities`` or
    ``soft_logits`` where there are soft labels, ``class_names`` and ``normalisation`` (a JSON text).

    Of a classifier, a folder with ``model-card.md`` and, for ``torch``, ``classifier.pt2``, a program of torch.export;
    for ``onnx``, ``classifier.onnx``; for ``state-dict``, ``model.safetensors`` and ``config.json``.  The first two
    take ``images``, float32 ``[n, C, H, W]`` in [0, 1], and give ``probabilities``, float32 ``[n, classes]``.

    Args:
        run: the folder of a run or of ``ltdd train``, a ``distilled.safetensors``, or the file of a classifier.
        kind: ``ddranking``, ``folder`` or ``npz`` of a distilled set; ``torch``, ``onnx`` or ``state-dict`` of a
            classifier.
        out: a folder, or the file for npz; ``export-KIND`` in the folder of the run unless given.
        line: the line of the result table whose classifier is written; the last one unless given.
        catalog: where the matcher is found whose decoder a distilled set needs.

    Returns:
        Where it is.

    Raises:
        InputError: the kind is unknown, there is nothing of that kind or it does not suit the format, a package is
            missing, or ``out`` is there already or cannot be written.
    """
    if kind in OF_CLASSIFIERS:
        return export_classifier(run, kind, out, line)
    if kind not in OF_SETS:
        raise unknown("format", kind, [*OF_SETS, *OF_CLASSIFIERS])
    if line is not None:
        names_line = how_to_set("line")
        raise InputError(
            f"{names_line} names a classifier, and {format_of(kind)} writes the distilled set: leave {names_line} out."
        )
    path = Path(run)
    no_set = (path / CLASSIFIERS).is_dir() and not (path / DISTILLED_FILE).exists()
    if no_set or CLASSIFIERS in (path.name, path.parent.name):
        raise InputError(
            f"{path} has classifiers and no distilled set, which {format_of(kind)} is for: "
            f"write a classifier with {format_of(', '.join(OF_CLASSIFIERS))}."
        )
    return export_distilled(path, kind, out, catalog=catalog)


def relabel(
    run: Path | str,
    out: Path | str,
    *,
    settings: Sequence[Layer | Mapping[str, Any]],
    preset: Presets = None,
    resume: bool = False,
    catalog: Catalog | None = None,
    display: Display | None = None,
) -> Result:
    """Give the images of a finished run soft labels, and score them as a run of its own.

    Args:
        run: the folder of the run, which stays as it is.
        out: the folder of the new run.
        settings: what to change in the configuration of the run, the labeller among it: ``[{"labeller": "teacher"}]``.
        preset: one or several named configurations, above the stored one and below ``settings``.
        resume: continue what is in ``out`` if there is something.
        catalog: finds components by name; made anew unless given.
        display: shows how far the work is; one line unless given, and ``Display()`` shows nothing.

    Raises:
        InputError: there is no finished run, the settings would make other images, the labeller does not suit it, or
            ``out`` cannot be used.
        RunFailed: the training of a teacher or of a classifier diverged.
    """
    catalog, display, run, out = catalog or installed(), display or usual_display(), Path(run), Path(out)
    distilled = load_distilled(run)
    given = [normalised(layer if isinstance(layer, Layer) else Layer("relabel()", dict(layer))) for layer in settings]
    before = normalised(Layer(str(run), _stored_settings(run, distilled.origin)))
    config = resolve(catalog, given, preset, stored=asked_for(catalog, before))
    _check_leaves_the_images(before, config)
    store = NetworkStore(config.compute.store or out / NETWORKS)
    RunFolder(out).check(config, resume=resume)
    config = in_one_precision(config, out)
    with claimed(out, ""):
        with (
            RunFolder.open(out, config, resume=resume, warn=display.warn) as folder,
            Setup.open(config, catalog=catalog, display=display, store=store) as setup,
        ):
            check_fits(setup.data, distilled)
            check_same_images(setup.data, distilled)
            if not (out / DISTILLED_FILE).exists():
                found = labelled(fitted(setup, distilled), replace(distilled, soft_labels=None, labeller=None))
                if folder.is_empty():
                    folder.begin(config)
                save_distilled(out / DISTILLED_FILE, replace(found, origin=_relabelled(distilled.origin, config)))
        return distill(config, out, resume=True, display=display, catalog=catalog, store=store)


OF_THE_IMAGES = ("matcher", "ipc", "iterations", "init")
"""What of a configuration decides nothing but the images."""


def _check_leaves_the_images(before: Layer, now: Config) -> None:
    """Refuse a new run that would say of its images what is true of others."""
    if "matcher" not in before.tree:  # a set that another program made
        return
    changed = differences(before.tree, now.to_tree(), now.changes())
    made = [f"{key} {how}" for key, how in changed.items() if key.partition(".")[0] in OF_THE_IMAGES]
    if made:
        raise InputError(f"{before.origin} keeps its images, and {made[0]}: leave that out, or distil again.")


def _relabelled(origin: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """What is behind the labels, and under ``images`` what was behind the set before."""
    facts = {"configuration": config.science(), "versions": versions(config)}
    return {**origin, **facts, "images": origin.get("images", origin)}


def plan_evaluation(
    distilled: Path | str,
    networks: Sequence[str],
    repeats: int,
    settings: Sequence[Layer | Mapping[str, Any]],
    preset: Presets,
    catalog: Catalog,
    *,
    controls: Sequence[str] = (),
    quality: bool = False,
) -> Plan:
    """What :func:`evaluate`, whose arguments these are, will do.

    Args:
        quality: whether :func:`quality` is part of it.

    Raises:
        InputError: the file or the settings cannot be used.
    """
    for control in controls:
        check_control(control, catalog)
    loaded = load_distilled(distilled)
    loaded.find_decoder(catalog)
    given = [normalised(layer if isinstance(layer, Layer) else Layer("evaluate()", dict(layer))) for layer in settings]
    tree = _stored_settings(Path(distilled), loaded.origin)
    # What made the set has no part in its evaluation, and need not be installed any more.
    used = {key: section for key, section in tree.items() if key not in ("matcher", "method", "labeller")}
    if isinstance(compute := used.get("compute"), Mapping):  # whether the run keeps its classifiers is its own business
        used["compute"] = {key: value for key, value in compute.items() if key != "keep"}
    stored = asked_for(catalog, Layer(str(distilled), {**used, "plugins": []}))
    named = [[Layer(either("--network", "networks"), {"network": {"name": name}})] for name in networks] or [[]]
    configs = [resolve(catalog, [*given, *name], preset, stored=stored, distils=False) for name in named]
    chosen = [config.network for config in configs]
    for control in controls:
        control_of(line_of(configs[0]), control)
    if TEACHER in controls and not loaded.has_soft_labels:
        raise InputError(f"{distilled} has hard labels, so there is no teacher: leave out that control.")
    of_set = (loaded, Path(distilled), controls, quality)
    return Plan(configs[0], chosen, [configs[0].head], repeats, *of_set)


def train_original(
    config: Config,
    *,
    networks: Sequence[Selection] = (),
    heads: Sequence[Selection] = (),
    repeats: int = 1,
    out: Path | None = None,
    catalog: Catalog | None = None,
    display: Display | None = None,
    told: Callable[[Repeated], None] = lambda line: None,
) -> list[Repeated]:
    """Train classifiers on the long-tailed set itself: what a distilled set has to be compared with.

    Args:
        config: from :func:`configure_original`.
        networks: those to train; the configured one unless given.
        heads: each is trained with each network; the configured one unless given.
        repeats: how many seeds, from the configured one on.
        out: folder that keeps the configuration, the table, the predictions and the classifiers; nothing is kept
            unless given.
        catalog: where ``config`` was resolved; made anew unless given.
        display: shows how far the work is; one line unless given, and ``Display()`` shows nothing.
        told: called with each line as soon as it is known.

    Returns:
        A line for each head and network, in per cent.

    Raises:
        InputError: the data or the folder cannot be used, or head and recipe do not go together.
        RunFailed: training diverged, or a file cannot be written.
    """
    plan = Plan(config, networks or [config.network], heads or [config.head], repeats)
    return Table(results_of(plan, out, catalog=catalog, display=display or usual_display(), told=told).lines)


def configure_original(layers: Sequence[Layer], preset: Presets = None, catalog: Catalog | None = None) -> Config:
    """A configuration for :func:`train_original`: as any other, but no method needs to be named.

    Whatever head or plugin is chosen, the original images train all of its stages.

    Args:
        layers: what was set, the later ones above the earlier ones.
        preset: the name of a preset, or several names, which the layers override.
        catalog: finds components by name; made anew unless given.

    Raises:
        InputError: an unknown name or option, a value out of range.
    """
    only_original = Layer("train", {"recipe": {"name": "direct", "data": "original"}})
    return resolve(catalog or installed(), [*layers, only_original], preset, distils=False)


def _stored_settings(path: Path, origin: Any) -> dict[str, Any]:
    """The configuration of the run folder, which knows where the data are; else the one in the file."""
    folder = path if path.is_dir() else path.parent
    if (folder / CONFIG).exists():
        return RunFolder(folder).stored_config()
    inside = origin.get("configuration", {}) if isinstance(origin, dict) else None
    if not isinstance(inside, dict):
        raise InputError(f"{path}: its configuration is malformed.")
    return dict(inside)
