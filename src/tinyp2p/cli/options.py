"""What the commands have in common: the global options, which stand before or after the command, and how values are written.

Every option also reads TINYP2P_<OPTION>, apart from yes, force and keyholder. Leaves out what each command does.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from typing import Any

import click
import msgspec

from ..core.names import printable
from ..disk.home import GroupHome, Home
from ..errors import UsageError
from ..limits import DEFAULT_PORT

Function = Callable[..., None]

NO_ENVIRONMENT = ("yes", "force", "keyholder")
DURATION_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Settings(msgspec.Struct):
    """The global options of this run."""

    home: str | None = None
    group: str | None = None
    json: bool = False
    verbose: bool = False

    @property
    def all_groups(self) -> Home:
        return Home(self.home)

    @property
    def may_ask(self) -> bool:
        """Is there a person at a terminal who can answer a question?"""
        return not self.json and sys.stdin.isatty() and sys.stderr.isatty()

    def selected(self) -> GroupHome:
        """The group that is meant; raises NoGroup or UsageError."""
        return self.all_groups.select(self.group)


def address(text: str) -> str:
    """HOST:PORT, of which either may be left out: without HOST everywhere, without PORT the usual one."""
    text = f"[{text}]" if text.count(":") > 1 and not text.startswith("[") else text
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.%\w]+\]|[^\s:\[\]/@]*)(?::(\d{1,5}))?", text)
    if not found or not text or (found[2] and int(found[2]) > 65535):
        raise _no_address(text)
    return f"{found[1] or '0.0.0.0'}:{found[2] or DEFAULT_PORT}"


def peer_address(text: str) -> str:
    """An address to go to: unlike one to listen at, it needs a host and a port; a lone word is more likely a slip."""
    host, _, port = (found := address(text)).rpartition(":")
    if not re.search("[.:]", text) or host == "0.0.0.0" or int(port) == 0:
        raise _no_address(text)
    return found


def _no_address(text: str) -> click.BadParameter:
    return click.BadParameter(f"{text!r} is no address; write it like 192.0.2.20:{DEFAULT_PORT}.")


def folder(text: str) -> str:
    """The absolute path of a folder to put things into, which may be yet to be made."""
    if os.path.exists(text) and not os.path.isdir(text):
        raise UsageError(f"{printable(text)} is not a folder.", "Choose another with -o DIR.")
    return os.path.abspath(text)


def span(text: str) -> int:
    """A span of time with its unit, in seconds: 30s, 10m, 2h, 7d."""
    found = re.fullmatch(r"(\d{1,6})\s*([smhd])", text.strip().lower())
    if not found:
        raise click.BadParameter(f"{text!r} has no unit or is no time; write it like 30s, 10m, 2h or 7d.")
    return int(found[1]) * DURATION_UNITS[found[2]]


def rate(text: str) -> str:
    """A limit on bytes a second, which may have hours: 500k, or 2M,08:00-18:00=500k."""
    from ..core.timetable import Timetable

    Timetable.parse(text)
    return text


class CommaList(click.types.UnprocessedParamType):
    """Words separated by commas; an option that takes them may also be given several times, and comes as one list."""

    name = "text"
    envvar_list_splitter = ","

    def __init__(self, read: Callable[[str], str] = str) -> None:
        self.read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return [self.read(word.strip()) for word in value.split(",") if word.strip()]


def option(*names: str, **attributes: Any) -> Callable[[Function], Function]:
    """A click option that also reads TINYP2P_<OPTION>."""
    if isinstance(attributes.get("type"), CommaList):
        attributes |= {"multiple": True, "callback": lambda context, parameter, lists: [word for words in lists for word in words]}
    word = max(names, key=lambda name: name.startswith("--")).removeprefix("--")
    if word not in NO_ENVIRONMENT:
        attributes.setdefault("envvar", "TINYP2P_" + word.upper().replace("-", "_"))
    return click.option(*names, **attributes)


def global_options(store: bool) -> list[click.Option]:
    """--home, --group, --json and --verbose: read by the program, or (`store`) given again after a command, where they win."""
    common: dict[str, Any] = {"expose_value": False, "callback": _store} if store else {}

    def made(*names: str, word: str, **attributes: Any) -> click.Option:
        return click.Option(names, envvar=None if store else f"TINYP2P_{word}", **attributes, **common)

    return [
        made("--home", word="HOME", metavar="DIR", help="Where keys and settings are kept."),
        made("--group", word="GROUP", metavar="NAME", help="Which group is meant, where you are in several."),
        made("--json", word="JSON", is_flag=True, help="Print one JSON object a line."),
        made("-v", "--verbose", word="VERBOSE", is_flag=True, help="Show the program's log too."),
    ]


def _store(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    settings = context.find_object(Settings)
    if value and settings is not None and parameter.name is not None:
        setattr(settings, parameter.name, value)


def command(name: str, *examples: str) -> Callable[[Function], click.Command]:
    """A command that gets Settings as its first argument, takes the global options too and shows examples in its help."""

    def made(function: Function) -> click.Command:
        epilog = "\b\nExamples:\n" + "\n".join(f"  {line}" for line in examples)
        build = click.command(name, epilog=epilog, context_settings={"help_option_names": ["-h", "--help"]})
        built = build(click.pass_obj(function))
        built.params.extend(global_options(store=True))
        return built

    return made
