# SPDX-License-Identifier: Apache-2.0
"""What the benches share: load by kekctl bench, processor time, tables."""

import json
import os
import subprocess
import sys

TOP = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
sys.path.insert(0, os.path.join(TOP, "tests", "system"))

from kekd import BUILD, yaml  # noqa: E402

CORES = os.cpu_count()


def config_for(server, ports):
    path = server.path(f"bench-{'-'.join(map(str, ports))}.yaml")
    certificate = server.pki.clients["app"]
    with open(path, "w", encoding="utf-8") as f:
        f.write(yaml({"endpoints": [f"https://127.0.0.1:{p}" for p in ports],
                      "ca": server.pki.ca.pem, "certificate": certificate.pem,
                      "key": certificate.key}))
    return path


def load(server, seconds, *arguments, port=None, ports=None, warmup=None):
    """kekctl bench, of one port or several in turn: its report."""
    warmup = min(1.0, seconds / 3) if warmup is None else warmup
    config = config_for(server, ports or [port or server.port])
    done = subprocess.run(
        [os.path.join(BUILD, "kekctl"), "--config", config,
         "bench", "demo", "-o", "json", "--duration", f"{seconds}s", "--warmup", f"{warmup}s",
         *arguments], check=False, capture_output=True, text=True, timeout=120 + 3 * seconds)
    if done.returncode:
        raise SystemExit(f"kekctl bench {' '.join(arguments)}: {done.stderr}")
    return json.loads(done.stdout)


def say(text):
    print(f"\r\033[K{text} …", end="" if sys.stderr.isatty() else "\n", file=sys.stderr,
          flush=True)


def number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def table(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(c.ljust(w) if i == 0 else c.rjust(w)
                        for i, (c, w) in enumerate(zip(row, widths))))
    print()
