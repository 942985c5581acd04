#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What no file of the tree may hold, and how sources begin."""

import os
import re

from files import TOP, finish, is_shell, text, tree

COLUMNS = 100
SOURCES = (".c", ".h", ".py", ".sh")
CORPORA = "tests/fuzz/corpus/"  # bytes, whatever they look like
# Written so that this file does not find itself.
FORBIDDEN = [
    (re.compile("BEGIN [A-Z ]*PRIVATE" + " KEY"), "a private key"),
    (re.compile(r"\b(TO" + r"DO|FIX" + r"ME|X" + r"XX)\b"), "unfinished work"),
    (re.compile("^(<{7}|={7}|>{7})( |$)"), "a conflict marker"),
    (re.compile(r"[ \t]+$"), "white space at the end"),
]


# No secret, and no certificate (its DER begins so), real or mutated, is kept as a corpus.
NOT_KEPT = re.compile(b"BEGIN |\x30\x82.{2}\x30\x82.{2}\xa0\x03\x02\x01", re.DOTALL)


def check_corpora(findings):
    for name in tree():
        if name.startswith(CORPORA):
            with open(os.path.join(TOP, name), "rb") as f:
                if NOT_KEPT.search(f.read()):
                    findings.append(f"{name}: looks like a key or a certificate")


def width(line):
    return len(line.expandtabs(8))


def main():
    findings = []
    for name in tree():
        content = text(name)
        if content is None or name == "COPYING" or name.startswith(CORPORA):
            continue
        source = name.endswith(SOURCES)
        lines = content.split("\n")
        if source and "SPDX-License-Identifier" not in "".join(lines[:2]):
            findings.append(f"{name}:1: no SPDX line")
        if content and not content.endswith("\n"):
            findings.append(f"{name}:{len(lines)}: no newline at the end")
        for number, line in enumerate(lines, 1):
            for pattern, what in FORBIDDEN:
                if pattern.search(line):
                    findings.append(f"{name}:{number}: {what}")
            if (source or is_shell(name)) and width(line) > COLUMNS:
                findings.append(f"{name}:{number}: {width(line)} columns")
    check_corpora(findings)
    finish(findings, "text")


main()
