"Prints nbs/index.ipynb as the markdown of README.md (nbdev_readme would need Quarto)."
import re, sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

def render(path):
    "The notebook as markdown, code fences marked as Python, at most one blank line in a row."
    nb = nbformat.read(path, as_version=4)
    nb.metadata["language_info"] = {"name": "python"}  # nbdev_clean takes it out of the notebook
    text, _ = MarkdownExporter().from_notebook_node(nb)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"

if __name__ == "__main__": sys.stdout.write(render(Path(__file__).parent.parent/"nbs/index.ipynb"))
