"""The program `tinyp2p`: finds the command, and turns every error into a sentence and an exit code. A command is loaded only when it is used."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import sys
from importlib import import_module
from typing import Any, NoReturn

import click

from .. import __version__
from ..errors import TinyP2PError
from .options import Settings, global_options
from .show import event_line, problem, say

INTERRUPTED = 130
ECHOED_NAME_LENGTH = 20
FILES_WANTED = 8192

# command: (module, function)
COMMANDS = {
    "share": ("share", "share"),
    "unshare": ("share", "unshare"),
    "join": ("join", "join"),
    "invite": ("people", "invite"),
    "members": ("people", "members"),
    "find": ("find", "find"),
    "ls": ("find", "ls"),
    "get": ("get", "get"),
    "legacy-get": ("legacy", "legacy_get"),
    "legacy-send": ("legacy", "legacy_send"),
    "expel": ("keys", "expel"),
    "promote": ("keys", "promote"),
    "rekey": ("keys", "rekey"),
    "leave": ("keys", "leave"),
    "backup": ("keys", "backup"),
    "restore": ("keys", "restore"),
    "bundle": ("bundle", "bundle"),
    "unbundle": ("bundle", "unbundle"),
    "credentials": ("credentials", "credentials"),
    "status": ("status", "status"),
    "paths": ("status", "paths"),
}

EXAMPLES = """\b
Examples:
  tinyp2p share ~/Photos     share a folder with your group
  tinyp2p join               enter a group with an invite or a code
  tinyp2p find beach         what does anyone have with "beach" in its name?
  tinyp2p get beach          fetch it into the current folder

\b
tinyp2p COMMAND --help shows more. Each option can also be set in the
environment: TINYP2P_HOME, TINYP2P_GROUP, TINYP2P_LISTEN and so on."""


class Commands(click.Group):
    """The commands by name, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, function = COMMANDS[cmd_name]
        found = getattr(import_module(f".{module}", __package__), function)
        return found if isinstance(found, click.Command) else None

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, but a long word is not repeated: it may be an invite."""
        if len(args[0]) > ECHOED_NAME_LENGTH and not args[0].startswith("-"):
            raise click.UsageError("There is no such command.", ctx)
        return super().resolve_command(ctx, args)


@click.pass_context
def _program(context: click.Context, home: str | None, group: str | None, json: bool, verbose: bool) -> int | None:
    context.obj = Settings(home, group, json, verbose)
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        return 2
    return None


program = Commands(
    name="tinyp2p",
    callback=_program,
    params=[*global_options(store=False)],
    help="A group of people shares its folders; anyone in it finds and gets any file.",
    epilog=EXAMPLES,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
program = click.version_option(__version__, prog_name="tinyp2p", message="%(prog)s %(version)s")(program)


def run(arguments: list[str]) -> int:
    """Do what the arguments say and give the exit code; every error has been told."""
    as_json = "--json" in arguments or os.environ.get("TINYP2P_JSON", "0").lower() in ("1", "true", "yes", "on")
    try:
        code = program.main(arguments, "tinyp2p", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        return _tell(as_json, error.format_message(), _help_for(error), "usage", 2)
    except TinyP2PError as error:
        return _tell(as_json, error.message, error.hint, error.code, error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return _tell(as_json, "Stopped.", "", "interrupted", INTERRUPTED)
    except BrokenPipeError:
        return 1
    except SystemExit as ended:  # click ends like this when nobody reads stdout any more
        return ended.code if isinstance(ended.code, int) else 1
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        return _tell(as_json, f"{error.strerror or type(error).__name__}{where}.", "", "error", 1)
    except Exception as error:
        if _verbose(arguments):
            import traceback

            traceback.print_exc()
        hint = "This is a fault of tinyp2p. Run it again with -v to see where, and please report it."
        return _tell(as_json, f"Something went wrong here that should not ({type(error).__name__}).", hint, "error", 1)
    return code if isinstance(code, int) else 0


def _tell(as_json: bool, message: str, hint: str, code: str, exit_code: int) -> int:
    with contextlib.suppress(BrokenPipeError):
        if as_json:
            event_line({"event": "error", "code": code, "message": message, "hint": hint})
        elif code == "interrupted":
            say(message)
        else:
            problem(message, hint)
    return exit_code


def _help_for(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f"See: {context.command_path} --help" if isinstance(context, click.Context) else ""


def _verbose(arguments: list[str]) -> bool:
    return "-v" in arguments or "--verbose" in arguments or bool(os.environ.get("TINYP2P_VERBOSE"))


def _show_log() -> None:
    """With -v the program's own log goes to stderr too, one safe line for each."""
    import logging

    from ..disk.log import SafeFormatter

    handler = logging.StreamHandler()
    handler.setFormatter(SafeFormatter("%(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def _interrupt(number: int, frame: Any) -> NoReturn:
    """The first of them ends the command; one that comes while it ends, as when a terminal is closed too, could leave a lock held for ever."""
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def _set_limits() -> None:
    """Keep keys out of core dumps, of children too, and allow as many connections as the system lets us have."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(ValueError, OSError):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < FILES_WANTED:  # 1,024 on most systems, which is less than MAX_CONNECTIONS
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES_WANTED, hard) if hard != resource.RLIM_INFINITY else FILES_WANTED, hard))


def main() -> NoReturn:
    """The entry point: as Ctrl-C does, SIGTERM and a closed terminal stop a command cleanly."""
    _set_limits()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if _verbose(sys.argv[1:]):
        _show_log()
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    gc.freeze()  # all is done: what is left goes with the process, and need not be looked through once more
    sys.exit(code)
