"""Tensors and documents on disk: safetensors, JSON and CSV, written atomically, never pickle."""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import json
import math
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from ltdd_core.errors import InputError, WriteError, reason_of

NOT_OF_FOLDERS = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS}
"""How file systems answer that cannot sync a folder (SMB, shared folders of virtual machines)."""
TEMPORARY = ".tmp"
"""How the names of files end that are not written to their end yet."""
SEEN_AT_ONCE = 2**22
"""Numbers of a tensor."""
METADATA = "__metadata__"
"""The part of the header of a safetensors file that is no tensor."""


def cache_folder() -> Path | None:
    """The user's cache folder, which need not be there yet; None where the user has no home, as in some containers."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ltdd"
    except RuntimeError:
        return None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what an operating system says when it cannot write into one line.

    Raises:
        WriteError: no space, no permission, no such folder.
    """
    try:
        yield
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}.") from error


def write_atomically(path: Path, content: bytes | Iterable[bytes | memoryview]) -> None:
    """Write a file so that a reader sees all of it or what was there before, whatever happens meanwhile.

    Several processes may write the same file at once; the last to finish wins.

    Args:
        path: of the file, which is replaced where there is one.
        content: all of it, or its parts one after another.

    Raises:
        WriteError: it cannot be written; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY}")
    with writing(path):
        try:
            with temporary.open("xb") as file:
                for part in (content,) if isinstance(content, bytes) else content:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def sync(path: Path) -> None:
    """Make what was written to a file survive a power cut, whoever has it open.

    Raises:
        WriteError: the disk is full or broken.
    """
    with writing(path), path.open("r+b") as file:
        os.fsync(file.fileno())


def save_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """A safetensors file with JSON facts in its metadata, written atomically.

    The same tensors and facts give the same bytes.

    Args:
        path: of the file, which is replaced where there is one.
        tensors: of any dtype and device, by name.
        facts: what JSON can hold, by name.

    Raises:
        WriteError: the file cannot be written.
        ValueError: a number of the facts is not finite.
    """
    header = _header_of(tensors, {key: json_text(value) for key, value in facts.items()})

    def content() -> Iterator[bytes | memoryview]:
        yield _header_bytes(header)
        for name in header:
            if name != METADATA:
                yield _memory_of(tensors[name])

    write_atomically(path, content())


def save_bytes_in_parts(
    path: Path, name: str, shape: Sequence[int], parts: Iterable[Tensor], facts: Mapping[str, Any]
) -> None:
    """A safetensors file with one uint8 tensor that need not fit into memory, written atomically.

    Args:
        path: of the file, which is replaced where there is one.
        name: of the tensor.
        shape: of the tensor.
        parts: uint8 on the CPU, of the shape of the tensor except for the first dimension; all of them make it up.
        facts: as of :func:`save_tensors`.

    Raises:
        WriteError: the file cannot be written.
        ValueError: the parts do not add up to the shape, or a number of the facts is not finite.
    """
    length, written = math.prod(shape), 0
    header = {
        METADATA: {key: json_text(value) for key, value in facts.items()},
        name: {"dtype": "U8", "shape": list(shape), "data_offsets": [0, length]},
    }

    def content() -> Iterator[bytes | memoryview]:
        nonlocal written
        yield _header_bytes(header)
        for part in parts:
            written += part.numel()
            yield _memory_of(part)
        if written != length:
            raise ValueError(f"parts of {written} bytes do not make a tensor of {length}")

    write_atomically(path, content())


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, on the CPU, and the facts that :func:`save_tensors` wrote.

    Raises:
        InputError: the file is not there, is damaged, or was written by something else.
    """
    tensors, metadata = read_tensors(path)
    try:
        return tensors, {key: parse_json(value) for key, value in metadata.items()}
    except ValueError as error:
        raise InputError(f"{path}: its metadata were not written by ltdd.") from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file, whoever wrote it; the tensors are on the CPU.

    The file is mapped into memory: what of a tensor is used is read when it is used, and can be forgotten again.

    Raises:
        InputError: the file is not there, or is damaged.
    """
    try:
        if not path.is_file():
            raise InputError(f"{path}: there is no such file.")
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    # A dtype that torch does not have is any of the last three.
    except (SafetensorError, OSError, AttributeError, TypeError, RuntimeError) as error:
        raise InputError(f"{path}: damaged, or not a safetensors file: {reason_of(error)}.") from error


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON with sorted keys where it is on one line; NaN and infinity, which JSON does not have, are refused.

    Raises:
        ValueError: a number is not finite.
    """
    return json.dumps(value, indent=indent, sort_keys=indent is None, allow_nan=False)


