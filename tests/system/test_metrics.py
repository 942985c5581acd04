# SPDX-License-Identifier: Apache-2.0
"""What Prometheus is told at /metrics."""

import concurrent.futures
import contextlib
import datetime
import glob
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import threading
import time

import pytest

from disk import fill
from kekd import BUILD, DATA, LONG, PATIENCE, TOP, b64, kill, proc_status, suspended, wait_for
from pki import spiffe

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\]|\\.)*",?)*)\})? (\S+)')


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
            labels = re.findall(r'([a-z_]+)="((?:[^"\\]|\\.)*)"', found[2] or "")
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


@pytest.fixture
def full_disk(small_disk):
    """The file system of its audit log has no room left."""
    fill(small_disk.audit_dir)
    with small_disk.http("app") as app:
        while app.call("POST", "/v1/keys/demo/wrap", {"plaintext": b64(b"x")}).status == 200:
            pass
    return small_disk


def scrape(http):
    reply = http.get("/metrics")
    assert reply.status == 200, reply
    assert reply.headers["Content-Type"] == CONTENT_TYPE
    return Scrape(reply.body.decode())


def clock(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def documented():
    """{name: type} of the table in doc/metrics.md."""
    with open(os.path.join(TOP, "doc", "metrics.md"), encoding="utf-8") as f:
        return dict(re.findall(r"^\| `(\w+)`[^|]* \| (\w+) \|", f.read(), re.MULTILINE))


def test_promtool_finds_nothing_to_complain_about(promtool, admin, app):
    app.wrap(b"x")
    app.call("POST", "/v1/keys/demo/wrap", {"plaintext": "!"})
    assert not promtool("check", "metrics", input=admin.get("/metrics").body.decode())


def test_each_metric_is_documented_and_each_documented_one_is_there(admin):
    own = {name: kind for name, kind in documented().items()
           if not name.startswith("kekd_kms_")}  # the plugin's, which it tells itself
    assert scrape(admin).types == own


def test_only_a_client_with_metrics_read_may_scrape(server, app, admin):
    reply = app.get("/metrics")
    assert (reply.status, reply.code) == (403, "forbidden")
    with server.http() as stranger:
        assert stranger.get("/metrics").status == 401
    admin.put_client("prometheus", ["uri:" + spiffe("other")],
                     [{"keys": "*", "operations": ["metrics.read"]}])
    with server.http("other") as prometheus:
        assert scrape(prometheus).get("kekd_ready") == 1
        assert prometheus.get("/v1/status").status == 403


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


def test_versions_ages_and_budgets_are_told(own):
    with own.http("admin-1") as admin, own.http("app") as app:
        app.wrap(b"x")
        before = scrape(admin)
        admin.create_key("second")
        admin.rotate("second")
        admin.change("second", "versions/1/disable")
        now = wait_for(lambda: (s := scrape(admin)).get(
            "kekd_key_versions", state="disabled") == 1 and s, "the summary is made")
        assert now.get("kekd_keys") == before.get("kekd_keys") + 1 == 2
        assert now.get("kekd_key_versions", state="enabled") == 2
        made = clock(admin.key("second")["versions"][1]["created"])
        name = "kekd_key_primary_created_timestamp_seconds"
        assert abs(now.get(name, key="second") - made) < 0.001
        assert now.get("kekd_key_primary_oldest_created_timestamp_seconds") == now.get(
            name, key="demo") < now.get(name, key="second")
        # A block for proofs, and the first one for wraps.
        assert now.get("kekd_key_nonces_left_min") == now.get(
            "kekd_key_nonces_left", key="second") == 2**32 - 2 * 2**20
        assert now.get("kekd_store_commit_duration_seconds_count") > before.get(
            "kekd_store_commit_duration_seconds_count")
        assert now.get("kekd_store_revision") == before.get("kekd_store_revision") + 5


def test_a_restart_forgets_no_budget_that_was_used(own):
    with own.http("app") as app:
        app.wrap(b"x")
    own.stop()
    own.start()
    with own.http("admin-1") as admin:
        now = scrape(admin)
    assert now.get("kekd_key_nonces_left", key="demo") == 2**32 - 2 * 2**20
    assert now.get("kekd_requests_total", operation="wrap", code="ok") == 0


def test_the_audit_log_is_told_as_it_is(server):
    with server.http("app") as app, server.http("admin-1") as admin:
        for _ in range(5):
            app.wrap(b"x")
        now, status = scrape(admin), admin.status()
    assert now.get("kekd_audit_records_total") == status["audit"]["sequence"] >= 5
    assert now.get("kekd_audit_sync_duration_seconds_count") >= 5
    assert now.get("kekd_audit_backlog_records") == 0
    assert now.get("kekd_audit_ok") == now.get("kekd_ready") == 1


def test_what_the_process_uses_is_what_the_kernel_says(server, admin):
    now = scrape(admin)
    pid = server.net()
    status = proc_status(pid)
    assert now.get("process_threads") == int(status["Threads"])
    resident = 1024 * int(status["VmRSS"].split()[0])
    assert 0.5 < now.get("process_resident_memory_bytes") / resident < 2
    assert now.get("process_open_fds") > 5
    assert now.get("process_cpu_seconds_total") > 0
    assert abs(now.get("process_start_time_seconds") - time.time()) < 3600


def test_a_scrape_is_answered_while_every_worker_hangs(own):
    with own.http("admin-1") as admin, own.http("app") as app:
        app.wrap(b"x")
        with suspended(*own.workers()):
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                waiting = pool.submit(app.call, "POST", "/v1/keys/demo/wrap",
                                      {"plaintext": b64(b"y")})
                now = wait_for(lambda: (s := scrape(admin)).get(
                    "kekd_requests_in_flight") == 2 and s, "a wrap waits beside the scrape")
                assert now.sum("kekd_hsm_queue_operations") + now.sum(
                    "kekd_hsm_worker_frames_in_flight") >= 1
                assert not waiting.done()
                assert waiting.result(PATIENCE).code == "hsm_timeout"
            now = scrape(admin)
            assert now.get("kekd_requests_total", operation="wrap", code="hsm_timeout") == 1
            # The server's own signatures and seals may wait for the other worker.
            assert now.sum("kekd_hsm_worker_missed_deadlines_total") in (1, 2)
            assert now.sum("kekd_hsm_worker_late") in (1, 2)
            assert now.get("kekd_hsm_timeouts_total", token="main") >= 1


def test_a_scrape_is_answered_while_the_audit_disk_is_full(full_disk):
    with full_disk.http("admin-1") as admin, full_disk.http("app") as app:
        reply = app.call("POST", "/v1/keys/demo/wrap", {"plaintext": b64(b"x")})
        assert reply.code == "audit_unavailable"
        now = scrape(admin)
        assert now.get("kekd_audit_ok") == now.get("kekd_ready") == 0
        assert now.get("kekd_audit_failures_total") > 0
        assert now.get("kekd_requests_total", operation="wrap", code="audit_unavailable") > 0
        # Its items were not answered either, whatever the token had said.
        assert now.get("kekd_items_total", operation="wrap", code="ok") == now.get(
            "kekd_requests_total", operation="wrap", code="ok")


def test_a_scrape_is_answered_while_the_store_is_held(own):
    own.stop()
    os.unlink(own.path("state", "accepted"))
    own.start(ready=False)
    wait_for(lambda: "held" in str(own.health()[1]), "the store is held")
    with own.http("admin-1") as admin:
        now = scrape(admin)
    assert now.get("kekd_store_held") == now.get("kekd_phase", phase="held") == 1
    assert now.get("kekd_ready") == now.get("kekd_phase", phase="serving") == 0


def test_an_edited_record_is_told(own):
    with own.http("admin-1") as admin:
        assert scrape(admin).get("kekd_seal_failures_total") == 0
        with contextlib.closing(sqlite3.connect(own.path("state", "metadata.db"))) as db:
            name = db.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND sql "
                              "LIKE '%body%'").fetchone()[0]
            with db:
                changed = db.execute(f"UPDATE {name} SET body = replace(body, '\"wrap\"', "
                                     "'\"verify\"') WHERE path = 'clients/app'").rowcount
            assert changed == 1
        now = wait_for(lambda: (s := scrape(admin)).get(
            "kekd_store_records_refused") == 1 and s, "the edit is told")
        assert now.get("kekd_seal_failures_total") == 1


