"""Read a grid file: the runs to do, the classifiers to train on them, and the rows of the table.

A cell is one point of the grid: a run, which distils, and the lines, which are classifiers trained on its
distilled set, on the original one, or on both.  Files are named after what decides their content, so cells that
differ in the plugin only share a run, and classifiers that see no distilled image are trained once for all
methods.  Where the images lie decides no name; data sets that differ in nothing else are told apart by their labels.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ltdd_core.bench.axes import AXES, Value, expanded, plugin_names, read_axes
from ltdd_core.config.ipc import ipc_label
from ltdd_core.config.layers import Layer, Tree, from_file, normalised
from ltdd_core.config.model import DEFAULT_NAMES, Config
from ltdd_core.config.resolve import resolve, select
from ltdd_core.config.validation import validate_options
from ltdd_core.errors import InputError, brief, unknown
from ltdd_core.evaluation.controls import check_control
from ltdd_core.evaluation.lines import Line, control_of, line_of, lines_of
from ltdd_core.options import BaseOptions, option
from ltdd_core.plugging.catalog import Catalog

KEYS = ("title", "common", *AXES, "lines", "published", "launcher")
LINE_KEYS = ("plugins", "plugin", "head", "recipe", "training", "network", "sampler", "augment", "control")
"""What a line may change: how a classifier is trained, and nothing that distils."""
LONGEST = 40  # characters of a label in the name of a file


class Published(BaseOptions):
    """A published result, and the row beside which it stands; what is left out may be anything."""

    line: str = Field(description="name of the line as the table shows it")
    data: str | None = option(None, "label of the data set")
    imbalance: float | Literal["natural"] | None = option(None, "imbalance factor")
    ipc: int | str | None = option(None, "images per class, as the table shows them")
    method: str | None = option(None, "label of the method")
    plugins: str | None = option(None, "plugins of the cell")
    accuracy: float | None = option(None, "per cent")
    std: float | None = option(None, "deviation over classes")
    group_accuracy: float | None = option(None, "per cent")
    per_class: tuple[float, ...] | None = option(None, "per cent")
    source: str = Field(description="where it was published")


@dataclass(frozen=True)
class CellLine:
    """A classifier of a cell."""

    name: str
    line: Line
    config: Config
    run: str | None
    """The folder of the run whose distilled set it sees; None: original images only."""
    file: str
    """Where its predictions are kept."""


@dataclass(frozen=True)
class Cell:
    """One point of the grid."""

    data: str
    imbalance: float | str
    ipc: int | str
    """One number, or what the table calls the numbers of the classes."""
    method: str
    plugins: str
    seed: int
    config: Config
    """Of the run, which trains nothing but the plain classifiers."""
    folder: str
    lines: tuple[CellLine, ...]

    @property
    def name(self) -> str:
        """What the user is told."""
        plugins = f", plugins {self.plugins}" if self.plugins else ""
        return f"{self.method}, {self.data}, IF {_short(self.imbalance)}, IPC {self.ipc}{plugins}, seed {self.seed}"


@dataclass(frozen=True)
class GridRow:
    """A row of the table: one line of the cells that differ in nothing but the seed."""

    data: str
    imbalance: float | str
    ipc: int | str | None
    method: str | None
    plugins: str
    line: str
    members: tuple[tuple[Cell, CellLine], ...]
    published: Published | None = None


@dataclass(frozen=True)
class Grid:
    """Everything a grid file asks for, resolved and checked."""

    title: str
    cells: tuple[Cell, ...]
    rows: tuple[GridRow, ...]

    def runs(self) -> list[list[Cell]]:
        """The cells of each run, in the order in which they are done."""
        by_folder: dict[str, list[Cell]] = {}
        for cell in self.cells:
            by_folder.setdefault(cell.folder, []).append(cell)
        return list(by_folder.values())


def read_grid(path: Path, catalog: Catalog, above: Sequence[Layer] = (), *, tree: Tree | None = None) -> Grid:
    """Read and check a grid file; every cell and line is resolved.

    Args:
        path: of the YAML file.
        catalog: of all components.
        above: layers above everything in the file, from the command line.
        tree: what is in the file, where it was read before.

    Raises:
        InputError: naming the file and what is wrong in it.
    """
    tree = from_file(path).tree if tree is None else tree
    for key in tree:
        if key not in KEYS:
            raise InputError(f"{path}: {unknown('key', key, KEYS)}")
    reader = _GridReader(path, catalog, tree, above)
    cells = [reader.cell(point) for point in expanded(read_axes(tree, str(path)))]
    _check_different(path, cells)
    rows = _with_published(path, _rows(cells), reader.listed("published"))
    title = tree.get("title", path.stem)
    if not isinstance(title, str):
        raise InputError(f"{path}: title must be text, not {brief(title)}.")
    return Grid(title, tuple(cells), tuple(rows))


class _GridReader:
    """Resolves the points of one file."""

    def __init__(self, path: Path, catalog: Catalog, tree: Tree, above: Sequence[Layer]) -> None:
        self.path, self.catalog, self.tree, self.above = path, catalog, tree, above
        common = tree.get("common", {})
        if not isinstance(common, dict):
            raise InputError(f"{path}: common is a configuration, not {brief(common)}.")
        self.common = normalised(Layer(f"{path}: common", common))
        self.plugins = plugin_names(self.common.tree.get("plugins", []), f"{path}: common")
        self.line_trees = [self._line_tree(entry) for entry in self.listed("lines")]

    def listed(self, key: str) -> list[Tree]:
        """The mappings under a key; none if it is not there."""
        entries = self.tree.get(key, [])
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise InputError(f"{self.path}: {key} is a list of mappings, not {brief(entries)}.")
        if key in self.tree and not entries:
            raise InputError(f"{self.path}: {key} is empty; leave it out.")
        return entries

    def cell(self, point: dict[str, Value]) -> Cell:
        """Resolve a point of the grid and its lines."""
        layers = self._layers(point)
        with self._naming_the_file():
            full = resolve(self.catalog, layers, point["methods"].preset)
            run = self._run_config(full, point["plugins"].plugins)
            method = point["methods"].label or full.matcher.shown
            data = point["data"].label or full.data.shown
            lines = [] if self.line_trees else self._own_lines(point, full, run, data)
        lines += [self._line(tree, point, run, method, data) for tree in self.line_trees]
        return Cell(
            data=data,
            imbalance=full.data.options.imbalance,
            ipc=full.run.ipc if isinstance(full.run.ipc, int) else ipc_label(full.run.ipc),
            method=method,
            plugins=point["plugins"].label,
            seed=full.run.seed,
            config=run,
            folder=run_folder(run, data),
            lines=tuple(lines),
        )

    def _own_lines(self, point: dict[str, Value], full: Config, run: Config, data: str) -> list[CellLine]:
        """The lines of a run's table, where the file lists none."""
        base = self._without_method(point, run)
        shared = {line.name: line for line in lines_of(base, self.catalog) if "distilled" not in line.sets}
        return [
            cell_line(line.name, shared[line.name], base, run, data)
            if line.name in shared
            else cell_line(line.name, line, full, run, data)
            for line in lines_of(full, self.catalog)
        ]

    def _line(self, tree: Tree, point: dict[str, Value], run: Config, method: str, data: str) -> CellLine:
        """A listed line."""
        where = f"line {tree['name']!r}"
        own = ("name", "control")
        layer = Layer(f"{self.path}: {where}", {key: value for key, value in tree.items() if key not in own})
        with self._naming_the_file(f"{where}: "):
            config = resolve(self.catalog, [*self._layers(point), layer], point["methods"].preset)
            if "distilled" not in line_of(config).sets:
                config = self._without_method(point, run, layer)
            name, line = tree["name"].replace("{method}", method), line_of(config)
            if "control" in tree:
                check_control(tree["control"], self.catalog)
                line = control_of(line, tree["control"])
            return cell_line(name, line, config, run, data)

    def _without_method(self, point: dict[str, Value], run: Config, *line: Layer) -> Config:
        """What a method says is not for a classifier that sees none of its images."""
        matcher = Layer(str(self.path), {"matcher": {"name": run.matcher.name}})
        return resolve(self.catalog, [matcher, *self._layers(point, method=False), *line])

    def _layers(self, point: dict[str, Value], *, method: bool = True) -> list[Layer]:
        layers = [value.layer for axis, value in point.items() if axis != "methods"]
        if point["plugins"].label:
            plugins = list(dict.fromkeys([*self.plugins, *point["plugins"].plugins]))
            layers.append(Layer(f"{self.path}: plugins", {"plugins": plugins}))
        return [self.common, *([point["methods"].layer] if method else []), *layers, *self.above]

    def _run_config(self, config: Config, cell_plugins: Sequence[str]) -> Config:
        """What distils: the plain head and recipe, and no plugin that only this cell has."""
        plain = lines_of(config, self.catalog)[0].head
        recipe = select(self.catalog, "recipe", {"name": DEFAULT_NAMES["recipe"]})
        plugins = tuple(name for name in config.run.plugins if name in self.plugins or name not in cell_plugins)
        return replace(config, head=plain, recipe=recipe, run=config.run.model_copy(update={"plugins": plugins}))

    def _line_tree(self, entry: Tree) -> Tree:
        if not isinstance(entry.get("name"), str) or not entry["name"]:
            raise InputError(f"{self.path}: a line needs a name: {brief(entry)}.")
        origin = f"{self.path}: line {entry['name']!r}"
        for key in entry:
            if key not in ("name", *LINE_KEYS):
                raise InputError(f"{origin}: {unknown('key', key, ['name', *LINE_KEYS])}")
        tree = normalised(Layer(origin, entry)).tree
        if "plugins" in tree:
            tree["plugins"] = [*self.plugins, *plugin_names(tree["plugins"], origin)]
        return tree

    @contextmanager
    def _naming_the_file(self, where: str = "") -> Iterator[None]:
        try:
            yield
        except InputError as error:
            text = str(error)
            named = str(self.path) in text or text.startswith("--")
            raise InputError(text if named else f"{self.path}: {where}{text}") from error


