"""A reproducible study of knowledge distillation between language models.

The names below are loaded when they are first used, so that `import distill_study` costs nothing.
"""

import os
from importlib import import_module

# Nothing calls home: no usage statistics of the hub's client, trl, vLLM or Ray, unless somebody has asked for them.
for _variable, _off in {"DO_NOT_TRACK": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "RAY_USAGE_STATS_ENABLED": "0"}.items():
    os.environ.setdefault(_variable, _off)

__version__ = "0.1.0"

# what a user needs → the module that it lives in
_HOME = {
    "Recipe": "study.plan",
    "load_recipe": "study.plan",
    "Run": "study.run",
    "run_recipe": "study.schedule",
    "load_data": "data.load",
    "sample_answers": "teach.sampling",
    "fit_student": "train.sft",
    "grade": "grading.truth",
    "judge": "grading.judge",
    "load_results": "tools.explore",
}
__all__ = list(_HOME)


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *_HOME})
