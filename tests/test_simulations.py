"Intervals hold the truth and tests keep their size, in a small run of benchmarks/simulations.py."

import importlib.util

import numpy as np
import pytest
from conftest import ROOT

spec = importlib.util.spec_from_file_location("simulations", ROOT / "benchmarks/simulations.py")
simulations = importlib.util.module_from_spec(spec)
spec.loader.exec_module(simulations)
TRIALS = 120
SLOW = ("macro-F1", "Krippendorff", "what ten more words")
RESULTS = (ROOT / "benchmarks/results/simulations.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [k for k in simulations.INTERVALS if not k.startswith(SLOW)])
def test_intervals_hold_the_truth(name):
    share, n = simulations.share(*simulations.INTERVALS[name], trials=TRIALS)
    assert n > 0.9 * TRIALS and share >= 0.95 - 4 * (0.05 * 0.95 / n) ** 0.5


@pytest.mark.parametrize("name", [k for k in simulations.TESTS if not k.startswith("any of")])
def test_tests_err_no_more_often_than_they_say(name):
    share, n = simulations.share(*simulations.TESTS[name], trials=TRIALS)
    assert share <= 0.05 + 4 * (0.05 * 0.95 / n) ** 0.5


def test_a_difference_that_is_said_to_be_noticed_is_noticed():
    assert 0.65 <= simulations.share(simulations.power, simulations.ALONE, trials=TRIALS)[0] <= 0.93


def test_an_interval_that_takes_no_heed_of_sources_is_found_out():
    def heedless(rng, sources):
        values = simulations.scores(rng, [0.2], sources=sources)[0]
        return simulations.covers(simulations.mean_interval(values, simulations.DRAWS), 0.2)

    share, _ = simulations.share(heedless, simulations.APART, trials=400)
    assert share < 0.91


@pytest.mark.parametrize("name", [*simulations.INTERVALS, *simulations.TESTS])
def test_every_bar_is_met_in_the_committed_run(name):
    row = next(line for line in RESULTS.splitlines() if f"| {name} |" in line)
    assert row.split(" | ")[4] == "yes", row


def test_items_of_a_source_are_alike():
    z = simulations.strength(np.random.default_rng(0), 200, sources=simulations.APART)
    assert abs(z.std() - 1) < 0.05 and np.corrcoef(z[:, 295], z[:, 299])[0, 1] > 0.2
