"""Measures the house rules: how long, how wide, how deep the package is, and how much of its notebooks is prose.

Usage: python .ci/house.py
"""

import ast
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "distill_study"
# in the order in which they may build on each other
ROOMS = "config utils tasks data store models teach grading train analyse report study tools cli".split()
CORE = ROOMS[: ROOMS.index("analyse")]
NO_MODULES = ("__init__.py", "__main__.py", "_modidx.py")
WIDTH, FUNCTION_LINES, POSITIONAL = 120, 40, 2
CORE_LINES, LINES = 10_000, 22_000  # of the core, of the whole package


def modules() -> dict[str, Path]:
    "Dotted name below the package → file, without what nbdev writes for itself, `__init__` and `__main__`."
    files = [p for p in sorted(PACKAGE.rglob("*.py")) if p.name not in NO_MODULES]
    return {".".join(p.relative_to(PACKAGE).with_suffix("").parts): p for p in files}


def room(module: str) -> str:
    return module.split(".")[0]


def imports(module: str) -> set[str]:
    "Dotted names below the package of all that a module imports, inside functions too."
    known, package, found = modules(), module.split(".")[:-1], set()
    for node in ast.walk(ast.parse(known[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {a.name.removeprefix("distill_study.") for a in node.names if a.name.startswith("distill_study.")}
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            base = package[: len(package) - node.level + 1] + (node.module or "").split(".")
        elif (node.module or "").split(".")[0] == "distill_study":
            base = node.module.split(".")[1:]
        else:
            continue
        name = ".".join(filter(None, base))
        found |= {name} if name in known else {f"{name}.{a.name}".strip(".") for a in node.names}
    return found & set(known)


def functions(path: Path):
    "Every function and method of a file, nested ones included."
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def positional(node) -> list[str]:
    "The parameters that can be given by position, without self and cls."
    names = [a.arg for a in node.args.posonlyargs + node.args.args]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


def long_functions() -> list[str]:
    "module.function of what is longer than a screen."
    return [
        f"{module}.{f.name}"
        for module, path in modules().items()
        for f in functions(path)
        if f.end_lineno - f.lineno + 1 > FUNCTION_LINES
    ]


def positional_functions() -> list[str]:
    "module.function of what takes a third argument by position."
    return [
        f"{module}.{f.name}"
        for module, path in modules().items()
        for f in functions(path)
        if len(positional(f)) > POSITIONAL
    ]


def notebooks() -> list[Path]:
    return sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)


def characters(path: Path, kind: str) -> int:
    "Characters of a notebook's cells of one kind: markdown or code."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return sum(len("".join(c["source"])) for c in cells if c["cell_type"] == kind)


def prose(paths: list[Path]) -> float:
    "Share of the characters of notebooks that is prose."
    markdown = sum(characters(p, "markdown") for p in paths)
    return markdown / max(1, markdown + sum(characters(p, "code") for p in paths))


def wide_lines() -> list[str]:
    "Lines of code over the width, in notebooks and in files of Python; what nbdev generates is left out."
    found = []
    for path in notebooks():
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = [line for c in cells if c["cell_type"] == "code" for line in "".join(c["source"]).split("\n")]
        found += [f"{path.relative_to(ROOT)}: {line[:60]}" for line in code if len(line) > WIDTH]
    for folder in ("tests", "benchmarks", ".ci"):
        for path in sorted((ROOT / folder).glob("*.py")):
            lines = path.read_text(encoding="utf-8").split("\n")
            found += [f"{path.relative_to(ROOT)}:{i}" for i, line in enumerate(lines, 1) if len(line) > WIDTH]
    return found


def lines(names) -> int:
    "Lines of some modules, as nbdev exports them."
    known = modules()
    return sum(len(known[n].read_text(encoding="utf-8").splitlines()) for n in names)


def main():
    known = modules()
    core = [m for m in known if room(m) in CORE]
    print(f"modules           {len(known):>7,}   (at most 45)")
    print(f"lines, core       {lines(core):>7,}   (at most 10,000)")
    print(f"lines, package    {lines(known):>7,}   (at most {LINES:,})")
    print(f"prose             {prose(notebooks()):>7.1%}   (at least 20 %)")
    print(f"lines over {WIDTH}    {len(wide_lines()):>7,}   (none)")
    print(f"functions over {FUNCTION_LINES} {len(long_functions()):>6,}   (none)")
    print(f"third positional  {len(positional_functions()):>7,}   (none)")
    for path in notebooks():
        name = re.sub(r"\.ipynb$", "", str(path.relative_to(ROOT / "nbs")))
        print(f"  {name:<32} prose {prose([path]):>6.1%}")


if __name__ == "__main__":
    main()