def decided_by(line: Line, config: Config, run: Config) -> Tree:
    """What decides the predictions of a classifier, as far as it differs from the defaults."""
    return {
        **deciding(line, config.deciding_changes(), line.head.changes()),
        "sets": list(line.sets),
        "run": run.deciding_changes() if "distilled" in line.sets else None,
        **({} if line.control is None else {"control": line.control}),
    }


def deciding(line: Line, tree: Tree, head: Tree) -> Tree:
    """What decides a classifier beside its distilled set, of a configuration tree and the tree of its head."""
    unused = {"original", "distilled"} - set(line.sets)
    sections = ("data", "sampler", "network", "augment", "seed", "compute")
    return {
        **{key: tree[key] for key in sections if key in tree},
        "training": {key: value for key, value in tree["training"].items() if key not in unused},
        "head": head,
    }


def run_folder(run: Config, data: str) -> str:
    """The name of the folder of a run; ``data`` is how the table calls its data set."""
    return f"{_stem(run, data, distilled=True)}-{_digest(run.deciding_changes(), run, data)}"


def cell_line(name: str, line: Line, config: Config, run: Config, data: str) -> CellLine:
    """A classifier, and where its predictions are kept; ``data`` is how the table calls its data set."""
    sees = "distilled" in line.sets
    stem = f"{_stem(run, data, distilled=sees)}-{'+'.join(line.sets)}-{line.head.name}"
    file = f"{stem}-{_digest(decided_by(line, config, run), run, data)}.safetensors"
    return CellLine(name, line, config, run_folder(run, data) if sees else None, file)


