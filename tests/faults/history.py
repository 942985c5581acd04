# SPDX-License-Identifier: Apache-2.0
"""What clients of a pair saw, a line each, and the offline check that it can have been so.

A history is a list of dictionaries, each an operation that has ended:

  n           in the order of the ends
  begin, end  seconds on the one clock of all clients
  client      whose thread
  op          wrap unwrap create rotate primary disable enable destroy look status
  key         name
  ok          acknowledged; else `status` and `code` (0: no answer came)
  port        of the node that answered
  revision    Kekd-Revision of the answer
  trace       the traceparent that was sent, of this operation alone
  version, version_id, blob (its SHA-256), plain (its SHA-256): wrap and unwrap
  record      the key as it was after the change, or when it was looked at
  node, role, epoch: of status
"""

import collections
import json

CHANGES = ("create", "rotate", "primary", "disable", "enable", "destroy")


def load(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


class Check:
    """faults: what cannot have been, as sentences."""

    def __init__(self, history, final, audits):
        """final: {key: its record at the end}; audits: {node: its audit records}."""
        self.history = sorted(history, key=lambda h: h["end"])
        self.final = final
        self.audits = audits
        self.faults = []
        self.acknowledged = [h for h in self.history if h["ok"]]

    def fault(self, text, *what):
        self.faults.append(f"{text}: " + "; ".join(json.dumps(w, sort_keys=True)[:600]
                                                   for w in what))

    def run(self):
        self.no_acknowledged_change_is_lost()
        self.no_number_is_used_twice()
        self.epochs_and_revisions_only_rise()
        self.what_was_wrapped_unwraps_as_it_was()
        self.nothing_is_wrapped_under_a_destroyed_version()
        self.every_answer_is_in_a_log()
        return self.faults

    # ---- the promises ----

    def no_acknowledged_change_is_lost(self):
        """What a change answered is still so, or was changed by a later commit."""
        for h in self.acknowledged:
            if h["op"] not in CHANGES:
                continue
            end = self.final.get(h["key"])
            if end is None or end["revision"] < h["record"]["revision"]:
                self.fault("an acknowledged change is lost", h, end)
                continue
            if end["activation"] < h["record"]["activation"]:
                self.fault("an acknowledged activation is lost", h, end)
            ids = {v["version"]: v["id"] for v in end["versions"]}
            for v in h["record"]["versions"]:
                if ids.get(v["version"]) != v["id"]:
                    self.fault("an acknowledged version is lost or another one", h, end)

    def no_number_is_used_twice(self):
        """(key, version number) is one id; (key, activation) is one version, for ever."""
        numbers, activations, bodies = {}, {}, {}
        seen = [h for h in self.acknowledged if "record" in h]
        for h in seen + [{"record": r, "key": k, "final": True} for k, r in self.final.items()]:
            r = h["record"]
            for v in r["versions"]:
                if numbers.setdefault((r["name"], v["version"]), v["id"]) != v["id"]:
                    self.fault("a version number has two ids", h)
            if activations.setdefault((r["name"], r["activation"]), r["primary"]) != r["primary"]:
                self.fault("an activation number is of two versions", h)
            body = json.dumps([r["primary"], r["activation"],
                               [(v["version"], v["id"], v["state"]) for v in r["versions"]]])
            if bodies.setdefault((r["name"], r["revision"]), body) != body:
                self.fault("one revision of a key is two records", h)
        changes = collections.Counter((h["key"], h["record"]["revision"]) for h in self.acknowledged
                                      if h["op"] in ("rotate", "primary"))
        for (key, revision), count in changes.items():
            if count > 1:
                self.fault("two activations were acknowledged with one revision", [key, revision])

    def epochs_and_revisions_only_rise(self):
        """On each node; and no epoch is that of two nodes."""
        revisions, leaders, epochs = {}, {}, {}
        for h in self.acknowledged:
            if "revision" in h and self.after_all_of(revisions, h):
                self.fault("a node's revision went back", revisions[h["port"]], h)
            if "revision" in h and h["revision"] >= revisions.get(h["port"], h)["revision"]:
                revisions[h["port"]] = h
            if h["op"] != "status" or h.get("role") != "active":
                continue
            if leaders.setdefault(h["epoch"], h["node"]) != h["node"]:
                self.fault("one epoch is that of two nodes", h)
            before = epochs.get("last")
            if before and before["end"] < h["begin"] and before["epoch"] > h["epoch"]:
                self.fault("an epoch is below an earlier one", before, h)
            if not before or h["epoch"] > before["epoch"]:
                epochs["last"] = h

    @staticmethod
    def after_all_of(revisions, h):
        """Does h, which began after the answer with the node's highest revision, tell of less?"""
        highest = revisions.get(h["port"])
        return highest and highest["end"] < h["begin"] and highest["revision"] > h["revision"]

    def what_was_wrapped_unwraps_as_it_was(self):
        plain = {h["blob"]: h["plain"] for h in self.acknowledged if h["op"] == "wrap"}
        versions = {h["blob"]: h["version"] for h in self.acknowledged if h["op"] == "wrap"}
        for h in self.history:
            if h["op"] != "unwrap":
                continue
            if h["ok"] and (h["plain"] != plain[h["blob"]] or h["version"] != versions[h["blob"]]):
                self.fault("a blob became another data key", h)
            if not h["ok"] and h["code"] in ("unwrap_failed", "key_not_found",
                                             "version_not_found"):
                self.fault("a blob was said to be none", h)

    def destroyed(self):
        """{version id: when its end was acknowledged}."""
        return {v["id"]: h["end"] for h in self.acknowledged if h["op"] == "destroy"
                for v in h["record"]["versions"] if v["version"] == h["version"]}

    def nothing_is_wrapped_under_a_destroyed_version(self):
        gone = self.destroyed()
        for h in self.acknowledged:
            if h["op"] == "wrap" and h["begin"] > gone.get(h["version_id"], float("inf")):
                self.fault("a wrap under a version whose end was acknowledged", h)

    def every_answer_is_in_a_log(self):
        """In one at least: what one node did without being heard, the other may have repeated."""
        logged = {r["traceparent"] for records in self.audits.values() for r in records
                  if r.get("type") in ("request", "outcome") and r.get("result") == "ok"
                  and "traceparent" in r}
        for h in self.acknowledged:
            if h.get("trace") and h["trace"] not in logged:
                self.fault("an answer has no audit record", h)
