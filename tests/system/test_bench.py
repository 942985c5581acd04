# SPDX-License-Identifier: Apache-2.0
"""kekctl bench against a real server: its figures are true, and what goes wrong is told."""

import json
import os
import signal
import subprocess

import pytest

from etcd import PRESENT
from kekd import BUILD, PATIENCE, TOP, wait_for
from pki import spiffe

USAGE, REFUSED, NOT_FOUND, UNAVAILABLE = 2, 3, 4, 7
PARTS = ("good", "refused", "failed", "wrong", "items", "items_failed")
QUANTILES = ["p50", "p90", "p99", "p99_9", "max"]


def bench(server, *arguments, name="app", status=0):
    done = server.kekctl("bench", "demo", "-o", "json", *arguments, name=name, status=status)
    return json.loads(done.stdout)


def short(*arguments):
    return ["--duration", "1s", "--warmup", "200ms", "--connections", "4", *arguments]


def requests_of(report):
    return (sum(report["requests_outside"].values()) + sum(report["errors"].values())
            + sum(report["all"][p] for p in ("good", "refused", "failed", "wrong")))


def audited(server, **wanted):
    return [r for r in server.audit_records(**wanted) if r.get("client") == "app"]


@pytest.mark.parametrize("batch", [1, 7])
def test_every_request_that_it_counts_is_in_the_audit_log(own, batch):
    report = bench(own, *short("--batch", str(batch),
                               "--mix", "wrap=2,unwrap=2,generate,rewrap"))
    assert report["all"]["good"] > 0 and report["all"]["items"] == batch * report["all"]["good"]
    assert requests_of(report) == len(audited(own))
    assert set(report["operations"]) == {"wrap", "unwrap", "generate", "rewrap"}
    for part in PARTS:
        assert report["all"][part] == sum(o[part] for o in report["operations"].values())


def test_its_report_says_what_was_loaded_and_its_latencies_are_in_order(server):
    report = bench(server, *short("--mix", "wrap=3,unwrap=1", "--bytes", "48"))
    load = report["load"]
    assert load["key"] == "demo" and load["mix"] == {"wrap": 3, "unwrap": 1}
    assert (load["connections"], load["batch"], load["bytes"]) == (4, 1, 48)
    assert load["endpoints"] == [f"https://localhost:{server.port}"]
    assert report["connections_made"] == 4 and report["measured_s"] == pytest.approx(1, abs=0.2)
    for figures in [report["all"], *report["operations"].values()]:
        for kind in ("latency_ms", "corrected_latency_ms"):
            values = [figures[kind][q] for q in QUANTILES]
            assert values == sorted(values) and values[0] > 0, figures
        assert figures["per_s"] == pytest.approx(figures["good"] / report["measured_s"])
        mean = figures["latency_ms"]["mean"]  # what is filled in takes at least as long
        for quantile in QUANTILES:
            assert (figures["corrected_latency_ms"][quantile]
                    >= 0.98 * min(mean, figures["latency_ms"][quantile]))


def test_a_fixed_rate_is_kept(server):
    report = bench(server, *short("--rate", "100", "--duration", "2s"))
    due = report["all"]["good"] + report["unsent"] + report["all"]["refused"]
    assert abs(due - 200) <= 1, report


def test_a_table_for_people_is_aligned(server):
    lines = server.kekctl("bench", "demo", *short(), name="app").stdout.decode().splitlines()
    heading = next(line for line in lines if line.startswith("OPERATION"))
    rows = [line for line in lines if line.startswith(("wrap ", "unwrap ", "all "))]
    assert len(rows) == 3
    for row in rows:
        assert len(row.split()) == len(heading.replace("PER S", "x").replace("P50 MS", "x").split())


def test_what_cannot_work_is_told_before_the_load(server):
    done = server.kekctl("bench", "absent", *short(), name="app", status=NOT_FOUND)
    assert "key list" in done.stderr.decode()
    done = server.kekctl("bench", "demo", *short(), name="other", status=REFUSED)
    assert "unknown_client" in done.stderr.decode()
    with server.http("admin-1") as admin:
        server.pki.clients.setdefault("wraps", server.pki.client("wraps"))
        admin.put_client("wraps", ["uri:" + spiffe("wraps")],
                         [{"keys": "demo", "operations": ["wrap"]}])
    server.kekctl("bench", "demo", *short("--mix", "unwrap"), name="wraps", status=REFUSED)
    server.kekctl("bench", "demo", *short("--mix", "wrap"), name="wraps")


@pytest.mark.parametrize("arguments", [
    ["--mix", "fly=1"], ["--mix", "wrap=0"], ["--mix", "wrap=1x"], ["--connections", "0"],
    ["--batch", "1001"], ["--rate", "0"], ["--rate", "fast"], ["--duration", "0"],
    ["--duration", "soon"], ["--batch", "1000", "--bytes", "4096"]])
def test_wrong_usage_is_refused(server, arguments):
    done = server.kekctl("bench", "demo", *arguments, name="app", status=USAGE)
    assert done.stderr.strip() and not done.stdout


def test_refusals_are_counted_apart_from_failures(own):
    with own.http("admin-1") as admin:
        admin.change("demo", "rotate")
    # Blobs of version 1 were wrapped before; it is disabled under way.
    process = start(own, "--mix", "unwrap", "--duration", "20s", "--warmup", "0")
    wait_for(lambda: len(audited(own, operation="unwrap")) > 100, "the load runs")
    with own.http("admin-1") as admin:
        admin.change("demo", "rotate")
        admin.change("demo", "versions/2/disable")
    wait_for(lambda: audited(own, operation="unwrap", code="version_not_enabled"), "a failure")
    report = finish(process)
    assert report["all"]["failed"] > 0 and report["all"]["good"] > 0
    assert report["all"]["refused"] == 0
    assert [a["code"] for a in report["answers"]] == ["version_not_enabled"]
    assert report["answers"][0]["status"] == 409
    assert report["answers"][0]["count"] == report["all"]["failed"]