def test_a_starting_server_lets_nobody_in_and_says_so_at_once(make_server):
    server = make_server().init()
    shutil.move(server.path("tokens"), server.path("away"))
    server.start(ready=False)
    wait_for(lambda: server.health("live")[0] == 200, "it answers")
    with server.http("admin-1") as admin:
        reply = admin.get("/metrics")
        assert (reply.status, reply.code) == (503, "starting")


def test_a_killed_worker_is_counted(own):
    with own.http("admin-1") as admin:
        kill(own.workers()[0])
        wait_for(lambda: scrape(admin).sum("kekd_hsm_worker_restarts_total") == 1,
                 "the restart is told")
        wait_for(lambda: scrape(admin).sum("kekd_hsm_worker_ready") == 2, "both are ready")


def test_operations_and_session_copies_of_the_workers_are_counted(own):
    with own.http("admin-1") as admin, own.http("app") as app:
        before = scrape(admin)
        app.ok("POST", "/v1/keys/demo/wrap", {"items": [{"plaintext": b64(b"x")}] * 100})
        now = scrape(admin)

    def rise(name):
        return now.sum(name) - before.sum(name)
    # The server itself asks the token a few things more: seals, proofs.
    assert 100 <= rise("kekd_hsm_worker_operations_total") < 150
    assert 2 <= rise("kekd_hsm_worker_frames_total") < 150
    assert 100 <= rise("kekd_hsm_worker_session_copy_hits_total") < 150
    assert now.sum("kekd_hsm_worker_operation_cost_seconds") > 0
    with own.http("admin-1") as admin:  # the server may be asking for a signature just now
        wait_for(lambda: scrape(admin).sum("kekd_hsm_worker_frames_in_flight") == 0,
                 "the workers have answered all")


