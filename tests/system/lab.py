# SPDX-License-Identifier: Apache-2.0
"""contrib/lab, as somebody calls it who tries kekd."""

import os
import subprocess

import pytest

from kekd import BUILD, TOP

LAB = os.path.join(TOP, "contrib", "lab")


@pytest.fixture
def lab(tmp_path):
    """A directory for one, which is down and gone after the test."""
    directory = str(tmp_path / "lab")
    yield directory
    down(directory, "--delete")
    assert not os.path.exists(directory)


def call(script, directory, *options, timeout=300):
    """With the programs of this build, to its end."""
    return subprocess.run(
        [os.path.join(LAB, script), "--dir", directory, "--no-install", *options],
        env=dict(os.environ, KEKD_BUILD=BUILD), text=True, check=False, capture_output=True,
        stdin=subprocess.DEVNULL, timeout=timeout)


def down(directory, *options):
    return subprocess.run([os.path.join(LAB, "down"), "--dir", directory, *options], check=True,
                          text=True, capture_output=True, timeout=120).stdout
