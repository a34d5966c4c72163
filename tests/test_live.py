"""The progress of a run: plain lines where there is no terminal, a bar where there is one, and a fair speed."""

import io
import re

import pytest
from rich.console import Console

from ltdd_core.cli import live
from ltdd_core.cli.live import LiveDisplay


class Clock:
    """Time that passes when the test says so."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(live.time, "monotonic", lambda: self.now)


def display(*, terminal, width=140):
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=width, markup=False, highlight=False)
    return LiveDisplay(console), out


def test_the_slow_first_step_is_not_part_of_the_speed(monkeypatch):
    clock = Clock(monkeypatch)
    shown, out = display(terminal=False)
    shown.steps(0, 20)
    for step in range(20):
        clock.now += 60.0 if step == 0 else 0.5
        shown.step(step, {"loss": 0.25})
    shown.steps_done()
    lines = out.getvalue().splitlines()
    assert lines[0] == "iteration 1/20  loss 0.25"
    assert lines[1] == "iteration 2/20  loss 0.25  2.0 it/s  0:00:09 left"
    assert lines[-1] == "iteration 20/20  loss 0.25  2.0 it/s  0:00:00 left"


def test_the_speed_is_that_of_recent_steps(monkeypatch):
    clock = Clock(monkeypatch)
    shown, out = display(terminal=False)
    shown.steps(0, 8000)
    for step in range(200):
        clock.now += 2.0 if step < 100 else 0.1
        shown.step(step, {"loss": 1.0})
    assert "0.5 it/s" not in out.getvalue()  # slower than one a second is told the other way round
    lines = out.getvalue().splitlines()
    assert "iteration 96/8000  loss 1  2.0 s/it  4:23:28 left" in lines  # half a minute after the line before
    for step in range(200, 400):
        clock.now += 0.1
        shown.step(step, {"loss": 1.0})
    assert out.getvalue().splitlines()[-1].startswith("iteration 400/8000  loss 1  10.")


def test_a_run_that_goes_on_says_so_and_counts_from_there(monkeypatch):
    clock = Clock(monkeypatch)
    shown, out = display(terminal=False)
    shown.steps(5, 10)
    for step in range(5, 10):
        clock.now += 1.0
        shown.step(step, {"loss": 1.0})
    assert out.getvalue().splitlines()[0] == "resuming after 5 of 10 iterations"
    assert out.getvalue().splitlines()[2] == "iteration 7/10  loss 1  1.0 it/s  0:00:03 left"


def test_in_a_terminal_a_bar_moves_and_goes_away(monkeypatch):
    clock = Clock(monkeypatch)
    shown, out = display(terminal=True)
    shown.steps(0, 4)
    for step in range(4):
        clock.now += 0.25
        shown.step(step, {"loss": 0.125})
    assert shown._bars.tasks[0].completed == 4
    shown._bars.refresh()
    shown.steps_done()
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue())
    assert "━" in text
    assert re.search(r"4/4 loss 0\.125 4\.0 it/s  0:00:00 left", text)
    assert "iteration" not in text
    assert out.getvalue().rstrip("\n").endswith("\x1b[2K")  # the line of the bar is wiped
    shown.steps_done()  # a second time, as after an exception, is harmless


@pytest.mark.parametrize("width", [50, 80, 100, 140])
def test_no_number_of_a_bar_is_cut(width, monkeypatch):
    clock = Clock(monkeypatch)
    shown, out = display(terminal=True, width=width)
    with shown.work("applying it to the original images", 330, "images") as told:
        for done in (96, 192, 288):
            clock.now += 0.05
            told(done)
        shown._bars.refresh()
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue())
    assert re.search(r" 288/330 +1920\.0 images/s  0:00:00 left", text)
    assert "…" not in text
    assert ("━" in text) == (width >= 80)
    assert all(len(line) <= width for line in re.split(r"[\r\n]+", text))


def test_a_training_shows_epochs_loss_speed_and_time_left_every_half_minute(monkeypatch):
    clock = Clock(monkeypatch)
    shown, out = display(terminal=False)
    with shown.work("training classes", 100, "epochs") as told:
        for epoch in range(100):
            clock.now += 2.0
            told(epoch + 1, loss=1 / (epoch + 1))
    lines = out.getvalue().splitlines()
    assert lines[0] == "training classes: epochs 16/100  loss 0.0625  2.0 s/epoch  0:02:48 left"
    assert len(lines) == 6
    with shown.work("a short one", 10, "images") as told:
        for image in range(10):
            clock.now += 0.1
            told(image + 1)
    assert len(out.getvalue().splitlines()) == 6


def test_bars_of_work_within_work_stand_together_and_go_away(monkeypatch):
    clock = Clock(monkeypatch)
    shown, out = display(terminal=True)
    shown.steps(0, 4)
    with shown.work("training classes", 8, "epochs", done=2) as told:
        for epoch in (3, 4):
            clock.now += 0.5
            told(epoch, loss=0.5)
        assert [(bar.description, bar.completed) for bar in shown._bars.tasks] == [
            ("distilling", 0),
            ("training classes", 4),
        ]
        shown._bars.refresh()
    assert [bar.description for bar in shown._bars.tasks] == ["distilling"]
    shown.steps_done()
    assert shown._bars is None
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue())
    assert re.search(r"training classes .* 4/8 loss 0\.5 2\.0 epochs/s  0:00:02 left", text)


def test_the_time_of_the_whole_run_is_said_after_some_steps_and_refined_by_each_training(monkeypatch):
    clock = Clock(monkeypatch)
    monkeypatch.setattr("ltdd_core.cli.live.peak_memory", lambda: 1_200_000_000)
    shown, out = display(terminal=False)
    shown.ahead(lambda: {"original": [40.0, 40.0], "distilled": [20.0]})
    shown.steps(0, 40)
    for step in range(40):
        clock.now += 0.5
        shown.step(step, {"loss": 0.25})
    shown.steps_done()
    lines = out.getvalue().splitlines()
    parts = "0:00:17 to distil, 0:01:40 to train 3 networks; at most 1.2 GB of memory so far"
    assert lines.count(f"about 0:01:57 left: {parts}") == 1
    assert lines[-1] == "iteration 40/40  loss 0.25  2.0 it/s  0:00:00 left, 0:01:40 in all"
    with shown.work("training classes", 40, "epochs", of="original") as told:
        for epoch in range(40):
            clock.now += 2.0  # 80 seconds, twice the guess
            told(epoch + 1, loss=0.5)
    assert "0:00:48 left, 0:01:48 in all" in out.getvalue()
    assert shown._seconds_ahead() == 100.0  # 80 for the other one of this set, and 20
    with shown.work("applying it", 40, "images") as told:
        told(1)
    assert shown._seconds_ahead() == 100.0


def test_the_networks_that_come_before_the_iterations_are_counted_until_those_begin(monkeypatch):
    clock = Clock(monkeypatch)
    monkeypatch.setattr("ltdd_core.cli.live.peak_memory", lambda: None)
    shown, out = display(terminal=False)
    shown.ahead(lambda: {"original": [40.0], "distilled": [20.0]})
    shown.beforehand(lambda: [30.0, 30.0])
    first = "about 0:01:00 to train 2 networks beforehand, 0:01:00 to train 2 networks at the end"
    assert out.getvalue().splitlines() == [first]
    with shown.work("training a teacher", 40, "epochs", of="original") as told:
        for epoch in range(40):
            clock.now += 1.5  # 60 seconds, twice the guess
            told(epoch + 1, loss=0.5)
    assert shown._seconds_ahead() == 60.0 + 60.0  # the other teacher, and the classifiers as they were
    shown.steps(0, 40)
    assert shown._seconds_ahead() == 60.0


def test_networks_that_are_trained_at_once_leave_the_time_of_the_others(monkeypatch):
    clock = Clock(monkeypatch)
    monkeypatch.setattr("ltdd_core.cli.live.peak_memory", lambda: None)
    shown, _ = display(terminal=False)
    shown.beforehand(lambda: [30.0] * 5)
    with shown.work("training 4 networks at once", 40, "epochs", of="original", networks=4) as told:
        assert shown._seconds_ahead() == 30.0
        clock.now += 60.0  # half of the guess
        told(40, loss=0.5)
    assert shown._seconds_ahead() == 15.0
