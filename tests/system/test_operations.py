# SPDX-License-Identifier: Apache-2.0
"""Starting, checking, stopping: what an operator meets."""

import os
import re
import signal
import socket
import subprocess
import threading
import time

import pytest

from kekd import BUILD, b64, free_port, kill, wait_for, yaml


def check(server):
    return server.run("--check")


def test_a_good_configuration_is_found_good(make_server):
    done = check(make_server())
    assert done.returncode == 0, done.stdout


def edit(server, change):
    """Changes the configuration; gives its text."""
    change(server.settings)
    text = yaml(server.settings)
    server.write_config(text)
    return text


def line_of(text, word):
    return next(n for n, line in enumerate(text.splitlines(), 1) if word in line)


@pytest.mark.parametrize("change, word", [
    (lambda s: s.update(colour="blue"), "colour"),
    (lambda s: s["hsm"].update(wokers=2), "wokers"),
    (lambda s: s["tls"].update(client_ca="/nonexistent/ca.pem"), "client_ca"),
    (lambda s: s.update(cluster="Not A Name"), "cluster"),
    (lambda s: s["tokens"][0].update(uri="http://not-a-pkcs11-uri"), "uri"),
    (lambda s: s["tokens"][0].update(module="/nonexistent/module.so"), "module"),
    (lambda s: s["tokens"][0].update({"pin-source": "/nonexistent/pin"}), "pin-source"),
    (lambda s: s.update(listen=["nowhere"]), "nowhere"),
    (lambda s: s.update(listen=["127.0.0.1:99999"]), "99999"),
    (lambda s: s["hsm"].update(workers=99), "workers"),
    (lambda s: s["hsm"].update(deadline="soon"), "deadline"),
    (lambda s: s["admins"][0].update(identities=["nonsense"]), "nonsense"),
])
def test_a_fault_in_the_configuration_is_named_with_line_and_remedy(make_server, change, word):
    server = make_server()
    text = edit(server, change)
    done = check(server)
    assert done.returncode == 78
    assert f"{server.config_path}:{line_of(text, word)}: " in done.stdout, done.stdout
    assert word in done.stdout
    server.write_config(text)
    done = server.run()
    assert done.returncode == 78, "it starts nevertheless"


def test_a_configuration_that_is_no_yaml_is_refused_with_its_line(make_server):
    server = make_server()
    server.write_config("cluster: test\nnode: [unclosed\n")
    done = check(server)
    assert done.returncode == 78 and re.search(r":[23]:", done.stdout), done.stdout


def test_a_configuration_that_is_not_there_is_told(make_server):
    server = make_server()
    os.unlink(server.config_path)
    done = check(server)
    assert done.returncode == 78 and server.config_path in done.stdout


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_pin_file_that_others_can_read_is_refused(make_server, mode):
    server = make_server()
    os.chmod(server.pin_path, mode)
    done = check(server)
    assert done.returncode == 78 and "chmod" in done.stdout and server.pin_path in done.stdout
    assert server.run().returncode == 78


def test_two_settings_wrong_are_both_told(make_server):
    server = make_server()
    edit(server, lambda s: (s.update(cluster="A"), s["tls"].update(key="/nonexistent")))
    done = check(server)
    assert "cluster" in done.stdout and "/nonexistent" in done.stdout


def test_a_port_in_use_is_told_with_the_address(make_server):
    server = make_server().init()
    with socket.socket() as s:
        s.bind(("127.0.0.1", server.port))
        s.listen()
        done = server.run()
    assert done.returncode not in (0, -9)
    assert f"127.0.0.1:{server.port}" in done.stdout


def test_init_without_the_token_says_what_is_missing(make_server):
    server = make_server()
    edit(server, lambda s: s["tokens"][0].update(uri="pkcs11:token=absent"))
    done = server.run("init")
    assert done.returncode != 0
    assert "token" in done.stdout and "absent" in done.stdout


def test_a_token_that_vanished_keeps_it_unready_and_it_says_so(make_server):
    server = make_server().init()
    os.rename(server.path("tokens"), server.path("moved"))
    os.mkdir(server.path("tokens"))
    server.start(ready=False)
    wait_for(lambda: "token" in str(server.health()[1]), "health tells of the token")
    assert server.health()[0] == 503 and server.health("live")[0] == 200
    assert "token" in server.log()


def test_a_token_that_comes_back_is_taken_into_use(make_server):
    server = make_server().init()
    os.rename(server.path("tokens"), server.path("moved"))
    os.mkdir(server.path("tokens"))
    server.start(ready=False)
    wait_for(lambda: server.health()[0] == 503, "it answers")
    time.sleep(1)
    os.rmdir(server.path("tokens"))
    os.rename(server.path("moved"), server.path("tokens"))
    server.wait_ready(60)


