"""What a person is asked, and where secrets are read: prompts, files, stdin and the environment, never the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from ..errors import UsageError
from .options import Settings


def read_secret(settings: Settings, file: str | None, variable: str, prompt: Callable[[], str], missing: UsageError) -> str:
    """What is in a file, in the environment or (on a terminal) typed; raises `missing` where there is none."""
    if file is not None:
        return read_text_file(file)
    if variable in os.environ:
        return os.environ.pop(variable)
    if settings.may_ask:
        return prompt()
    raise missing


def read_password(settings: Settings, file: str | None, twice: bool, missing: str, hint: str = "") -> str:
    """The password from a file, TINYP2P_PASSWORD or a prompt without echo."""
    password = read_secret(settings, file, "TINYP2P_PASSWORD", lambda: _ask_password(twice), UsageError(missing, hint))
    if not password:
        raise UsageError("The password is empty.")
    return password


def _ask_password(twice: bool) -> str:
    from getpass import getpass

    password = getpass("Password (not shown while you type): ", sys.stderr)
    if twice and password and getpass("The same again: ", sys.stderr) != password:
        raise UsageError("The two passwords differ.", "Run the same command again.")
    return password


def read_text_file(path: str) -> str:
    """The text of a small file without the line end, of stdin for "-"; raises UsageError, which never quotes the text."""
    try:
        if path == "-":
            return sys.stdin.read().strip("\r\n")
        with open(path, encoding="utf-8") as file:
            return file.read(64 * 1024).strip("\r\n")
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror}.") from error
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not a text file.") from None


def ask(question: str) -> str:
    """One answer from the terminal; a text that was pasted with line breaks is taken whole."""
    import select

    print(question, end="", file=sys.stderr, flush=True)
    handle = sys.stdin.fileno()
    answer = os.read(handle, 64 * 1024)
    if not answer:
        raise KeyboardInterrupt
    while answer.strip() and select.select([handle], [], [], 0.1)[0] and (more := os.read(handle, 64 * 1024)):
        answer += more
    return answer.decode(errors="replace").strip()


def confirm(question: str) -> bool:
    """Ask y/N on the terminal."""
    return ask(f"{question} [y/N] ").lower() in ("y", "yes")
