# SPDX-License-Identifier: Apache-2.0
"""contrib/kubernetes/reencrypt, as an operator calls it."""

import json
import os
import subprocess

from kekd import TOP

REENCRYPT = os.path.join(TOP, "contrib", "kubernetes", "reencrypt")


def command(cluster, server, *options):
    return ["/usr/bin/python3", REENCRYPT, "--server", f"https://127.0.0.1:{server.port}",
            "--ca", server.ca, "--cert", cluster.admin.pem, "--key", cluster.admin.key,
            "--state", cluster.path("reencrypt.state"), "-o", "json", "--quiet", *options]


def reencrypt(cluster, server, *options):
    """To its end; its summary."""
    done = subprocess.run(command(cluster, server, *options), check=False, text=True,
                          capture_output=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)
