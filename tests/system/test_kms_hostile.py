# SPDX-License-Identifier: Apache-2.0
"""kekd-kms at a server that answers anything, as a proxy in between may: it takes nothing for an
answer that is none, says what it misses, and neither dies of it nor announces it."""

import base64
import json

import pytest

from kekd import b64, wait_for
from kms import CLUSTER, KEY, PROVIDER, Code
from test_hostile_server import Liar, places, replaced

RECORD, WRAP, UNWRAP = (f"/v1/keys/{KEY}{what}" for what in ("", "/wrap", "/unwrap"))
WRONG = (None, [None, [], {}, "a", 1], "====")


@pytest.fixture
def liar(server):
    liar = Liar(server)
    yield liar
    liar.close()


def true_answers(server):
    """What the real one says, by path; the blob and what is in it belong together."""
    seed = bytes(range(32))
    context = {"kubernetes-cluster": CLUSTER, "provider": PROVIDER}
    with server.http("admin-1") as admin:
        if admin.get(RECORD).status == 404:
            admin.create_key(KEY)
        answers = {path: admin.ok("GET", path).json for path in
                   ("/health/ready", "/health/active", RECORD)}
    with server.http("app") as app:
        wrapped = app.ok("POST", WRAP, {"plaintext": b64(seed), "context": context}).json
        answers["/v1/whoami"] = app.ok("GET", "/v1/whoami").json
        answers[WRAP] = wrapped
        answers[UNWRAP] = app.ok("POST", UNWRAP, {"ciphertext": wrapped["ciphertext"],
                                                  "context": context}).json
    assert base64.b64decode(answers[UNWRAP]["plaintext"]) == seed
    return answers


@pytest.fixture
def answers(server, liar):
    """As the liar says them at first."""
    answers = true_answers(server)
    for path, value in answers.items():
        liar.say(path, value)
    return answers


@pytest.fixture
def plugin(server, liar, make_plugin):
    return make_plugin(server, endpoints=[f"https://localhost:{liar.httpd.server_port}"],
                       probe="100ms", metrics=False)


def doctor(plugin):
    """Its lines, by check."""
    status, text = plugin.run("doctor", "-o", "json")
    assert status in (0, 1, 3), text
    lines = {}
    for check in json.loads(text)["checks"]:
        assert check["text"] and (check["level"] == "ok" or check["remedy"]), check
        if check["endpoint"]:
            lines[check["check"]] = (check["level"], check["text"])
    return lines


def test_another_seed_than_was_wrapped_is_an_error_of_status(liar, answers, plugin):
    """The probe's own bytes are random: what is right for the liar is another one's."""
    plugin.start(ready=False)
    text = plugin.wait_sick(about="unwrap fails, wrap works")
    assert "kekd unwraps something else than it wrapped: take it out of use" in text
    plugin.stub().refuses(Code.UNAVAILABLE, "encrypt")
    level, text = doctor(plugin)["unwrap"]
    assert (level, text) == ("fault", "what was unwrapped is not what was wrapped")


def test_a_blob_of_another_version_is_not_taken_for_one(liar, answers, plugin):
    blob = bytearray(base64.b64decode(answers[WRAP]["ciphertext"]))
    blob[4] ^= 1
    for wrong in (b64(bytes(blob)), b64(b"x"), b64(bytes(2000)), "no base64", None):
        liar.say(WRAP, {**answers[WRAP], "ciphertext": wrong})
        level, text = doctor(plugin)["wrap"]
        assert level == "fault" and "what kekd answered is no blob of" in text, (wrong, text)


def test_a_plaintext_that_is_none_is_told(liar, answers, plugin):
    for wrong in ("no base64", None, 1, b64(bytes(70000))):
        liar.say(UNWRAP, {**answers[UNWRAP], "plaintext": wrong})
        level, text = doctor(plugin)["unwrap"]
        assert level == "fault" and "kekd's answer holds no plaintext" in text, (wrong, text)


def test_a_record_without_a_primary_version_is_announced_by_nobody(liar, answers, plugin):
    for changes in ({"kms_key_id": None}, {"kms_key_id": "x.1"}, {"versions": [{"id": "x"}]},
                    {"versions": [{}]}):
        liar.say(RECORD, {**answers[RECORD], **changes})
        plugin.start(ready=False)
        text = plugin.wait_sick(about="has no primary version")
        assert f"kekctl key show {KEY} tells" in text
        plugin.stop()
    liar.say(RECORD, {**answers[RECORD], "kms_key_id": None})
    assert not {"wrap", "unwrap"} & set(doctor(plugin))


def test_no_answer_crashes_the_plugin(liar, answers, plugin):
    """Each wrong one is asked for at least once; at the end all is as at the begin."""
    plugin.start(ready=False)
    reason = plugin.wait_sick(about="something else than it wrapped")
    for path in (RECORD, WRAP, UNWRAP):
        for place in places(answers[path]):
            for wrong in WRONG:
                liar.say(path, replaced(answers[path], place, wrong))
                liar.asked.clear()
                wait_for(lambda p=path: p in liar.asked or RECORD in liar.asked, "it is asked")
                assert plugin.running(), plugin.log()
        liar.say(path, answers[path])
    assert plugin.wait_sick(about="something else than it wrapped") == reason
    assert not json.dumps(answers[UNWRAP]["plaintext"]).strip('"') in plugin.log()


@pytest.mark.parametrize("path", ["/v1/whoami", "/health/ready", "/health/active", RECORD, WRAP])
def test_no_answer_crashes_the_doctor(liar, answers, plugin, path):
    for place in places(answers[path]):
        for wrong in WRONG[:2]:
            liar.say(path, replaced(answers[path], place, wrong))
            assert "connection" in doctor(plugin)


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"<html>", b"{" * 5000])
@pytest.mark.parametrize("status", [200, 204, 403, 503])
def test_what_is_no_answer_of_kekds_is_a_fault_and_no_crash(liar, answers, plugin, status, body):
    for path in answers:
        liar.say(path, b"" if status == 204 else body, status=status)
    level, text = doctor(plugin).get("identity", ("", ""))
    assert level == "fault" or (status, body) in ((200, b"{}"), (200, b"[]")), text