def test_what_a_limit_refused_is_told_by_client_and_limit(own):
    with own.http("admin-1") as admin, own.http("other") as other:
        admin.put_client("slow", ["uri:" + spiffe("other")],
                         [{"keys": "*", "operations": ["wrap"]}],
                         limits={"requests_per_s": 1})
        replies = [other.call("POST", "/v1/keys/demo/wrap", {"plaintext": b64(b"x")})
                   for _ in range(10)]
        refused = sum(r.code == "rate_limited" for r in replies)
        now = scrape(admin)
    assert refused > 0
    assert now.get("kekd_client_limited_total", client="slow",
                   limit="requests_per_s") == refused
    assert now.get("kekd_client_limited_total", client="slow", limit="in_flight") == 0
    assert now.get("kekd_requests_total", operation="wrap", code="rate_limited") == refused
    assert now.get("kekd_client_requests_total", client="slow", result="refused") == refused
    assert now.get("kekd_client_requests_in_flight", client="admin-1") == 1


def test_no_more_clients_than_the_bound_are_told_apart(own):
    with own.http("admin-1") as admin, own.http("other") as other:
        for i in range(120):
            etag = admin.put_client(f"c-{i}", ["uri:" + spiffe("other")],
                                    [{"keys": "*", "operations": ["key.read"]}]).etag
            other.ok("GET", "/v1/whoami")
            admin.ok("DELETE", f"/v1/clients/c-{i}", etag=etag)
        now = scrape(admin)
        told = {dict(labels)["client"] for n, labels in now.samples
                if n == "kekd_client_requests_total"}
        assert len(told) == 101 and "other" in told
        # admin-1 is one of the hundred; what the others did is not lost
        assert now.get("kekd_client_requests_total", client="other", result="ok") == 21
        assert now.get("kekd_client_requests_total", client="c-0", result="ok") == 1


