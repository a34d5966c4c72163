"""DREAM's real images: one of each cluster, the same for some steps, found again after a resume."""

import json
from pathlib import Path

import pytest
import torch
from conftest import TINY

from ltdd_core import CompiledNetwork, configure, generator, load_distilled
from ltdd_core.testing import PlainSampler, check_matcher, check_sampler, tiny_long_tailed, tiny_task
from ltdd_dc.matcher import SiameseCondensation
from ltdd_dm.matcher import DistributionMatcher
from ltdd_samplers.dream import RepresentativeSampler, nearest_to_centres

DATA = tiny_long_tailed((12, 5, 2, 1))


def sampler_of(**options):
    sampler = RepresentativeSampler(RepresentativeSampler.Options(**options))
    sampler.prepare(DATA)
    return sampler


# ---- the choice ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 6])
def test_each_cluster_gives_the_point_nearest_to_its_mean(size):
    """Clusters that are far apart, so that k-means has one solution, and the literal mean of each in float64."""
    draws = generator(0, "points")
    clusters = [100 * torch.randn(5, generator=draws) + torch.randn(7, 5, generator=draws) for _ in range(size)]
    order = torch.randperm(7 * size, generator=draws)
    points, owner = torch.cat(clusters)[order], torch.arange(size).repeat_interleave(7)[order]
    chosen = nearest_to_centres(points, size, draws).tolist()
    expected = set()
    for number in range(size):
        places = [place for place in range(len(points)) if owner[place] == number]
        mean = sum(points[place].double() for place in places) / len(places)
        expected.add(min(places, key=lambda place: float((points[place].double() - mean).norm())))
    assert set(chosen) == expected


@pytest.mark.parametrize(("points", "size"), [([[0.0]] * 4 + [[1.0]], 3), ([[2.0]] * 3, 3), ([[1.0], [2.0], [3.0]], 3)])
def test_equal_points_fill_up(points, size):
    chosen = nearest_to_centres(torch.tensor(points), size, generator(0, "any"))
    assert len(chosen) == len(chosen.unique()) == size
    assert {float(points[place][0]) for place in chosen} == {value for (value,) in points}


def test_the_choice_is_a_function_of_its_draws():
    points = torch.randn(60, 4, generator=generator(0, "points"))
    first, again, other = (nearest_to_centres(points, 9, generator(seed, "choice")).tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_small_classes_give_all_they_have_and_need_no_features():
    def embed(indices):
        raise AssertionError("features cost a pass of the network and are not needed")

    sampler = sampler_of(candidates=1)
    for label, count in enumerate(DATA.counts):
        assert len(sampler.for_matching(label, 12, generator(0, "draw"), embed)) == count
        assert len(sampler.representatives(label, 12, generator(0, "draw"), embed)) == count


# ---- in a run ------------------------------------------------------------------------------------


def test_images_are_those_of_a_random_network_and_change_after_each_interval():
    task = tiny_task(DATA, sampler_of(interval=3))
    drawn = [task.draw_real(0, 4, number).tolist() for number in range(9)]
    assert drawn[0] == drawn[1] == drawn[2] != drawn[3] == drawn[5] != drawn[6] == drawn[8]
    network = task.networks.new("choice of real images", 3).eval()
    draws = generator(0, "real batch", 3, 0)
    candidates = task.sampler.of_class(0, 12, draws)
    images = DATA.normalisation.apply(DATA.train_images[candidates])
    with torch.no_grad():
        features = torch.cat([CompiledNetwork(network, "fp32", False).embed(part) for part in images.split(task.chunk)])
    assert drawn[3] == candidates[nearest_to_centres(features, 4, draws)].tolist()
    resumed = tiny_task(DATA, sampler_of(interval=3))
    assert resumed.draw_real(0, 4, 5).tolist() == drawn[5]


def test_features_are_asked_for_once_an_interval(monkeypatch):
    asked = []
    original = RepresentativeSampler.for_matching

    def noting(self, label, *given):
        asked.append(label)
        return original(self, label, *given)

    monkeypatch.setattr(RepresentativeSampler, "for_matching", noting)
    matcher = DistributionMatcher(DistributionMatcher.Options(batch_real=4))
    matcher.prepare(tiny_task(DATA, sampler_of(interval=3)))
    for step in range(6):
        matcher.step(step)
    assert asked == [0, 1, 2, 3, 0, 1, 2, 3]


def test_the_usual_samplers_draw_as_before():
    task = tiny_task(DATA, PlainSampler(DATA))
    for number in range(3):
        expected = task.sampler.of_class(0, 4, generator(0, "real batch", number, 0))
        assert torch.equal(task.draw_real(0, 4, number), expected)


@pytest.mark.parametrize("matcher", [DistributionMatcher, SiameseCondensation])
def test_matchers_keep_their_contract_with_it(matcher):
    """A state that is loaded in the middle of an interval is among what is checked."""
    check_matcher(matcher, sampler=sampler_of(interval=2), batch_real=4)


@pytest.mark.parametrize("options", [{}, {"candidates": 2, "interval": 1}])
def test_contract(options):
    check_sampler(RepresentativeSampler, **options)


def test_the_command_line(ltdd):
    words = ("--preset", "dsa-paper", "--preset", "dream-paper", *TINY, "--set", "matcher.outer_loop=2")
    result = ltdd("distill", *words, "--out", "run", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["method"] == "dsa"
    stored = load_distilled("run")
    assert len(stored.decoded().images) == 4 * len(stored.images)
    assert not Path("runs").exists()


def test_the_preset_has_the_published_values():
    config = configure(preset=["dm-paper", "dream-paper"])
    assert (config.sampler.name, config.sampler.options.interval, config.run.init) == ("dream", 10, "dream")
    assert (config.matcher.options.batch_real, config.matcher.options.factor) == (128, 2)
