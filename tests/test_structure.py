"The house rules: rooms that build on each other one way, short functions, narrow lines, notebooks that are read."

import importlib.util

import pytest
from conftest import ROOT

_spec = importlib.util.spec_from_file_location("house", ROOT / ".ci/house.py")
house = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(house)
MODULES = house.modules()


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


def test_the_package_grows_no_more():
    core = [m for m in MODULES if house.room(m) in house.CORE]
    assert house.lines(core) <= house.CORE_LINES and house.lines(MODULES) <= house.LINES


def test_lines_are_narrow():
    assert not house.wide_lines()


def test_functions_fit_a_screen():
    assert not house.long_functions(), f"longer than {house.FUNCTION_LINES} lines: {house.long_functions()}"


def test_arguments_from_the_third_on_are_given_by_name():
    assert not house.positional_functions(), f"a third argument by position: {house.positional_functions()}"


def test_a_fifth_of_the_notebooks_is_prose():
    share = house.prose(house.notebooks())
    assert share >= 0.2, f"{share:.1%} of the notebooks' characters are prose"
