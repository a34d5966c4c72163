"""One configuration from many places: defaults < data source < preset < YAML file < command line.

Every component declares its own options; here the layers of :mod:`ltdd_core.config.layers` are put together and
validated, and what is wrong is answered with where it was written and the nearest name that would have
been right.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ltdd_core.config.layers import COMPONENTS, Layer, Presets, Tree, check_said_once, located, merged, normalised
from ltdd_core.config.model import (
    DEFAULT_NAMES,
    NO_LABELLER,
    NO_METHOD,
    REAL,
    SECTIONS,
    STARTS,
    Compute,
    Config,
    DistilledTraining,
    RunOptions,
    Selection,
    Training,
)
from ltdd_core.config.presets import ABOUT, SOURCES, preset_tree
from ltdd_core.config.validation import validate_options
from ltdd_core.errors import InputError, OptionError, brief, either, how_to_set, unknown
from ltdd_core.options import BaseOptions, Named, section_of
from ltdd_core.plugging.catalog import KINDS, Catalog, Entry, noun
from ltdd_core.plugging.loading import Plugin

NOT_MADE_BY_NAME = {
    "network": "the network is the run's. A matcher takes task.networks, a head trainer.train",
    "data": "the data are the run's, task.data. Others are read with ltdd_core.load_data",
    "preset": "a preset is a configuration. It goes to ltdd_core.configure",
    "launcher": "a launcher has the runs of a grid done. ltdd bench makes it",
}
"""Kinds that ``component`` does not make, and what to use in their place."""


def resolve(
    catalog: Catalog,
    layers: Sequence[Layer],
    preset: Presets = None,
    *,
    stored: Layer | None = None,
    distils: bool = True,
) -> Config:
    """Put layers together, later ones above earlier ones, and validate the result.

    Args:
        catalog: of all components.
        layers: the lowest first.
        preset: one or several, below all of them.
        stored: a configuration from before, below the preset and what plugins choose.  Another head than its own
            drops its recipe, which was made for that head.
        distils: whether a method must be named; without, a configuration may do without one.

    Raises:
        InputError: an unknown name, an unknown option, a value out of range.
    """
    stack = _stacked(catalog, layers, preset, stored, distils=distils)
    try:
        stack = _with_sections_of_the_matcher(catalog, stack)
        source = _entry(catalog, "data", merged(stack)["data"])
        stack.insert(1, _suggestions(catalog, source))
        return _validated(catalog, merged(stack), distils=distils)
    except OptionError as error:
        raise located(stack, error) from error


def _stacked(
    catalog: Catalog, layers: Sequence[Layer], preset: Presets, stored: Layer | None, *, distils: bool
) -> list[Layer]:
    """All layers but what the data source suggests, the lowest first; no component is imported, and all names exist."""
    given = [_spelt_out(catalog, layer) for layer in layers]
    check_said_once(given)
    names = [preset] if isinstance(preset, str) else preset or ()
    lower = [preset_layer(catalog, name) for name in names]
    before = [] if stored is None else [_spelt_out(catalog, stored)]
    wanted = merged([*before, *lower, *given])
    upper = [*lower, *_chosen_by_plugins(catalog, wanted, named=merged(given)), *given]
    stack = [_defaults(), *(_without_its_recipe(layer, merged(upper)) for layer in before), *upper]
    try:
        _check_names(catalog, merged(stack), distils=distils)
    except OptionError as error:
        raise located(stack, error) from error
    return stack


def check_names(catalog: Catalog, layers: Sequence[Layer], preset: Presets = None, *, distils: bool = False) -> Tree:
    """See that everything that a user names is there, before any of it is imported.

    Args:
        catalog: of all components.
        layers: what the user gave, the lowest first.
        preset: one or several, below all of them.
        distils: whether a method must be named.

    Returns:
        What was given over the defaults, with all short forms spelt out and nothing validated but the names.

    Raises:
        InputError: an unknown name, or no method.
    """
    return merged(_stacked(catalog, layers, preset, None, distils=distils))


def check_data(catalog: Catalog, layers: Sequence[Layer], preset: Presets = None) -> str:
    """See that the data are where the user says, before anything else is imported; what the data are called.

    Raises:
        InputError: an unknown option of the data source, or the data are not there.
    """
    stack = _stacked(catalog, layers, preset, None, distils=False)
    try:
        selection = select(catalog, "data", merged(stack)["data"])
    except OptionError as error:
        raise located(stack, error) from error
    selection.make().check()
    return selection.title


def resolve_data(catalog: Catalog, layers: Sequence[Layer]) -> Selection:
    """Only the data source of a configuration that says nothing else.

    Raises:
        InputError: an unknown name, an unknown option, a value out of range, another section.
    """
    stack = [_spelt_out(catalog, layer) for layer in layers]
    check_said_once(stack)
    tree = merged([_defaults(), *stack])
    try:
        for key in merged(stack):
            if key != "data":
                raise OptionError({(key,): str(unknown("section", key, ["data"]))})
        return select(catalog, "data", tree["data"])
    except OptionError as error:
        raise located(stack, error) from error


def preset_layer(catalog: Catalog, name: str) -> Layer:
    """A preset by name.

    Raises:
        InputError: there is none of that name, or it is not a mapping.
    """
    tree = dict(preset_tree(catalog, name))
    for said in (SOURCES, ABOUT):
        tree.pop(said, None)
    return _spelt_out(catalog, Layer(f"preset {name!r}", tree))


def select(catalog: Catalog, kind: str, section: Mapping[str, Any]) -> Selection:
    """A component of a kind from its section: ``{"name": ..., option: value, ...}``.

    Raises:
        InputError: an unknown name or option, a value out of range.
    """
    spelt_out = catalog.spelt_out(kind, section)
    entry = _entry(catalog, kind, spelt_out)
    component: Any = entry.load()
    values = {key: value for key, value in spelt_out.items() if key != "name"}
    options = validate_options((kind,), component.Options, values)
    _check_named(catalog, (kind,), options)
    return Selection(kind, entry.name, options, component, str(entry.owner))


def _check_named(catalog: Catalog, place: tuple[str, ...], options: BaseOptions) -> None:
    """See that components which options name are there: a run should not find out after hours.

    Raises:
        OptionError: with the nearest name.
    """
    for name, field in type(options).model_fields.items():
        value, extra = getattr(options, name), field.json_schema_extra
        if isinstance(value, BaseOptions):
            _check_named(catalog, (*place, name), value)
        elif value is not None and isinstance(extra, Mapping) and extra.get("component"):
            try:
                _check_one(catalog, str(extra["component"]), value)
            except InputError as error:
                raise OptionError({(*place, name): f"{'.'.join((*place, name))}: {error}"}) from error


def _check_one(catalog: Catalog, kind: str, named: Named) -> None:
    section = catalog.spelt_out(kind, section_of(named))
    if not isinstance(section.get("name"), str):
        raise InputError(f"which {kind}? Its options need its name beside them.")
    if isinstance(named, str) and section == {"name": named}:
        catalog.get(kind, named).load()  # one that is not finished is refused here too
    else:
        select(catalog, kind, section)


def component_maker(catalog: Catalog) -> Callable[[str, str | Mapping[str, Any]], Any]:
    """``component("head", "cosine")``, or with options, ``{"name": "cosine", "scale": 10}``: a component.

    It raises InputError for an unknown kind, name or option, and for a kind that is not made from its options alone.
    """

    def component(kind: str, named: str | Mapping[str, Any]) -> Any:
        if kind in NOT_MADE_BY_NAME:
            raise InputError(f"component({kind!r}, ...) does not exist: {NOT_MADE_BY_NAME[kind]}.")
        if kind not in KINDS:
            raise unknown("kind of component", kind, KINDS.keys() - NOT_MADE_BY_NAME.keys())
        return select(catalog, kind, section_of(named)).make()

    return component


def _spelt_out(catalog: Catalog, layer: Layer) -> Layer:
    """The same layer with all short forms spelt out, arguments of names among them.

    Raises:
        InputError: it is malformed, or a name has an argument that it cannot have.
    """
    tree = normalised(layer).tree
    try:
        sections = {kind: catalog.spelt_out(kind, tree[kind]) for kind in COMPONENTS if kind in tree}
    except InputError as error:
        raise InputError(f"{layer.origin}: {error}") from error
    return Layer(layer.origin, {**tree, **sections})


def _with_sections_of_the_matcher(catalog: Catalog, stack: list[Layer]) -> list[Layer]:
    """Its nested options, such as ``matcher.experts``, can be written as a section of their own: ``experts``."""
    name = merged(stack).get("matcher", {}).get("name")
    if name is None:
        return stack
    options = getattr(_entry(catalog, "matcher", {"name": name}).load(), "Options", BaseOptions)
    nested = [
        key
        for key, field in options.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseOptions) and key not in SECTIONS
    ]
    return [_moved(layer, nested) for layer in stack]


def _moved(layer: Layer, sections: Sequence[str]) -> Layer:
    tree = {key: value for key, value in layer.tree.items() if key not in sections}
    inside = {key: layer.tree[key] for key in sections if key in layer.tree}
    if not inside:
        return layer
    below = Layer(layer.origin, {"matcher": inside})
    return Layer(layer.origin, merged([below, Layer(layer.origin, tree)]))


def _without_its_recipe(stored: Layer, upper: Tree) -> Layer:
    head = stored.tree.get("head", {}).get("name")
    if upper.get("head", {}).get("name", head) == head:
        return stored
    return Layer(stored.origin, {key: section for key, section in stored.tree.items() if key != "recipe"})


def _defaults() -> Layer:
    return Layer("default", {kind: {"name": name} for kind, name in DEFAULT_NAMES.items()})


def _suggestions(catalog: Catalog, source: Entry) -> Layer:
    """What a data source suggests; for training on a distilled set it stands apart, below the recipe of a method."""
    layer = _spelt_out(catalog, Layer(f"data source {source.name!r}", dict(source.load().suggested)))
    training = layer.tree.get("training", {})
    if not isinstance(training, Mapping) or "distilled" not in training:
        return layer
    place, distilled = ("training", "distilled"), training["distilled"]
    try:
        _check_named(catalog, place, validate_options(place, DistilledTraining, distilled))
    except OptionError as error:
        raise InputError(str(located([layer], error))) from error
    rest = {key: value for key, value in training.items() if key != "distilled"}
    return Layer(layer.origin, {**layer.tree, "training": {**rest, "suggested": distilled}})


def _entry(catalog: Catalog, kind: str, section: Mapping[str, Any]) -> Any:
    try:
        return catalog.get(kind, section["name"])
    except InputError as error:
        raise OptionError({(kind, "name"): str(error)}) from error


def _chosen_by_plugins(catalog: Catalog, wanted: Tree, *, named: Tree) -> list[Layer]:
    """What active plugins stand for, a layer each; ``named`` is what the user said and they cannot change."""
    names = wanted.get("plugins", ())
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise InputError(f"plugins must be a list of names, not {brief(names)}.")
    chosen: dict[str, tuple[str, str]] = {}
    layers = []
    for plugin in catalog.plugins.named(names):
        answer = _choice(plugin, catalog.plugins.call(plugin, "ltdd_choose", config=copy.deepcopy(wanted)))
        for kind, name in answer.items():
            if kind not in COMPONENTS:
                raise InputError(f"plugin {plugin.name!r} ({plugin}) chooses for {kind!r}, which does not exist.")
            if "name" in named.get(kind, {}):
                continue
            first_choice, first_plugin = chosen.setdefault(kind, (name, plugin.name))
            if first_choice != name:
                raise InputError(
                    f"plugins {first_plugin!r} and {plugin.name!r} choose different {noun(kind)}s, "
                    f"{first_choice!r} and {name!r}: name one with {how_to_set(f'{kind}.name', 'NAME')}."
                )
        tree = {kind: {"name": name} for kind, name in answer.items()}
        layers.append(_spelt_out(catalog, Layer(f"plugin {plugin.name!r}", tree)))
    return layers


def _choice(plugin: Plugin, answer: Any) -> Mapping[str, str]:
    if answer is None:
        return {}
    if not isinstance(answer, Mapping) or not all(isinstance(text, str) for item in answer.items() for text in item):
        raise InputError(
            f"plugin {plugin.name!r} ({plugin}): ltdd_choose must return component names by kind, not {brief(answer)}."
        )
    return answer


def _one_of(catalog: Catalog, kind: str) -> str:
    """How to name a component, with all there are."""
    names = catalog.names(kind)
    return either(
        how_to_set(f"{kind}.name", "|".join(names)), f"{how_to_set(f'{kind}.name')} one of {', '.join(names)}"
    )


def _check_names(catalog: Catalog, tree: Tree, *, distils: bool) -> None:
    """See that there is a component of each name, and a method; none is imported to find out."""
    if "name" not in tree.get("matcher", {}):
        _check_keys(tree)
        if distils:
            raise InputError(f"name a method: {_one_of(catalog, 'matcher')}.")
    absent = {"labeller": NO_LABELLER.name}
    for kind in COMPONENTS:
        name = tree.get(kind, {}).get("name")
        if name is not None and name != absent.get(kind):
            _entry(catalog, kind, tree[kind])
    init = tree.get("init", REAL)
    if (
        isinstance(init, str)
        and init.isprintable()
        and init.partition(":")[0] not in (*STARTS, *catalog.names("sampler"))
    ):
        raise OptionError({("init",): str(unknown("value of init", init, [*STARTS, *catalog.names("sampler")]))})


def _check_keys(tree: Tree) -> None:
    for key in tree:
        if key not in SECTIONS:
            raise OptionError({(key,): str(unknown("option", key, {*SECTIONS, "method", "plugin"}))})


def _validated(catalog: Catalog, tree: Tree, *, distils: bool) -> Config:
    _check_keys(tree)
    method = "name" in tree.get("matcher", {})
    run = {key: value for key, value in tree.items() if key in RunOptions.model_fields}
    labeller = tree.get("labeller", {"name": NO_LABELLER.name}).get("name")
    if labeller is None:
        raise InputError(f"name a labeller beside its options: {_one_of(catalog, 'labeller')}.")
    absent = {"matcher": not method, "labeller": labeller == NO_LABELLER.name}
    chosen = {kind: select(catalog, kind, tree[kind]) for kind in COMPONENTS if not absent.get(kind)}
    options: RunOptions = validate_options((), RunOptions, run)
    if method:
        chosen["matcher"] = chosen["matcher"].following(options)
    built_in = options.init in (*STARTS, chosen["sampler"].name)
    training: Training = validate_options(("training",), Training, tree.get("training", {}))
    _check_named(catalog, ("training",), training)
    return Config(
        **{"matcher": NO_METHOD, "labeller": NO_LABELLER, **chosen},
        start=None if built_in else select(catalog, "sampler", {"name": options.init}),
        run=options,
        training=training,
        compute=validate_options(("compute",), Compute, tree.get("compute", {})),
    )
