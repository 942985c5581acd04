#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints "PASSED FAILED" of a report: `automake DIR` (a build directory after make check; a cmocka
program counts with each of its tests, anything else as one) or `pytest FILE` (JUnit XML). `failed
FILE` prints the names of the tests that failed there, as pytest takes them, a line each."""

import glob
import os
import re
import sys
import xml.etree.ElementTree as ElementTree

TAP = re.compile(r"^(ok|not ok) \d+(?!.*# SKIP)", re.MULTILINE)


def automake(build):
    passed = failed = 0
    for trs in glob.glob(os.path.join(build, "tests", "*", "*.trs")):
        with open(trs, encoding="utf-8") as f:
            result = re.search(r"^:test-result: (\w+)", f.read(), re.MULTILINE)[1]
        with open(trs[:-4] + ".log", encoding="utf-8", errors="replace") as f:
            lines = TAP.findall(f.read())
        bad = lines.count("not ok")
        good = lines.count("ok")
        if result == "PASS" and not lines:
            good = 1
        if result not in ("PASS", "SKIP") and not bad:
            bad = 1
        passed += good
        failed += bad
    # No result at all: nothing was built.
    return (passed, failed) if passed + failed else (0, 1)


def pytest(path):
    passed = failed = 0
    for suite in ElementTree.parse(path).getroot().iter("testsuite"):
        tests, errors, failures, skipped = (
            int(suite.get(k, "0")) for k in ("tests", "errors", "failures", "skipped"))
        failed += errors + failures
        passed += max(0, tests - errors - failures - skipped)
    return passed, failed


def failed(path):
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            yield f"{case.get('file')}::{case.get('name')}\n"


if sys.argv[1] == "failed":
    sys.stdout.writelines(dict.fromkeys(failed(sys.argv[2])))
else:
    print(*{"automake": automake, "pytest": pytest}[sys.argv[1]](sys.argv[2]))
