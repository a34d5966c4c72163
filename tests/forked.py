"""The ``ltdd`` command in a process of its own that has imported torch already.

A process of the installed command needs four seconds of a core before it begins to work.  One that is forked from a
process in which everything is imported is there at once, and has signals, streams, a folder and an end of its own all
the same.  Tests of the installed command itself, and of what happens while it imports, start ``ltdd``.
"""

import multiprocessing
import os
import signal
import sys
from pathlib import Path

from ltdd_core.cli import main

IMPORTED = (
    "torch._dynamo",
    "sklearn.datasets",
    "sklearn.cluster",
    "ltdd_core.cli.group",
    "ltdd_core.distillation.distill",
)
"""What takes its time to import: the optimisers of torch take ``torch._dynamo``, the digits ``sklearn``."""

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([*IMPORTED])


class Command:
    """A running command, with the methods of ``subprocess.Popen`` and its two streams in files."""

    def __init__(self, arguments, folder, environment, before, output, errors):
        self.output, self.errors = Path(output), Path(errors)
        files = str(self.output.absolute()), str(self.errors.absolute())
        how = [str(each) for each in arguments], str(folder), dict(environment), before, *files
        self._process = _context.Process(target=_command, args=how)
        self._process.start()
        self.pid = self._process.pid

    def poll(self):
        """The exit code, negative after a signal; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout=None):
        """The exit code at its end; None where that does not come in time (seconds)."""
        self._process.join(timeout)
        return self._process.exitcode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.poll() is None and error[0] is not None:
            self.kill()
        self.wait()


def start(*arguments, folder=".", environment=None, before="", output=os.devnull, errors=os.devnull):
    """Start ``ltdd`` with these arguments.

    Args:
        folder: where it runs.
        environment: its variables; those of this process unless they are given.
        before: Python that the process executes first.
        output, errors: files for its standard output and for its standard error.
    """
    folder, environment = Path(folder).absolute(), os.environ if environment is None else environment
    return Command(arguments, folder, environment, before, output, errors)


def _command(arguments, folder, environment, before, output, errors):
    """What the process does."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for path, stream in ((output, sys.stdout), (errors, sys.stderr)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, stream.fileno())
        os.close(file)
    exec(before, {})
    sys.argv = ["ltdd", *arguments]
    main()
