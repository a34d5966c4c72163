"""The command line: one file a command, each a thin layer over the Python API.

Exit codes: 0 done, 1 the run failed, 2 wrong input, 130 stopped by Ctrl-C, SIGTERM or SIGHUP.

Nothing heavy is imported here, so that :func:`main` listens to signals before anything can take long.
"""

from __future__ import annotations

import atexit
import os
import sys
from contextlib import suppress
from typing import Any, NoReturn

from ltdd_core.cli.streams import Output, open_streams
from ltdd_core.runs.stop import INTERRUPTED, StopRequest, first_word


def __getattr__(name: str) -> Any:
    """``cli``, the group of all commands, which takes click and the plugins to import."""
    if name != "cli":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ltdd_core.cli.group import cli

    return cli


SPINS = "1000"
"""How often a thread of GNU OpenMP looks for new work before it sleeps, some microseconds; its own default is 300 times
that.  Where another program keeps a core busy, threads that spin for each other made a run six times as slow."""


def main() -> None:
    """The ``ltdd`` command; it ends the process."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # read when torch is imported
    try:
        with StopRequest().commanding():
            code = _finished(open_streams())
    except KeyboardInterrupt:  # a second one, while the first is answered
        code = INTERRUPTED
    if code == INTERRUPTED:
        _leave_at_once()
    sys.exit(code)


def _leave_at_once() -> NoReturn:
    """End the process as far as anybody can see: Python takes a second to take torch apart, and no one waits for it."""
    atexit._run_exitfuncs()  # what others asked for, such as the end of a log
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # closed, or none
            stream.flush()
    os._exit(INTERRUPTED)


def _finished(output: Output) -> int:
    """Run the command, and see that what it printed has arrived; the exit code."""
    code, error = _run(output), output.finish()
    if isinstance(error, BrokenPipeError):  # as `| head` leaves it
        return code or 1
    if error is not None:
        return _say(f"cannot write to standard output: {error.strerror}.", code or 1)
    return code


def _run(output: Output) -> int:
    """Run the command; how it ended."""
    try:
        os.getcwd()  # noqa: PTH109 # torch ends a process that has none
    except OSError:
        return _say("the folder that you work in is gone: change to another one.", 2)
    try:
        from ltdd_core.cli.group import cli

        cli(prog_name="ltdd")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else bool(end.code)
    except KeyboardInterrupt as error:  # before click is there, or after it
        return INTERRUPTED if _helps() else _say(str(error), INTERRUPTED)
    except OSError:
        if output.lost is None:
            raise
        return 1
    return 0


def _helps() -> bool:
    from ltdd_core.processes import is_helping

    return is_helping()


def _say(text: str, code: int) -> int:
    print(f"{first_word(code)}: {text}", file=sys.stderr)  # noqa: T201 # click may not be there yet
    return code
