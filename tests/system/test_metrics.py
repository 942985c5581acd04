# SPDX-License-Identifier: Apache-2.0
"""What Prometheus is told at /metrics."""

import os
import re
import shutil
import subprocess

import pytest

from kekd import DATA, TOP, b64

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z]+="(?:[^"\\]|\\.)*",?)*)\})? (\S+)')


def parse(text):
    """{(name, labels as sorted pairs): value} and {family: type}; every line must be one of the
    format."""
    samples, types = {}, {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in types, f"{name} is told twice"
            types[name] = kind
        elif not line.startswith("# HELP "):
            found = SAMPLE.fullmatch(line)
            assert found, line
            labels = re.findall(r'([a-z]+)="((?:[^"\\]|\\.)*)"', found[2] or "")
            key = (found[1], tuple(sorted(labels)))
            assert key not in samples, f"{line} is told twice"
            samples[key] = float(found[3])
    return samples, types


class Scrape:
    def __init__(self, text):
        self.text = text
        self.samples, self.types = parse(text)

    def get(self, name, default=None, **labels):
        return self.samples.get((name, tuple(sorted(labels.items()))), default)

    def sum(self, name, **labels):
        wanted = set(labels.items())
        return sum(v for (n, have), v in self.samples.items()
                   if n == name and wanted <= set(have))


def scrape(http):
    reply = http.get("/metrics")
    assert reply.status == 200, reply
    assert reply.headers["Content-Type"] == CONTENT_TYPE
    return Scrape(reply.body.decode())


def documented():
    """{name: type} of the table in doc/metrics.md."""
    with open(os.path.join(TOP, "doc", "metrics.md"), encoding="utf-8") as f:
        return dict(re.findall(r"^\| `(\w+)`[^|]* \| (\w+) \|", f.read(), re.MULTILINE))


def test_promtool_finds_nothing_to_complain_about(admin, app):
    promtool = shutil.which("promtool")
    if not promtool:
        pytest.skip("promtool is not installed (package prometheus)")
    app.wrap(b"x")
    app.call("POST", "/v1/keys/demo/wrap", {"plaintext": "!"})
    done = subprocess.run([promtool, "check", "metrics"], input=admin.get("/metrics").body,
                          capture_output=True, check=False)
    assert done.returncode == 0 and not done.stdout + done.stderr, done


def test_each_metric_is_documented_and_each_documented_one_is_there(admin):
    assert scrape(admin).types == documented()


def test_only_a_client_with_metrics_read_may_scrape(server, app, admin):
    reply = app.get("/metrics")
    assert (reply.status, reply.code) == (403, "forbidden")
    with server.http() as stranger:
        assert stranger.get("/metrics").status == 401
    admin.put_client("prometheus", ["uri:spiffe://test/prometheus"],
                     [{"keys": "*", "operations": ["metrics.read"]}])


def test_what_was_done_and_what_was_refused_is_counted_to_the_last_one(admin, app):
    before = scrape(admin)
    for _ in range(7):
        blob = app.wrap(b"seven")
    app.unwrap(blob)
    for _ in range(3):
        assert app.try_unwrap(blob[:-1] + b"\0").status in (200, 400)
    for _ in range(2):
        assert app.call("POST", "/v1/keys/demo/wrap", {"plaintext": "!"}).status == 400
    items = [{"plaintext": b64(b"a")}, {"plaintext": "!"}, {"plaintext": b64(b"b")}]
    app.ok("POST", "/v1/keys/demo/wrap", {"items": items})
    assert app.get("/v1/keys/demo").status == 403
    after = scrape(admin)

    def rise(name, **labels):
        return after.get(name, 0, **labels) - before.get(name, 0, **labels)

    assert rise("kekd_requests_total", operation="wrap", code="ok") == 8
    assert rise("kekd_requests_total", operation="wrap", code="invalid_base64") == 2
    assert rise("kekd_requests_total", operation="key.read", code="forbidden") == 1
    assert rise("kekd_items_total", operation="wrap", code="ok") == 9
    assert rise("kekd_items_total", operation="wrap", code="invalid_base64") == 3
    assert rise("kekd_client_requests_total", client="app", result="ok") + rise(
        "kekd_client_requests_total", client="app", result="refused") == 15
    assert rise("kekd_client_requests_total", client="app", result="failed") == 0


def test_a_histogram_counts_what_its_counter_counts(admin, app):
    app.wrap(b"x")
    now = scrape(admin)
    name = "kekd_request_duration_seconds"
    operations = {dict(labels)["operation"] for n, labels in now.samples if n == f"{name}_count"}
    assert "wrap" in operations
    for operation in operations:
        assert now.sum(f"{name}_count", operation=operation) == now.sum(
            "kekd_requests_total", operation=operation)
    for (n, labels), value in now.samples.items():
        if n == f"{name}_count":
            buckets = [v for (m, more), v in now.samples.items()
                       if m == f"{name}_bucket" and set(labels) <= set(more)]
            assert buckets == sorted(buckets) and buckets[-1] == value
            assert now.get(f"{name}_sum", **dict(labels)) > 0


def test_items_are_counted_for_the_data_plane_alone(admin):
    now = scrape(admin)
    assert {dict(labels)["operation"] for n, labels in now.samples
            if n == "kekd_items_total"} == set(DATA)
