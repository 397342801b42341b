"""A real browser that runs a page offline."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next((path for name in NAMES if (path := shutil.which(name))), None)

needs_browser = pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(NAMES)} is on the PATH")


def dumped(page: Path, profile: Path) -> subprocess.CompletedProcess[str]:
    """The page as a browser that reaches nothing leaves it after its scripts (stdout), and what it logs (stderr).

    `profile`: a folder that is not there yet.
    """
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=4000", f"--user-data-dir={profile}"]
    offline = ["--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--dump-dom"]
    command = [str(BROWSER), *flags, *offline, page.resolve().as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
