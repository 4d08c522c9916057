"Prints nbs/index.ipynb as the markdown of README.md (nbdev_readme would need Quarto)."

import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter


def render(path):
    """The notebook as markdown.

    Code fences marked as Python, cells with `#| echo: false` as their output alone, links from the top folder, at
    most one blank line in a row.
    """
    nb = nbformat.read(path, as_version=4)
    nb.metadata["language_info"] = {"name": "python"}  # nbdev_clean takes it out of the notebook
    for cell in nb.cells:
        if cell.source.startswith("#| echo: false"):
            cell.metadata["transient"] = {"remove_source": True}
    text, _ = MarkdownExporter().from_notebook_node(nb)
    return re.sub(r"\n{3,}", "\n\n", text.replace("](../", "](")).strip() + "\n"


if __name__ == "__main__":
    sys.stdout.write(render(Path(__file__).parent.parent / "nbs/index.ipynb"))
