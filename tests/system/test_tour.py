# SPDX-License-Identifier: Apache-2.0
"""The lab's tour: every command that it shows ends and answers as it says."""

import os

from kekd import free_port
from lab import call, lab  # noqa: F401


def tour(lab, *options):
    return call("tour", lab, *options, timeout=600)


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
