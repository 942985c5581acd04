# SPDX-License-Identifier: Apache-2.0
"""The commands that a document names, held against the programs: what is not there any more, or is
called otherwise, is an error of the document."""

import os
import re
import subprocess

from kekd import BUILD


def commands(text, program):
    """As they stand in it: in back quotes, or on indented lines; continued lines are one."""
    text = re.sub(r" \\\n\s*", " ", text)
    found = re.findall(rf"`(?:contrib/kubernetes/)?({program} [^`]+)`", text)
    for line in re.findall(r"^ {4,}(.*)$", text, re.MULTILINE):
        found += re.findall(rf"(?:^|&& |; )(?:contrib/kubernetes/)?({program} [^&;|]*)",
                            line.split(" #")[0])
    return sorted({" ".join(c.split("#")[0].split()) for c in found})


def told(program, *arguments):
    path = program if os.path.isabs(program) else os.path.join(BUILD, program)
    done = subprocess.run([path, *arguments], text=True, capture_output=True, check=False, cwd="/")
    return done.returncode, done.stdout


def options(command):
    return re.findall(r"(?<= )--?[a-z][a-z-]*", command)


def has(text, option):
    return re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text) is not None


def check_kekctl(command):
    """Its words are a command, and that one, or all, have the options."""
    words = []
    for word in command.split()[1:]:
        if not re.fullmatch(r"[a-z][a-z-]*", word):
            break
        words.append(word)
    if words[:1] == ["help"]:
        return
    status, text = told("kekctl", *words, "--help")
    assert status == 0, command
    text += told("kekctl", "help")[1]
    for option in options(command):
        assert has(text, option), f"{command}: there is no {option}"


def check_program(command, program=None):
    """Of a program with one page of help: its options, and its command where it has some."""
    status, text = told(program or command.split()[0], "--help")
    assert status == 0, command
    first = command.split()[1]
    if re.fullmatch(r"[a-z][a-z-]*", first) and program is None:
        assert has(text, first), f"{command}: there is no {first}"
    for option in options(command):
        assert has(text, option), f"{command}: there is no {option}"
