"The house rules: rooms that build on each other one way, short functions, narrow lines, notebooks that are read."

import importlib.util

import pytest
from conftest import ROOT

_spec = importlib.util.spec_from_file_location("house", ROOT / ".ci/house.py")
house = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(house)
MODULES = house.modules()

# A third argument by position, and why: somebody else calls it so.
POSITIONAL = {}
# Longer than a screen, and why.
LONG = {}


def test_every_module_is_in_a_room():
    assert {house.room(m) for m in MODULES} <= set(house.ROOMS)


def test_there_are_few_modules():
    assert len(MODULES) <= 45, f"{len(MODULES)} modules"


@pytest.mark.parametrize("module", MODULES)
def test_the_core_imports_nothing_that_looks_at_it(module):
    if house.room(module) not in house.CORE:
        return
    late = [m for m in house.imports(module) if house.room(m) not in house.CORE]
    assert not late, f"{module} belongs to the core and imports {late}"


@pytest.mark.parametrize("module", MODULES)
def test_rooms_build_on_earlier_rooms(module):
    own = house.ROOMS.index(house.room(module))
    late = [m for m in house.imports(module) if house.ROOMS.index(house.room(m)) > own]
    assert not late, f"{module} imports {late}, of a later room"


def test_the_package_is_thin():
    core = [m for m in MODULES if house.room(m) in house.CORE]
    assert house.lines(core) <= 10_000 and house.lines(MODULES) <= 22_000


def test_lines_are_narrow():
    assert not house.wide_lines()


def test_functions_fit_a_screen():
    found = set(house.long_functions())
    assert found <= set(LONG), f"longer than {house.FUNCTION_LINES} lines: {sorted(found - set(LONG))}"
    assert set(LONG) <= found and len(LONG) <= 20, f"no longer exceptions: {sorted(set(LONG) - found)}"


def test_arguments_from_the_third_on_are_given_by_name():
    found = set(house.positional_functions())
    assert found <= set(POSITIONAL), f"a third argument by position: {sorted(found - set(POSITIONAL))}"
    assert set(POSITIONAL) <= found and len(POSITIONAL) <= 20, f"not needed: {sorted(set(POSITIONAL) - found)}"


def test_a_fifth_of_the_notebooks_is_prose():
    share = house.prose(house.notebooks())
    assert share >= 0.2, f"{share:.1%} of the notebooks' characters are prose"
