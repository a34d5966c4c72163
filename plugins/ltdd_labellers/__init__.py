"""Soft labels by teachers: ``--labeller teacher`` and ``--labeller adsa``."""

from __future__ import annotations

from ltdd_core import Register, hookimpl


@hookimpl
def ltdd_register_labellers(register: Register) -> None:
    """A plain teacher, and one whose preference for frequent classes is calibrated away."""
    register("teacher", "ltdd_labellers.teacher:TeacherLabeller")
    register("adsa", "ltdd_labellers.adsa:CalibratedLabeller")
