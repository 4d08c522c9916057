"A real browser and a real JupyterLab for tests; what isn't installed skips them with the reason."

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request

import pytest
from conftest import ROOT, free_port

WAIT = 30_000  # milliseconds, on a busy machine
# for `add_init_script`: what a page tries to open
HOOK = "window.ran = []; for (const f of ['alert', 'confirm', 'prompt']) window[f] = () => window.ran.push(f)"


@contextlib.contextmanager
def chromium():
    "Headless Chromium, driven by playwright."
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'"
    )
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with playwright.sync_playwright() as p:
        b = p.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        try:
            yield b
        finally:
            b.close()


@contextlib.contextmanager
def jupyterlab(folder):  # what it shows
    "The address of a JupyterLab on loopback, whose kernel is this Python with this package."
    pytest.importorskip("jupyterlab", reason="JupyterLab is not installed: pip install -e '.[dev]'")
    own, port = folder / ".lab", free_port()
    (own / "data/kernels/python3").mkdir(parents=True)
    (own / "data/kernels/python3/kernel.json").write_text(
        json.dumps(
            dict(
                argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
                display_name="python3",
                language="python",
            )
        )
    )
    tracker = own / "config/lab/user-settings/@jupyterlab/notebook-extension/tracker.jupyterlab-settings"
    tracker.parent.mkdir(parents=True)
    tracker.write_text(json.dumps(dict(windowingMode="none")))  # cells out of sight stay in the page
    env = os.environ | dict(
        PYTHONPATH=str(ROOT),
        JUPYTER_CONFIG_DIR=str(own / "config"),
        JUPYTER_DATA_DIR=str(own / "data"),
        JUPYTER_RUNTIME_DIR=str(own / "run"),
        IPYTHONDIR=str(own / "ipython"),
        MPLBACKEND="module://matplotlib_inline.backend_inline",
    )
    options = (
        "--no-browser",
        "--allow-root",
        f"--port={port}",
        "--ip=127.0.0.1",
        "--ServerApp.token=",
        "--ServerApp.password=",
        f"--ServerApp.root_dir={folder}",
        "--LabApp.expose_app_in_browser=True",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    )
    with open(own / "log", "wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=env,
            cwd=folder,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/api", timeout=5):
                break
            if server.poll() is not None or time.monotonic() > end:
                pytest.fail("JupyterLab does not start:\n" + (own / "log").read_text(errors="replace")[-3000:])
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait(5)


def wait_until(page, expression, arg=None, timeout=WAIT):
    """Wait until a JavaScript expression is true (`timeout` in milliseconds).

    Playwright's own `wait_for_function` polls by `eval` inside the page, which the content security policy of our
    pages forbids: it fails whenever the expression is not true at the first look.
    """
    end = time.monotonic() + timeout / 1000
    while not page.evaluate(expression, arg):
        assert time.monotonic() < end, f"not true within {timeout} ms: {expression}"
        page.wait_for_timeout(50)


def run_notebook(
    page,  # of playwright
    url,  # of JupyterLab
    name,  # of the notebook in its folder
    shows,  # selector of what its last cell shows
):
    "Open a notebook and run it from top to bottom."
    page.goto(f"{url}/lab/tree/{name}")
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for(timeout=2 * WAIT)
    wait_until(
        page,
        "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'",
        timeout=2 * WAIT,
    )
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
    page.locator(shows).first.wait_for(timeout=2 * WAIT)
