# SPDX-License-Identifier: Apache-2.0
"""A pair under random faults (tests/faults/pair), and that its check of histories finds what cannot
have been."""

import copy
import os
import subprocess
import sys

import pytest

from etcd import PRESENT
from kekd import BUILD

FAULTS = os.path.join(os.path.dirname(__file__), "..", "faults")
sys.path.append(FAULTS)

import history  # noqa: E402

MINUTES = 30 if os.environ.get("KEKD_TEST_LONG") else 3


@pytest.mark.faults
@pytest.mark.skipif(not PRESENT, reason="no etcd here")
def test_whatever_happens_to_a_pair_its_clients_saw_nothing_that_cannot_be():
    done = subprocess.run([os.path.join(FAULTS, "pair"), "--minutes", str(MINUTES)], check=False,
                          env=dict(os.environ, KEKD_BUILD=BUILD, PYTEST_XDIST_WORKER="gw8"),
                          text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=60 * MINUTES + 300)
    assert done.returncode == 0, done.stdout
    print(done.stdout.splitlines()[-1])


# ---- the check itself ----

def version(number, state="enabled"):
    return {"version": number, "id": f"id-{number}", "state": state}


def record(revision, primary, activation, *versions):
    return {"name": "k", "revision": revision, "primary": primary, "activation": activation,
            "versions": list(versions)}


def good():
    """What can have been: two rotations, data keys, a node's status."""
    one = record(5, 1, 1, version(1))
    two = record(9, 2, 2, version(1), version(2))
    rows = [
        {"op": "create", "record": one},
        {"op": "wrap", "version": 1, "version_id": "id-1", "blob": "b1", "plain": "p1",
         "revision": 5},
        {"op": "rotate", "record": two},
        {"op": "wrap", "version": 2, "version_id": "id-2", "blob": "b2", "plain": "p2",
         "revision": 9},
        {"op": "unwrap", "version": 1, "blob": "b1", "plain": "p1", "revision": 9},
        {"op": "status", "node": "node-1", "role": "active", "epoch": 20},
        {"op": "status", "node": "node-2", "role": "active", "epoch": 30},
        {"op": "rotate", "ok": False, "status": 0, "code": ""},
    ]
    for n, row in enumerate(rows):
        row.update({"n": n, "begin": n, "end": n + 0.5, "client": "c", "key": "k", "port": 1,
                    "ok": row.get("ok", True), "trace": f"t{n}", "code": row.get("code", "")})
    rows[5].pop("trace"), rows[6].pop("trace")
    audit = [{"type": "request", "result": "ok", "traceparent": f"t{n}"} for n in range(8)]
    return rows, {"k": copy.deepcopy(two)}, {"node-1": audit[:4], "node-2": audit[4:]}


def judged(change):
    rows, final, audits = good()
    change(rows, final, audits)
    return history.Check(rows, final, audits).run()


def test_a_history_that_can_have_been_is_good():
    assert not judged(lambda rows, final, audits: None)


def older(rows, final, audits):
    final["k"] = record(5, 1, 1, version(1))


def other_id(rows, final, audits):
    final["k"]["versions"][0]["id"] = "id-9"


def activation_again(rows, final, audits):
    rows[2]["record"].update(activation=1)
    final["k"].update(activation=1)


def two_records(rows, final, audits):
    rows[2]["record"]["versions"][0]["state"] = "disabled"


def same_revision(rows, final, audits):
    rows[7].update(ok=True, record=copy.deepcopy(final["k"]))


def revision_back(rows, final, audits):
    rows[4]["revision"] = 8


def two_leaders(rows, final, audits):
    rows[6]["epoch"] = 20


def epoch_back(rows, final, audits):
    rows[6]["epoch"] = 19


def another_plaintext(rows, final, audits):
    rows[4]["plain"] = "p2"


def said_to_be_none(rows, final, audits):
    rows[4].update(ok=False, status=400, code="unwrap_failed")


def wrap_after_the_end(rows, final, audits):
    rows[2]["op"] = "destroy"
    rows[2]["version"] = 2


def not_audited(rows, final, audits):
    audits["node-1"].pop(1)


@pytest.mark.parametrize("change, fault", [
    (older, "change is lost"), (other_id, "another one"), (activation_again, "of two versions"),
    (two_records, "two records"), (same_revision, "with one revision"),
    (revision_back, "went back"), (two_leaders, "two nodes"), (epoch_back, "below an earlier"),
    (another_plaintext, "another data key"), (said_to_be_none, "said to be none"),
    (wrap_after_the_end, "whose end was"), (not_audited, "no audit record")],
    ids=lambda v: v.__name__ if callable(v) else "")
def test_what_cannot_have_been_is_found(change, fault):
    assert any(fault in text for text in judged(change))