def test_no_identity_address_or_data_is_told(server, admin, app):
    secret = b"a data key that nobody may read!"
    blob = app.wrap(secret, context={"pod": "context-word"})
    app.unwrap(blob, context={"pod": "context-word"})
    with server.http("other") as other:
        other.get("/v1/status")
    text = scrape(admin).text
    for word in ("spiffe", "uri:", "127.0.0.1", "context-word", b64(secret), b64(blob),
                 secret.decode(), server.dir):
        assert word not in text, word


def test_scrapes_under_load_are_whole_and_do_not_wait(own):
    stop = threading.Event()
    faults = []

    def load():
        with own.http("app") as app:
            while not stop.is_set():
                app.wrap(b"load")

    def watch():
        last = 0
        with own.http("admin-1") as admin:
            for _ in range(300 if LONG else 30):
                now = scrape(admin)
                done = now.get("kekd_requests_total", operation="wrap", code="ok")
                if done < last or now.text[-1] != "\n":
                    faults.append(now.text)
                last = done
        return last

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        loads = [pool.submit(load) for _ in range(4)]
        try:
            ends = [w.result(PATIENCE) for w in [pool.submit(watch) for _ in range(4)]]
        finally:
            stop.set()
        for job in loads:
            job.result(PATIENCE)
    assert not faults and all(end > 0 for end in ends)
    with own.http("admin-1") as admin:
        now = scrape(admin)
    assert now.get("kekd_requests_total", operation="wrap", code="ok") == own.audited_wraps()


def test_a_client_library_reads_it(admin, app):
    parser = pytest.importorskip("prometheus_client.parser",
                                 reason="python3-prometheus-client is not installed")
    app.wrap(b"x")
    text = admin.get("/metrics").body.decode()
    families = {f.name: f for f in parser.text_string_to_metric_families(text)}
    # A counter's family is named without its ending there.
    assert {n.removesuffix("_total") for n in parse(text)[1]} == set(families)
    assert all(f.documentation for f in families.values())


def test_a_clock_that_is_behind_the_metadata_is_told(make_server):
    library = next(iter(glob.glob("/usr/lib/*/faketime/libfaketime.so.1")), None)
    if not library:
        pytest.skip("libfaketime is not installed (package faketime)")
    server = make_server()
    # kekd-net gets no LD_PRELOAD from outside: a program of its name puts it in.
    os.mkdir(server.path("libexec"))
    os.symlink(os.path.join(BUILD, "kekd-hsm"), server.path("libexec", "kekd-hsm"))
    with open(server.path("libexec", "kekd-net"), "w", encoding="utf-8") as f:
        f.write("#!/bin/sh\nASAN_OPTIONS=verify_asan_link_order=0 "
                f"LD_PRELOAD={library} FAKETIME=+1800s exec {BUILD}/kekd-net\n")
    os.chmod(server.path("libexec", "kekd-net"), 0o755)
    server.environment["KEKD_LIBEXECDIR"] = server.path("libexec")
    server.init().start().populate()
    with server.http("admin-1") as admin:
        assert scrape(admin).get("kekd_store_clock_skew_seconds") == 0
    server.stop()
    server.environment["KEKD_LIBEXECDIR"] = BUILD
    server.start()
    with server.http("admin-1") as admin:
        assert 1700 < scrape(admin).get("kekd_store_clock_skew_seconds") <= 1800


def test_connections_are_counted_and_those_that_nobody_used(own):
    with own.http("admin-1") as admin:
        before = scrape(admin)
        with own.http("app") as app:
            app.wrap(b"x")
            assert scrape(admin).get("kekd_connections") == 2
        with socket.create_connection(("127.0.0.1", own.port)):
            wait_for(lambda: scrape(admin).get("kekd_connections_total") - before.get(
                "kekd_connections_total") == 2, "both are counted")
        now = wait_for(lambda: (s := scrape(admin)).get("kekd_connections") == 1 and s,
                       "both are closed")
        assert now.get("kekd_connections_unused_total") - before.get(
            "kekd_connections_unused_total") == 1
        assert now.get("kekd_connections_max") >= 1000


