"""Runs commands and fails if any of them changes a file of the work tree, untracked files included.

Usage: python .ci/unchanged.py nbdev_clean nbdev_export

What is compared is the tree before and after, so it works while changes are being made too. Ignored files don't count.
"""

import hashlib
import subprocess
import sys
from pathlib import Path


def tree():
    "Content hash of every file that git tracks or would offer to add."
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], check=True, capture_output=True
    ).stdout
    files = sorted({Path(n.decode()) for n in names.split(b"\0") if n})
    return {f: hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.is_file()}


def changes(before, after):
    "One line per file that differs."
    words = {(True, False): "removed", (False, True): "added", (True, True): "changed"}
    return [
        f"  {words[f in before, f in after]}: {f}"
        for f in sorted(before.keys() | after.keys())
        if before.get(f) != after.get(f)
    ]


def main(commands):
    bad = 0
    for command in commands:
        before = tree()
        subprocess.run(command.split(), check=True)
        found = changes(before, tree())
        print(
            f"{Path(command).name}: "
            + ("leaves the tree unchanged" if not found else "changed the tree:\n" + "\n".join(found)),
            flush=True,
        )
        bad += len(found)
    if bad:
        sys.exit("Run `make prepare`, look at the differences and commit them.")


if __name__ == "__main__":
    main(sys.argv[1:])
