# SPDX-License-Identifier: Apache-2.0
"""The lab's tour: every command that it shows ends and answers as it says."""

import os
import subprocess

import pytest

from kekd import BUILD, TOP, free_port

LAB = os.path.join(TOP, "contrib", "lab")


@pytest.fixture
def lab(tmp_path):
    directory = str(tmp_path / "lab")
    yield directory
    subprocess.run([os.path.join(LAB, "down"), "--dir", directory, "--delete"], check=True,
                   capture_output=True)


def tour(lab, *options):
    return subprocess.run([os.path.join(LAB, "tour"), "--dir", lab, "--no-install", *options],
                          env=dict(os.environ, KEKD_BUILD=BUILD), text=True, check=False,
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=600)


def test_the_tour_is_as_it_says_on_a_lab_of_its_own_and_again(lab):
    for _ in range(2):
        done = tour(lab, "--port", str(free_port()))
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr
        assert "all as said" in done.stdout.splitlines()[-1]


def test_the_tour_ends_with_1_where_something_is_not_as_it_says(lab):
    assert tour(lab, "--port", str(free_port())).returncode == 0
    os.unlink(os.path.join(lab, "pki", "app.key"))
    done = tour(lab)
    assert done.returncode == 1
    assert "tour: in chapter 1" in done.stderr
