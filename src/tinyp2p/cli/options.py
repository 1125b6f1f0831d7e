"""What the commands have in common: the global options, which stand before or after the command, and how values are written.

Every option also reads TINYP2P_<OPTION>, apart from yes, force and keyholder. Leaves out what each command does.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import click
import msgspec

from ..disk.home import GroupHome, Home
from ..limits import DEFAULT_PORT

if TYPE_CHECKING:
    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType

Function = Callable[..., int | None]

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


class CommaList(ParamType):
    """Words separated by commas; an option that takes them may also be given several times, and comes as one list."""

    name = "text"
    envvar_list_splitter = ","

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else tuple(value)


class AddressList(CommaList):
    """HOST:PORT, one or several with commas between; where HOST has a dot or colon the usual port may be left out."""

    name = "host:port"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        return tuple(self.elsewhere(word, param, ctx) for word in super().convert(value, param, ctx))

    def elsewhere(self, text: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """An address to go to: unlike one to listen at, it needs a host and a port; a lone word is more likely a slip."""
        host, _, port = (address := self.address(text, param, ctx)).rpartition(":")
        if not re.search("[.:]", text) or host == "0.0.0.0" or int(port) == 0:
            self.no_address(text, param, ctx)
        return address

    def address(self, text: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if text.count(":") > 1 and not text.startswith("["):
            text = f"[{text}]"
        found = re.fullmatch(r"(\[[0-9A-Fa-f:.%\w]+\]|[^\s:\[\]/@]*)(?::(\d{1,5}))?", text)
        if not found or not text or (found[2] and int(found[2]) > 65535):
            self.no_address(text, param, ctx)
        return f"{found[1] or '0.0.0.0'}:{found[2] or DEFAULT_PORT}"

    def no_address(self, text: str, param: click.Parameter | None, ctx: click.Context | None) -> NoReturn:
        self.fail(f"{text!r} is no address; write it like 192.0.2.20:{DEFAULT_PORT}.", param, ctx)


class Address(AddressList):
    """One HOST:PORT."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self.address(value, param, ctx)


class Duration(ParamType):
    """A span of time with its unit, in seconds: 30s, 10m, 2h, 7d."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d{1,6})\s*([smhd])", value.strip().lower())
        if not found:
            self.fail(f"{value!r} has no unit or is no time; write it like 30s, 10m, 2h or 7d.", param, ctx)
        return int(found[1]) * DURATION_UNITS[found[2]]


class Rate(ParamType):
    """A limit on bytes a second, which may have hours: 500k, or 2M,08:00-18:00=500k."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from ..core.timetable import Timetable

        Timetable.parse(value)
        return str(value)


def option(*names: str, **attributes: Any) -> Callable[[Function], Function]:
    """A click option that also reads TINYP2P_<OPTION>."""
    if isinstance(attributes.get("type"), CommaList) and not isinstance(attributes["type"], Address):
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
