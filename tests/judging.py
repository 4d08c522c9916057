"A judge whose habits are known, for tests that look whether they are found."

import numpy as np
import pandas as pd

from distill_study.config import Judge
from distill_study.grading.judge import PAIR_COLUMNS, POINT_COLUMNS, Judged

A, B = "student/vanilla", "distilled/vanilla"


def _happens(logit, rng):
    return rng.random() < 1 / (1 + np.exp(-logit))


def made_up_judge(
    n: int = 200,  # items
    skill: float = 1.0,  # log-odds by which a right answer is preferred to a wrong one
    *,
    first: float = 0.0,  # log-odds for the answer that stands first
    longer: float = 0.0,  # log-odds per standard deviation of length
    better: float = 0.0,  # log-odds for arm b, whatever it wrote
    samples: int = 1,
    lost: float = 0.0,  # share of verdicts that can't be read
    seed: int = 0,
) -> tuple:  # (`Judged`, grades as `truth.grade` makes them)
    "Verdicts on student/vanilla (a) and distilled/vanilla (b), drawn from a logistic model."
    rng, ids = np.random.default_rng(seed), [f"q{i}" for i in range(n)]
    right = rng.random((n, 2)) < (0.4, 0.6)
    size = np.exp(rng.normal(4, 0.5, (n, 2))).astype(int) + 1
    lead = size[:, 1] - size[:, 0]
    lead = lead / lead.std()
    pair, point = [], []
    for i, q in enumerate(ids):
        for k in range(samples):
            for order in "ab":
                logit = better + skill * (int(right[i, 1]) - int(right[i, 0])) + longer * lead[i]
                logit += first if order == "b" else -first
                gone = rng.random() < lost
                winner = None if gone else "b" if _happens(logit, rng) else "a"
                pair.append((A, B, q, k, order, winner, "no verdict in it" if gone else "", 9, *size[i]))
            for j, arm in enumerate((A, B)):
                gone = rng.random() < lost
                grade = np.nan if gone else float(_happens(skill * (2 * right[i, j] - 1), rng))
                point.append((arm, q, "correct", k, grade, "no verdict in it" if gone else "", 9))
    graded = [dict(arm=arm, id=q, correct=bool(right[i, j])) for j, arm in enumerate((A, B)) for i, q in enumerate(ids)]
    frames = pd.DataFrame(point, columns=POINT_COLUMNS), pd.DataFrame(pair, columns=PAIR_COLUMNS)
    judged = Judged(*frames, (), {}, "", "", "made:up", Judge(engine="made:up"), (), tuple(ids))
    return judged, pd.DataFrame(graded)
