#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What no file of the tree may hold, and how sources begin."""

import re

from files import finish, is_shell, text, tree

COLUMNS = 100
SOURCES = (".c", ".h", ".py", ".sh")
# Written so that this file does not find itself.
FORBIDDEN = [
    (re.compile("BEGIN [A-Z ]*PRIVATE" + " KEY"), "a private key"),
    (re.compile(r"\b(TO" + r"DO|FIX" + r"ME|X" + r"XX)\b"), "unfinished work"),
    (re.compile("^(<{7}|={7}|>{7})( |$)"), "a conflict marker"),
    (re.compile(r"[ \t]+$"), "white space at the end"),
]


def width(line):
    return len(line.expandtabs(8))


def main():
    findings = []
    for name in tree():
        content = text(name)
        if content is None or name == "COPYING":
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
    finish(findings, "text")


main()