def _stem(config: Config, data: str, *, distilled: bool) -> str:
    """What a reader of the folder wants to know."""
    method = f"-{config.matcher.name}-ipc{ipc_label(config.run.ipc)[:LONGEST]}" if distilled else ""
    text = f"{data[:LONGEST]}-if{_short(config.data.options.imbalance)}{method}-seed{config.run.seed}"
    return re.sub(r"[^\w.+-]+", "-", text)


def _short(number: float | str) -> str:
    return number if isinstance(number, str) else f"{number:g}"


def _digest(tree: Tree, config: Config, data: str) -> str:
    """Of what decides a file, and of the label of its data set, if it has one."""
    tree = tree if data == config.data.shown else {**tree, "label": data}
    return hashlib.blake2b(json.dumps(tree, sort_keys=True).encode(), digest_size=5).hexdigest()


def _check_different(path: Path, cells: Sequence[Cell]) -> None:
    """Refuse a grid with the same cell twice, and cells that the table could not tell apart."""
    seen: dict[str, str] = {}
    names = set()
    for cell in cells:
        decided = [decided_by(line.line, line.config, cell.config) for line in cell.lines]
        contents = (
            f"{cell.config.data.to_tree()} {cell.config.deciding_changes()} {decided} {cell.plugins}",
            f"{cell.folder}: {[line.file for line in cell.lines]} {cell.plugins}",
        )
        if same := next((seen[content] for content in contents if content in seen), None):
            raise InputError(f"{path}: the cells {same!r} and {cell.name!r} are the same.")
        if cell.name in names:
            raise InputError(f"{path}: two cells are called {cell.name!r}; give methods or data a label.")
        seen.update(dict.fromkeys(contents, cell.name))
        names.add(cell.name)


