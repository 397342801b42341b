"""Device profiles made of good ones by mutation: each is read, or refused; nothing else happens."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzzing import fuzz, mutate_text, mutated, mutations

from nasir.analysis.roofline import load_profile

pytestmark = pytest.mark.slow

PROFILES = [
    "name: mine\nflops_per_second: 8.7e12\nbytes_per_second: 480e9\noverhead_seconds: 5e-6\n",
    '{"flops_per_second": 1e12, "bytes_per_second": 123456789012}',
    "a: &a [1, 2]\nflops_per_second: *a\nbytes_per_second: 2001-01-01\n",
]


def test_fuzz_device_profiles(tmp_path: Path) -> None:
    file = tmp_path / "profile.yaml"

    def read(text: str) -> None:
        file.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
        load_profile(file)

    taken, refused = fuzz(read, mutated(PROFILES, mutate_text, mutations(300), seed=1))
    assert taken and refused
