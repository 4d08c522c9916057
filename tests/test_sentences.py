"Everything that a report can say of its findings is printed by .ci/sentences.py, and reads as English."

import re
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / ".ci"))
import sentences

ODD = re.compile(
    r"  | [,.;:?!](?!\d)|\.\.|,,|\(\)|{{|}}|\bNone\b(?! of| shown| by)|\bnan\b|\binf\b|\bTrue\b|\bFalse\b|\ba [aeio]\w*"
)


STARTS = re.compile(r"[A-Z0-9“−]|(?:teacher|student|distilled|control)/")  # a capital, a number, or an arm


@pytest.fixture(scope="module")
def spoken():
    return sentences.spoken()


def test_every_sentence_of_the_templates_is_printed(spoken, monkeypatch):
    monkeypatch.setattr(sentences, "spoken", lambda: spoken)
    assert all(len(sentences.fragments(t)) > 30 for t in sentences.TEMPLATES)
    assert sentences.unspoken() == {t: [] for t in sentences.TEMPLATES}


def test_they_are_whole_sentences(spoken):
    lines = {line for own in spoken.values() for line in own if line}
    assert len(lines) > 200
    broken = [x for x in lines if ODD.search(x) or not STARTS.match(x) or x[-1] not in ".?!"]
    assert not broken


def test_only_a_student_that_is_better_pays_back(spoken):
    pays, none = (" ".join(spoken[name]) for name in ("it pays back", "nothing pays back"))
    assert "pays back after 40 answers" in pays and "paid back after 40 answers" in pays
    assert "no student is better than before, so none pays back" in none and "paid back" not in none