def test_it_shows_how_it_goes_on_a_terminal_alone(server):
    arguments = "bench", "demo", *short("--duration", "2500ms")
    status, shown = server.on_a_terminal(*arguments)
    assert status == 0, shown
    assert b"\r1 of 2 s: " in shown and b" refused, " in shown
    assert server.kekctl(*arguments, name="app").stderr == b""


def start(server, *arguments):
    return subprocess.Popen(
        [os.path.join(BUILD, "kekctl"), "--config", server.kekctl_config("app"), "bench", "demo",
         "-o", "json", "--connections", "4", *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process, status=0):
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == status, err.decode()
    return json.loads(out)


def test_a_server_that_goes_and_comes_back_is_counted_not_fatal(own):
    process = start(own, "--duration", "60s", "--warmup", "0")
    wait_for(lambda: len(audited(own, operation="unwrap")) > 100, "the load runs")
    own.kill_all()
    before = len(audited(own))
    own.start()
    wait_for(lambda: len(audited(own)) > before + 100, "the load goes on")
    report = finish(process)
    assert report["errors"]["closed"] >= 4
    assert report["connections_made"] > 4
    assert report["all"]["wrong"] == 0 and report["all"]["failed"] == 0


def test_an_interrupted_run_reports_what_it_measured(server):
    process = start(server, "--duration", "60s", "--warmup", "0")
    before = len(audited(server))
    wait_for(lambda: len(audited(server)) > before + 400, "the load runs")
    report = finish(process)
    assert report["all"]["good"] > 0 and report["measured_s"] < 60


# ---- tests/bench/run, which uses it ----

def numbers(value):
    if isinstance(value, dict):
        for v in value.values():
            yield from numbers(v)
    elif isinstance(value, list):
        for v in value:
            yield from numbers(v)
    elif not isinstance(value, (bool, str)):
        yield value


@pytest.mark.stress
def test_the_bench_measures_kekd_beside_its_limits(tmp_path):
    path = tmp_path / "figures.json"
    done = subprocess.run(
        [os.path.join(TOP, "tests", "bench", "run"), "--quick", "--json", str(path)],
        check=False, capture_output=True, text=True, timeout=10 * PATIENCE,
        env=dict(os.environ, KEKD_BUILD=BUILD))
    assert done.returncode == 0, done.stderr
    report = json.loads(path.read_text())
    assert set(report["ratios"]) == {"wrap_single", "unwrap_single", "wrap_batch_100",
                                     "unwrap_batch_100"}
    assert set(report["connections"]) == {"1", "32", "256", "512"}
    for figures in report["connections"].values():
        assert {"per_s", "p50_ms", "p99_ms"} <= set(figures)
    assert report["wraps_per_s"] == report["median"]["wrap_single_items_per_s"]
    assert {s["batch"] for s in report["slow_token"]} == {1, 100}
    assert {"idle_mib", "after_mib"} <= set(report["memory"])
    assert all(n > 0 for n in numbers(report)), report
    for word in ("wrap single", "unwrap batch 100", "connections", "slow token", "memory"):
        assert word in done.stdout


@pytest.mark.stress
@pytest.mark.skipif(not PRESENT, reason="no etcd here")
def test_the_bench_of_a_pair_measures_two_nodes_a_nodes_end_and_what_etcd_is_asked(tmp_path):
    path = tmp_path / "figures.json"
    done = subprocess.run(
        [os.path.join(TOP, "tests", "bench", "pair"), "--quick", "--json", str(path)],
        check=False, capture_output=True, text=True, timeout=10 * PATIENCE,
        env=dict(os.environ, KEKD_BUILD=BUILD))
    assert done.returncode == 0, done.stderr
    report = json.loads(path.read_text())
    assert all(rate > 0 for rate in report["data"]["median"].values())
    for rounds in report["failover"].values():
        assert all(r["failed"] == 0 and r["requests"] > 0 for r in rounds), rounds
    for figures in (report["etcd"]["idle"], report["etcd"]["busy"]):
        assert figures["bytes"] > 0 and figures["LeaseKeepAlive"] > 0
    for word in ("both/one", "kill -9", "clean stop", "etcd, per minute"):
        assert word in done.stdout


@pytest.mark.stress
def test_the_bench_of_the_plugin_measures_each_call_beside_its_request(tmp_path):
    pytest.importorskip("grpc", reason="python3-grpcio is not installed")
    if not os.path.exists(os.path.join(BUILD, "kekd-kms")):
        pytest.skip("kekd-kms was not built: no gRPC here")
    path = tmp_path / "figures.json"
    done = subprocess.run(
        [os.path.join(TOP, "tests", "bench", "kms"), "--quick", "--json", str(path)],
        check=False, capture_output=True, text=True, timeout=10 * PATIENCE,
        env=dict(os.environ, KEKD_BUILD=BUILD))
    assert done.returncode == 0, done.stderr
    report = json.loads(path.read_text())
    assert set(report) == {"Status", "Encrypt", "wrap", "Decrypt", "unwrap"}
    assert all(0 < figures["p50_ms"] <= figures["p99_ms"] for figures in report.values())
    for word in ("Status", "Encrypt", "Decrypt", "ratio"):
        assert word in done.stdout
