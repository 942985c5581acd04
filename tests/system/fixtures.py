# SPDX-License-Identifier: Apache-2.0
"""What the fixtures of every directory of tests are made of: the certificates of the run, things
that are gone after the test, the answers held against their description."""

import os
import shutil
import tempfile

import pytest

import openapi
from etcd import PRESENT, Etcd
from kekd import Faults, Kekd
from pair import Pair
from pki import Pki


@pytest.fixture(scope="session")
def pki():
    directory = tempfile.mkdtemp(prefix="kekd-pki-")
    os.chmod(directory, 0o755)
    yield Pki(directory)
    shutil.rmtree(directory, ignore_errors=True)


def maker(pki, kind=Kekd):
    """For a fixture: a function that makes one of this kind, which is removed in the end."""
    made = []

    def make(*arguments, **options):
        if kind in (Pair, Etcd) and not PRESENT:
            pytest.skip("no etcd here")
        made.append(kind(pki, *arguments, **options))
        return made[-1]

    yield make
    errors = []
    for thing in reversed(made):
        try:
            thing.remove()
        except AssertionError as e:
            errors.append(str(e))
    assert not errors, "\n".join(errors)


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    """For all tests of a file: what makes PKCS#11 calls go wrong on command."""
    directory = tmp_path_factory.mktemp("faults")
    directory.parent.chmod(0o755)
    return Faults(str(directory))


@pytest.fixture(autouse=True)
def as_described():
    """No answer during the test that the API's description lacks, seen or swallowed."""
    openapi.violations.clear()
    yield
    found = openapi.violations[:]
    openapi.violations.clear()
    assert not found, "\n".join(found[:20])