def _rows(cells: Sequence[Cell]) -> list[GridRow]:
    """Lines beside each other, methods below one another; the same classifiers once."""
    table_rows: list[GridRow] = []
    seen: set[tuple[str, ...]] = set()
    for place in dict.fromkeys((cell.data, cell.imbalance, cell.ipc) for cell in cells):
        at_place = [cell for cell in cells if (cell.data, cell.imbalance, cell.ipc) == place]
        for index in range(max(len(cell.lines) for cell in at_place)):
            for method, plugins in dict.fromkeys((cell.method, cell.plugins) for cell in at_place):
                same_method = [cell for cell in at_place if (cell.method, cell.plugins) == (method, plugins)]
                members = tuple((cell, cell.lines[index]) for cell in same_method if index < len(cell.lines))
                files = tuple(line.file for _, line in members)
                if members and files not in seen:
                    seen.add(files)
                    table_rows.append(_row(members))
    return table_rows


def _row(members: tuple[tuple[Cell, CellLine], ...]) -> GridRow:
    cell, line = members[0]
    sees = line.run is not None
    return GridRow(
        cell.data,
        cell.imbalance,
        cell.ipc if sees else None,
        cell.method if sees else None,
        cell.plugins,
        line.name,
        members,
    )


def _with_published(path: Path, rows: Sequence[GridRow], entries: Sequence[Tree]) -> list[GridRow]:
    """Each published result beside its row.

    Raises:
        InputError: two rows cannot be told apart; an entry is malformed, fits no row or several.
    """
    seen = set()
    for row in rows:
        identity = (row.data, row.imbalance, row.ipc, row.method, row.plugins, row.line)
        if identity in seen:
            raise InputError(f"{path}: two different lines are called {row.line!r}; give them different names.")
        seen.add(identity)
    completed = list(rows)
    for entry in entries:
        try:
            published = validate_options(("published",), Published, entry)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        fitting = [index for index, row in enumerate(completed) if _fits(published, row)]
        if len(fitting) != 1:
            some = f"{len(fitting)} rows; say which with data, imbalance, ipc, method or plugins" if fitting else ""
            known = ", ".join(repr(name) for name in dict.fromkeys(row.line for row in rows))
            raise InputError(f"{path}: published line {published.line!r} fits {some or f'no row; lines are {known}'}.")
        if completed[fitting[0]].published is not None:
            raise InputError(f"{path}: published line {published.line!r} is there twice.")
        completed[fitting[0]] = replace(completed[fitting[0]], published=published)
    return completed


def _fits(published: Published, row: GridRow) -> bool:
    wanted: dict[str, Any] = published.model_dump(include={"data", "imbalance", "ipc", "method", "plugins"})
    same = all(value is None or value == getattr(row, key) for key, value in wanted.items())
    return same and published.line == row.line
