"""The home folder: one folder a group with its keys, settings, index, lock and socket. Knows files and modes, not what the keys mean."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import stat
from typing import Any

import msgspec

from ..errors import LocalError, NoGroup, Refused, UsageError

SOCKET_PATH_MAX = 100
STAGED = "staged.json"
SECRET_FILES = ("group.key", "group.secret", "member.key", "secret.json", "former.json")


def write_private(path: str, data: bytes) -> None:
    """Replace a file atomically, mode 0600."""
    import tempfile  # as some others here, loaded only when needed: commands begin with this module

    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def make_private_folder(path: str) -> None:
    """Create a folder with mode 0700, or check that only we may enter it."""
    os.makedirs(path, mode=0o700, exist_ok=True)
    found = os.stat(path)
    if found.st_uid != os.geteuid():
        raise LocalError(f"{path} belongs to somebody else.", "Choose another with --home DIR.")
    if found.st_mode & 0o077:
        os.chmod(path, 0o700)


def _is_open(path: str) -> bool:
    """Whether anybody but its owner may do anything with what lies there."""
    try:
        return bool(stat.S_IMODE(os.stat(path).st_mode) & 0o077)
    except FileNotFoundError:
        return False


class GroupHome(msgspec.Struct, frozen=True):
    """The folder of one group within the home; its name is the group's name here."""

    name: str
    path: str

    def file(self, name: str) -> str:
        return os.path.join(self.path, name)

    @property
    def index_path(self) -> str:
        return self.file("index.db")

    @property
    def log_path(self) -> str:
        return self.file("log")

    @property
    def socket_path(self) -> str:
        """Where the local API listens; a short path elsewhere when the home's own is too long for a unix socket."""
        path = self.file("api.sock")
        if len(os.fsencode(path)) <= SOCKET_PATH_MAX:
            return path
        import hashlib
        import tempfile

        digest = hashlib.sha256(os.fsencode(os.path.realpath(self.path))).hexdigest()[:20]
        folder = os.path.join(tempfile.gettempdir(), f"tinyp2p-{os.geteuid()}")
        if os.path.islink(folder):  # others may write beside it, and choose where such a link leads
            raise LocalError(f"{folder} is a symlink that somebody made.", "Remove it, or choose a shorter --home DIR.")
        make_private_folder(folder)
        return os.path.join(folder, digest)

    def read(self, name: str) -> bytes | None:
        try:
            with open(self.file(name), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        write_private(self.file(name), data)

    def write_all(self, files: dict[str, bytes | None]) -> None:
        """Replace several files (None: remove), all or none of them even if the power fails in between."""
        self.write(STAGED, msgspec.json.encode({name: data and data.decode() for name, data in files.items()}))
        self.finish_writing()

    def finish_writing(self) -> None:
        """Bring to an end what `write_all` began."""
        raw = self.read(STAGED)
        if raw is None:
            return
        for name, data in msgspec.json.decode(raw, type=dict[str, str | None]).items():
            if data is not None:
                self.write(name, data.encode())
            else:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.file(name))
        os.unlink(self.file(STAGED))

    def check_private(self) -> None:
        """Raise Refused where somebody else may enter the home or read a key; it is not mended here, as nobody would hear that it was open."""
        groups = os.path.dirname(self.path)
        folders = [path for path in (os.path.dirname(groups), groups, self.path) if _is_open(path)]
        files = [path for path in map(self.file, SECRET_FILES) if _is_open(path)]
        if folders or files:
            mend = [shlex.join(["chmod", mode, *paths]) for mode, paths in (("700", folders), ("600", files)) if paths]
            raise Refused(f"Others on this computer may read {(files or folders)[0]}; keys that lie open are not used.", f"Run: {' && '.join(mend)}")

    def folder_of(self, share: str) -> str | None:
        """The folder of a share of ours, whether or not it is offered just now."""
        return next((str(each["folder"]) for each in self.settings().get("shares", []) if each["name"] == share), None)

    def settings(self) -> dict[str, Any]:
        raw = self.read("settings.json")
        if raw is None:
            return {}
        try:
            return msgspec.json.decode(raw, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise LocalError(f"{self.file('settings.json')} is damaged.", "Mend it or delete it; folders must then be shared again.") from error

    def save_settings(self, settings: dict[str, Any]) -> None:
        self.write("settings.json", msgspec.json.format(msgspec.json.encode(settings)) + b"\n")

    def lock(self) -> int | None:
        """Become the one process of this home: an open descriptor that holds the lock while it lives, or None if another has it."""
        handle = os.open(self.file("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            return None
        return handle


class Home:
    """All groups of one user on this computer (`--home`, `TINYP2P_HOME`, else the platform's data folder)."""

    def __init__(self, path: str | None = None) -> None:
        if not path:
            import platformdirs  # which takes a moment

            path = platformdirs.user_data_dir("tinyp2p", appauthor=False)
        self.path = os.path.abspath(path)

    def group_names(self) -> list[str]:
        folder = os.path.join(self.path, "groups")
        try:
            names = os.listdir(folder)
        except FileNotFoundError:
            return []
        return sorted(name for name in names if os.path.exists(os.path.join(folder, name, "member.crt")))

    def group(self, name: str) -> GroupHome:
        """The folder of a group, whether it exists or not; raises UsageError for a name that cannot be a folder's."""
        if not name or name.startswith(".") or "/" in name or "\0" in name or "\\" in name or len(name.encode()) > 100:
            raise UsageError(f"{name!r} cannot be the name of a group.", "Use letters, digits, spaces and dashes.")
        return GroupHome(name, os.path.join(self.path, "groups", name))

    def create(self, name: str) -> GroupHome:
        home = self.group(name)
        for folder in (self.path, os.path.join(self.path, "groups"), home.path):
            make_private_folder(folder)
        return home

    def select(self, name: str | None) -> GroupHome:
        """The group that a command means: the named one, or the only one; raises NoGroup or UsageError."""
        names = self.group_names()
        if name is not None:
            if name in names:
                return self.group(name)
            raise NoGroup(f'There is no group "{name}" here.', "Enter one with: tinyp2p join")
        if not names:
            raise NoGroup("There is no group here yet.", "Start one with: tinyp2p share --new FOLDER, or enter one with: tinyp2p join")
        if len(names) > 1:
            raise UsageError(f"Several groups here: {', '.join(names)}.", "Choose one with --group NAME.")
        return self.group(names[0])