_FORMULA = re.compile(r"(?!-?\d+(\.\d*)?(e[+-]?\d+)?\Z)'*[=+\-@\t\r]", re.IGNORECASE)
"""What a spreadsheet would compute, and what would look like such a text with an apostrophe; no negative number."""


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """A table as CSV, with a line feed after each row.

    A text that a spreadsheet would take for a formula, as it may stand in the name of a class or of a file, gets an
    apostrophe before it, as OWASP advises; :func:`text_of_csv` takes that away.  A number stays as it is.

    Args:
        rows: the cells of each row, the headings first; None is an empty cell.
    """
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\r\n")  # so that it quotes a cell with one of the two
    for row in rows:
        writer.writerow([f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell for cell in row])
        buffer.seek(buffer.tell() - 2)
        buffer.truncate()
        buffer.write("\n")
    return buffer.getvalue()


def text_of_csv(cell: str) -> str:
    """The text of a cell, without the apostrophe of :func:`csv_text`."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text from outside.

    Raises:
        ValueError: it is not JSON or not UTF-8, or holds NaN, an infinity, a number of thousands of digits, or lists
            nested deeper than Python's stack.
    """
    try:
        text = text.decode() if isinstance(text, bytes) else text  # json itself would take UTF-16 too
        return json.loads(text, parse_constant=_finite, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is no number of JSON")
    return number


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """A digest, 32 hexadecimal digits, of names, shapes, dtypes and every bit of some tensors, on any device."""
    digest = TensorDigest()
    for name in sorted(tensors):
        digest.begin(name, tensors[name].dtype, tensors[name].shape)
        digest.update(tensors[name])
    return digest.hexdigest()


class TensorDigest:
    """The digest of :func:`digest_of`, of tensors that come in parts, those of the first name in the alphabet first."""

    def __init__(self) -> None:
        self._digest = hashlib.blake2b(digest_size=16)

    def begin(self, name: str, dtype: torch.dtype, shape: Sequence[int]) -> None:
        """The next tensor."""
        self._digest.update(f"{name} {dtype} {list(shape)};".encode())

    def update(self, part: Tensor) -> None:
        """The next part of the tensor, or all of it, on any device."""
        self._digest.update(_memory_of(part))

    def hexdigest(self) -> str:
        """32 hexadecimal digits."""
        return self._digest.hexdigest()


def all_finite(tensor: Tensor) -> bool:
    """Whether no number is NaN or infinite, seen in parts: torch would take twice the memory of a large tensor."""
    return all(bool(torch.isfinite(part).all()) for part in tensor.detach().reshape(-1).split(SEEN_AT_ONCE))


def _memory_of(tensor: Tensor) -> memoryview:
    """All bytes of a tensor on any device, not copied where they lie one after another on the CPU already."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _header_of(tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> dict[str, Any]:
    """The header of a file, its tensors in the order of their data.

    The library says how each dtype is called and which order aligns the data.  It is given tensors without values: it
    would copy all of them, which takes their memory again.
    """
    bare = {name: torch.empty(0, dtype=tensor.dtype) for name, tensor in tensors.items()}
    content = safetensors_bytes(bare)
    header: dict[str, Any] = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    end = 0
    for name, entry in header.items():
        start, end = end, end + tensors[name].nbytes
        entry.update(shape=list(tensors[name].shape), data_offsets=[start, end])
    return {METADATA: metadata, **header}


def _header_bytes(header: Mapping[str, Any]) -> bytes:
    """The start of a safetensors file."""
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the format aligns its data to eight bytes
    return len(text).to_bytes(8, "little") + text


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the file system can promise that."""
    if os.name == "nt":  # a folder cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NOT_OF_FOLDERS:
            raise
    finally:
        os.close(handle)
