"""The ``ltdd`` command in a process of its own that has imported torch already.

A process of the installed command needs four seconds of a core before it begins to work.  One that is forked from a
process in which everything is imported is there at once, and has signals, streams, a folder and an end of its own all
the same.  Tests of the installed command itself, and of what happens while it imports, start ``ltdd``.
"""

import multiprocessing
import os
import pty
import signal
import struct
import sys
import tempfile
import termios
from fcntl import ioctl
from multiprocessing.reduction import DupFd
from operator import methodcaller
from pathlib import Path

from ltdd_core.cli import main

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "torch._dynamo",  # the optimisers import it
        "sklearn.datasets",  # so does whatever loads the digits
        "sklearn.cluster",
        "ltdd_core.cli.group",
        "ltdd_core.distillation.distill",
    ]
)


class Command:
    """A running command, with the methods of ``subprocess.Popen``."""

    def __init__(self, arguments, folder, environment, before, streams):
        words, handed = [str(each) for each in arguments], [_Handed(stream) for stream in streams]
        self._process = _context.Process(target=_command, args=(words, folder, dict(environment), before, handed))
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
        """Send it, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if error[0] is not None:
            self.kill()
        self.wait()


def start(*arguments, folder=".", environment=None, before="", output=os.devnull, errors=os.devnull):
    """Start ``ltdd`` with these arguments.

    Args:
        folder: where it runs.
        environment: its variables; those of this process unless they are given.
        before: Python that the process executes first.
        output, errors: what its standard output and its standard error are added to: paths, or numbers of open files.
    """
    adding = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    streams = [each if isinstance(each, int) else os.open(each, adding) for each in (output, errors)]
    try:
        environment = os.environ if environment is None else environment
        return Command(arguments, Path(folder).absolute(), environment, before, streams)
    finally:
        for given, stream in zip((output, errors), streams, strict=True):
            if given != stream:
                os.close(stream)


def on_a_terminal(*arguments, columns, lines=24, **how):
    """Run ``ltdd`` to its end where its streams are a terminal.

    Args:
        columns, lines: size of the terminal.
        how: as of :func:`start`.

    Returns:
        The exit code and all that the terminal was sent.
    """
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    command = start(*arguments, output=theirs, errors=theirs, **how)
    os.close(theirs)
    sent = b""
    while piece := read(ours):
        sent += piece
    os.close(ours)
    return command.wait(), sent.decode()


def read(terminal):
    """The next piece of what a terminal was sent; empty when nobody writes to it any more."""
    try:
        return os.read(terminal, 10000)
    except OSError:  # the other side is closed
        return b""


class _Handed:
    """The number of an open file, which is another one in the process that it is handed to."""

    def __init__(self, number):
        self.number = number

    def __reduce__(self):
        return methodcaller("detach"), (DupFd(self.number),)


def _command(arguments, folder, environment, before, streams):
    """What the process does."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # TMPDIR may be another one
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests under nohup ignore it
    for number, stream in enumerate(streams, start=1):
        os.dup2(stream, number)
        os.close(stream)
    for number, name in enumerate(("stdout", "stderr"), start=1):  # of the new files, as Python has them at its start
        stream = open(number, "w", closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    exec(before, {})
    sys.argv = ["ltdd", *arguments]
    main()