def test_kekctl_shows_what_prometheus_is_told(server):
    everything = server.kekctl("metrics").stdout.decode()
    assert "# TYPE kekd_ready gauge\nkekd_ready 1\n" in everything
    some = server.kekctl("metrics", "kekd_audit").stdout.decode().splitlines()
    assert some and all(re.match(r"(# (HELP|TYPE) )?kekd_audit", line) for line in some)
    server.kekctl("metrics", name="app", status=3)


def not_after(path):
    text = subprocess.run(["openssl", "x509", "-in", path, "-noout", "-enddate"], check=True,
                          capture_output=True, text=True).stdout.strip().partition("=")[2]
    return datetime.datetime.strptime(text, "%b %d %H:%M:%S %Y %Z").replace(
        tzinfo=datetime.timezone.utc).timestamp()


def test_the_end_of_each_certificate_is_told_and_whether_changed_ones_are_in_force(own):
    name = "kekd_certificate_expiry_timestamp_seconds"
    with own.http("admin-1") as admin:
        before = scrape(admin)
        assert before.get(name, certificate="server") == not_after(own.path("server.pem"))
        assert before.get(name, certificate="client_ca") == not_after(own.path("ca.pem"))
        assert before.get(name, certificate="crl") is None
        new = own.pki.ca.issue("server-2", "DNS:localhost,IP:127.0.0.1", eku="serverAuth",
                               last=datetime.timedelta(hours=7))
        for source, target in ((new.key, "server.key"), (new.pem, "server.pem")):
            shutil.copy(source, own.path(target))
        now = wait_for(lambda: (s := scrape(admin)).get(name, certificate="server") == not_after(
            new.pem) and s, "the new certificate is told")
        taken = "kekd_certificates_taken_timestamp_seconds"
        assert now.get(taken) > before.get(taken)
        assert now.get("kekd_certificate_files_refused") == 0
        with open(own.path("server.pem"), "w", encoding="utf-8") as f:
            f.write("no certificate\n")
        now = wait_for(lambda: (s := scrape(admin)).get(
            "kekd_certificate_files_refused") == 1 and s, "the bad one is told")
        assert now.get(name, certificate="server") == not_after(new.pem)


def test_a_reload_that_changed_nothing_is_told(own):
    with own.http("admin-1") as admin:
        now = scrape(admin)
        assert now.get("kekd_reload_successful") == 1
        assert now.get("kekd_reload_timestamp_seconds") is None
        own.settings["no_such_setting"] = 1
        own.write_config()
        kill(own.process.pid, signal.SIGHUP)
        now = wait_for(lambda: (s := scrape(admin)).get(
            "kekd_reload_timestamp_seconds") and s, "the reload is told")
        assert now.get("kekd_reload_successful") == 0
        del own.settings["no_such_setting"]
        own.write_config()
        kill(own.process.pid, signal.SIGHUP)
        wait_for(lambda: scrape(admin).get("kekd_reload_successful") == 1, "it is mended")


# ---- contrib/prometheus ----

CONTRIB = os.path.join(TOP, "contrib", "prometheus")


def test_the_alert_rules_are_valid_and_fire_when_they_should(promtool):
    promtool("check", "config", "--syntax-only", "prometheus.yml", cwd=CONTRIB)
    assert "SUCCESS" in promtool("check", "rules", "kekd.rules.yml", cwd=CONTRIB)
    assert "SUCCESS" in promtool("test", "rules", "kekd.rules.test.yml", cwd=CONTRIB)


def test_the_alerts_go_by_metrics_that_there_are():
    with open(os.path.join(CONTRIB, "kekd.rules.yml"), encoding="utf-8") as f:
        rules = f.read()
    named = set(re.findall(r"\b(?:kekd|process)_[a-z_]+[a-z]\b", rules))
    known = documented()
    for name, kind in list(known.items()):
        if kind == "histogram":
            known |= {name + suffix: kind for suffix in ("_bucket", "_count", "_sum")}
    assert named and not named - known.keys()
