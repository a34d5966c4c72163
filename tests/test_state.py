"""What a matcher keeps: saved as flat tensors, and filled in place, so that the next step is the same."""

from collections import deque

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from ltdd_core import generator
from ltdd_core.networks.state import load_state_of, state_of

OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.1),
}


def parts(name):
    """Images and a queue of networks with batch normalisation, each with an optimizer, and a mapping."""
    images = torch.randn(4, 3, generator=generator(0, "images")).requires_grad_()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        queue = [nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)) for _ in range(3)]
    optimizers = [OPTIMIZERS[name](network.parameters()) for network in queue]
    return {
        "images": images,
        "pixels": OPTIMIZERS[name]([images]),
        "queue": deque(queue),
        "optimizers": optimizers,
        "more": {"position": torch.tensor(0), "none": None},
    }


def step(kept):
    """Everything moves, but the last network of the queue, whose optimizer stays as it was before its first step."""
    for network, optimizer in zip(list(kept["queue"])[:2], kept["optimizers"], strict=False):
        optimizer.zero_grad()
        network(kept["images"].detach()).square().sum().backward()
        optimizer.step()
    kept["pixels"].zero_grad()
    kept["queue"][0](kept["images"]).sum().backward()
    kept["pixels"].step()
    kept["more"]["position"] += 1


def copied(kept):
    return {name: tensor.clone() for name, tensor in state_of(kept).items()}


@settings(deadline=None)
@given(st.sampled_from(sorted(OPTIMIZERS)), st.integers(0, 3), st.integers(0, 3))
def test_the_next_steps_are_the_same_after_loading(name, before, elsewhere):
    whole, other = parts(name), parts(name)
    for _ in range(before):
        step(whole)
    saved = copied(whole)
    for _ in range(elsewhere):
        step(other)
    load_state_of(other, saved)
    assert state_of(other).keys() == saved.keys()
    for _ in range(2):
        step(whole)
        step(other)
    expected, found = state_of(whole), state_of(other)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_tensors_have_names_that_say_where_they_are():
    kept = parts("momentum")
    step(kept)
    names = state_of(kept).keys()
    assert {"images", "pixels: 0: momentum_buffer", "queue: 0: 1.running_mean", "more: position"} <= names
    assert "optimizers: 0: 1: momentum_buffer" in names
    assert not any(name.startswith("optimizers: 2") for name in names)


def test_what_is_loaded_is_not_shared():
    kept = parts("momentum")
    step(kept)
    saved = copied(kept)
    load_state_of(kept, saved)
    step(kept)
    other = parts("momentum")
    step(other)
    assert all(torch.equal(saved[name], tensor) for name, tensor in state_of(other).items())


def test_what_is_no_tensor_and_what_does_not_fit_is_refused():
    with pytest.raises(TypeError, match="number is a int"):
        state_of({"number": 3})
    kept = parts("sgd")
    with pytest.raises(KeyError, match=r"queue: 0: 0\.weight"):
        load_state_of(kept, {"images": kept["images"].detach()})
    for shape in ((2, 2), (1, 3), (3,), ()):  # torch would repeat the last three
        with pytest.raises(RuntimeError, match="images is"):
            load_state_of(kept, {**copied(kept), "images": torch.zeros(shape)})