def test_a_token_that_is_not_initialised_is_told(make_server):
    server = make_server(tokens=())
    server.settings["tokens"] = [{"name": "main", "uri": "pkcs11:manufacturer=SoftHSM%20project",
                                  "module": server.module, "pin-source": server.pin_path}]
    server.write_config()
    done = server.run("init")
    assert done.returncode != 0
    assert "initialised" in done.stdout or "token" in done.stdout


def test_an_empty_store_says_that_init_comes_first(make_server):
    server = make_server()
    server.start(ready=False)
    wait_for(lambda: server.process.poll() is not None, "it ends")
    assert server.process.returncode == 78
    server.process = None
    assert "kekd init" in server.log()


def test_it_listens_on_every_address_of_the_list(make_server):
    server = make_server()
    second = free_port()
    server.settings["listen"].append(f"127.0.0.1:{second}")
    server.settings["listen"].append(f"[::1]:{second}")
    server.write_config()
    try:
        server.init().start()
    except AssertionError:
        with socket.socket(socket.AF_INET6) as s:
            if s.connect_ex(("::1", 9)) == 99:
                pytest.skip("no IPv6 here")
        raise
    first = server.port
    for port in (first, second):
        server.port = port
        assert server.health()[0] == 200
    with socket.create_connection(("::1", second), timeout=10):
        pass
    server.port = first


def test_sigterm_lets_what_was_asked_be_answered(own):
    """Requests under way when it stops get an answer, or were never taken."""
    results, errors = [], []
    stop = threading.Event()

    def use():
        with own.http("app") as h:
            while not stop.is_set():
                try:
                    reply = h.call("POST", "/v1/keys/demo/wrap", {"plaintext": b64(b"x")})
                except OSError:
                    return
                except Exception as e:  # a connection that ended between two requests
                    if "RemoteDisconnected" in repr(e) or "Incomplete" not in repr(e):
                        return
                    errors.append(e)
                    return
                results.append(reply.status)
                if reply.status == 503:
                    assert reply.code == "shutting_down"
                    return

    threads = [threading.Thread(target=use) for _ in range(8)]
    for t in threads:
        t.start()
    wait_for(lambda: len(results) > 200, "there is load")
    assert own.stop() == 0
    stop.set()
    for t in threads:
        t.join()
    assert not errors and set(results) <= {200, 503}
    acknowledged = results.count(200)
    assert own.audited_wraps() >= acknowledged
    own.start()


def test_sigint_stops_as_well(own):
    family = own.family()
    kill(own.process.pid, signal.SIGINT)
    assert own.process.wait(30) == 0
    own.process = None
    wait_for(lambda: not any(os.path.exists(f"/proc/{p}") for p in family), "all are gone", 5)


def test_readiness_is_told_while_it_starts(make_server):
    server = make_server().init()
    server.start(ready=False)
    seen = set()
    wait_for(lambda: seen.add(server.health()[0]) or server.health()[0] == 200, "it is ready",
             every=0.001)
    assert seen <= {0, 200, 503}


def test_status_shows_node_token_store_and_audit(own):
    with own.http("admin-1") as admin:
        wait_for(lambda: len(admin.status()["tokens"][0]["workers"]) == 2 and all(
            w["state"] == "ready" for w in admin.status()["tokens"][0]["workers"]),
            "both workers are ready")
        status = admin.status()
    assert status["phase"] == "serving" and status["cluster"] == "test"
    token, = status["tokens"]
    assert token["name"] == "main" and token["ready"] is True
    assert [w["state"] for w in token["workers"]] == ["ready", "ready"]
    assert {w["pid"] for w in token["workers"]} == set(own.workers())
    assert status["store"]["hold"] == "none" and status["audit"]["ok"] is True
    assert status["unknown_objects"] == []


@pytest.mark.parametrize("program", ["kekd", "kekctl"])
def test_programs_tell_version_and_help(program):
    for option in ("--help", "--version"):
        done = subprocess.run([os.path.join(BUILD, program), option], check=False, text=True,
                              capture_output=True)
        assert done.returncode == 0 and program in done.stdout and not done.stderr


def test_a_wrong_command_line_is_wrong_use(make_server):
    server = make_server()
    for arguments in (["--no-such"], ["fly"], ["init", "again"]):
        done = server.run(*arguments)
        assert done.returncode == 2 and "--help" in done.stdout


def test_the_log_holds_no_secret(own):
    with own.http("app") as app:
        app.unwrap(app.wrap(b"log-marker-plaintext"))
    own.stop()
    log = own.log()
    assert "4711-test-pin" not in log and b64(b"log-marker-plaintext") not in log
    own.start()
