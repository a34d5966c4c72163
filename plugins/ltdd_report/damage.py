"""Files of a run that cannot be read, or do not say what they must, as one line that names them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ltdd_core import InputError
from ltdd_report.documents import Document, fault
from ltdd_report.visible import visible


@contextmanager
def reading(path: Path, place: str = "") -> Iterator[None]:
    """Turn what can be wrong with a file into one line; ``place`` is where in the file.

    Raises:
        InputError: it cannot be read, or does not say what it must.
    """
    try:
        yield
    except InputError as error:
        if path.name in str(error):
            raise
        raise InputError(f"{path} is damaged: {error}") from error
    except ValidationError as error:
        text = fault(error)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is damaged: {place}it is not UTF-8.") from error
    except RecursionError as error:
        raise InputError(f"{path} is damaged: {place}it is nested too deeply.") from error
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise InputError(f"{path} is damaged: {place}{_short(error)}.") from error
    else:
        return
    raise InputError(f"{path} is damaged: {visible(place + text)}.")


def _short(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and error.problem_mark:
        return visible(f"line {error.problem_mark.line + 1}: {error.problem}")
    if isinstance(error, json.JSONDecodeError):
        return f"it is not JSON ({error.msg}, line {error.lineno})"
    return "a value in it cannot be read"


def read_json(path: Path, model: type[Document]) -> Mapping[str, Any]:
    """A JSON file once it is sure that it says what the model says.

    Raises:
        InputError: it is damaged.
    """
    with reading(path):
        return checked(json.loads(path.read_text(encoding="utf-8")), model)


def checked(document: Any, model: type[Document]) -> Mapping[str, Any]:
    """The document itself once it is sure that it is what the model says."""
    model.model_validate(document)
    checked: Mapping[str, Any] = document
    return checked
