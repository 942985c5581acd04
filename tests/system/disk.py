# SPDX-License-Identifier: Apache-2.0
"""A disk that is soon full."""

import contextlib
import os
import subprocess

import pytest


@contextlib.contextmanager
def limited(directory, size):
    """The directory has so much room in all while the block runs; what stood in it is hidden."""
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs",
                           directory], check=False, capture_output=True)
    if done.returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


def fill(directory, step=4096):
    """The file that takes all the room there was, to so many bytes."""
    path = os.path.join(directory, "ballast")
    with open(path, "wb", buffering=0) as f, contextlib.suppress(OSError):
        while True:
            f.write(bytes(step))
    return path
