"""Names: the reversible escaping of paths, and what a stranger's name becomes on our disk, on our screen and in our lists.

Owns protocol section 4's path rules and our own rules for portable names. Leaves out whether a name is already taken on the
disk, and which label then sets two files apart: the download decides that.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

from blake3 import blake3

from ..errors import Malformed
from ..limits import MAX_NAME_BYTES, MAX_PATH_BYTES
from ..model import MemberId

NAME_CHARACTERS = 64
LABEL_BYTES = 100
# With the longest name this stays below 900 bytes, which leaves room for the target in the 1,024 bytes that macOS allows.
FOLDERS_BYTES = 640
ID_SHOWN = 4

# What a terminal obeys, what changes the order of the text around it, and what nobody sees.
_UNPRINTABLE = r"\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff"
# Some file systems skip these (Unicode's Default_Ignorable_Code_Point) when they compare names, so that they can hide a dot behind them.
_IGNORABLE = (
    r"\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0"
    r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_plain = re.compile(rf"(?=.{{1,{MAX_NAME_BYTES}}}\Z)[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")  # most names: safe as they are, but for devices
_escaped_bytes = re.compile(r"[\uef80-\uefff]+")
_to_escape = re.compile(r"[\uef80-\uefff\udc80-\udcff]")
# Python reads a byte that is no UTF-8 as half a character; a path has a whole one for it, which is itself escaped where a name holds it.
_BYTES = {0xEF00 + byte: 0xDC00 + byte for byte in range(0x80, 0x100)}
_ESCAPES = {code: "".join(chr(0xEF00 + byte) for byte in chr(code).encode("utf-8", "surrogateescape")) for code in (*_BYTES, *_BYTES.values())}
_to_show = re.compile(rf"[{_UNPRINTABLE}\uef80-\uefff]")
_not_portable = re.compile(rf'[{_UNPRINTABLE}<>:"|?*\\/]')
_not_in_name = re.compile(rf"[{_UNPRINTABLE}\uef80-\uefff/:*?\[\]\\~]")
_hidden_start = re.compile(rf"\A[.{_IGNORABLE}]+")
_name_start = re.compile(rf"\A[ .\-{_IGNORABLE}]+")
_device = re.compile(r"\A *(?:con|prn|aux|nul|(?:com|lpt)[0-9¹²³]|conin\$|conout\$|clock\$) *(?:\.|\Z)", re.IGNORECASE)
# `.tinyp2p-parts` is also TINYP2~1 on a Windows disk that keeps short names.
_short_alias = re.compile(r"\A([^. ]{1,6})~([0-9]{1,6}(?:\.[^.]{0,3})?)\Z")
_suffix = re.compile(r"(?<=[^.])(?:\.tar)?\.[^.\s]{1,16}\Z", re.IGNORECASE)


def path_from_bytes(raw: bytes) -> str:
    """The path that names `raw` in a catalog; every byte string has exactly one."""
    if raw.isascii():
        return raw.decode("ascii")
    text = raw.decode("utf-8", "surrogateescape")
    return text.translate(_ESCAPES) if _to_escape.search(text) else text


def path_to_bytes(path: str) -> bytes:
    """The bytes of the name on its owner's disk; raises Malformed where `path` holds half a character."""
    try:
        raw = path.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Malformed("A path holds half a character.") from error
    if path.isascii() or not _escaped_bytes.search(path):
        return raw
    return path.translate(_BYTES).encode("utf-8", "surrogateescape")


def is_valid_path(path: str) -> bool:
    """Whether a catalog may hold `path`: relative, no empty, `.` or `..` component, no NUL, canonical and not too long."""
    framed = f"/{path}/"
    if "//" in framed or "/./" in framed or "/../" in framed or "\0" in path:
        return False
    if path.isascii():
        return len(path) <= MAX_NAME_BYTES or _lengths_fit(path.encode("ascii"))
    if len(path) > MAX_PATH_BYTES:
        return False
    try:
        raw = path_to_bytes(path)
    except Malformed:
        return False
    # Only an escape can say what a plain character says too.
    return _lengths_fit(raw) and (not _escaped_bytes.search(path) or path_from_bytes(raw) == path)


def _lengths_fit(raw: bytes) -> bool:
    return len(raw) <= MAX_PATH_BYTES and max(map(len, raw.split(b"/"))) <= MAX_NAME_BYTES


def safe_path(path: str) -> str:
    """The relative path under which a stranger's file may be placed on any of our systems; a safe path stays as it is."""
    folders, _, name = path.rstrip("/").rpartition("/")
    safe = _safe_component(name) if name else "_"
    return f"{above}/{safe}" if (above := _safe_folders(folders)) else safe


@lru_cache(maxsize=256)
def _safe_folders(path: str) -> str:
    return "/".join(_shorten_folders([_safe_component(component) for component in path.split("/") if component]))


def _safe_component(component: str) -> str:
    if _plain.fullmatch(component) and not _device.match(component):
        return component
    text = _hidden_start.sub("_", _portable(component)).rstrip(". ") or "_"
    if _device.match(text):
        text = f"_{text}"
    text = _short_alias.sub(r"\1_\2", text)
    return _shorten(*_split_suffix(text), MAX_NAME_BYTES)


def _portable(text: str) -> str:
    """Only characters that every file system takes; bytes that are not UTF-8 are read as the Windows code page they mostly are."""
    text = _escaped_bytes.sub(lambda match: path_to_bytes(match[0]).decode("cp1252", "replace"), text)
    return _not_portable.sub("_", unicodedata.normalize("NFC", text))


def _shorten_folders(folders: list[str]) -> list[str]:
    """Put a hash in place of the deepest folders; it looks at folders only, so that files of one folder stay together."""
    ends = list(accumulate(_size_bytes(folder) + 1 for folder in folders))
    if not ends or ends[-1] <= FOLDERS_BYTES:
        return folders
    kept = [folder for folder, end in zip(folders, ends, strict=True) if end <= FOLDERS_BYTES - len("_12345678/")]
    return [*kept, f"_{_short_hash('/'.join(folders[len(kept) :]))}"]


def _shorten(stem: str, suffix: str, limit_bytes: int) -> str:
    """Cut the stem so that the name fits; the hash keeps apart two names that begin alike."""
    name = stem + suffix
    if _size_bytes(name) <= limit_bytes:
        return name
    tail = f"~{_short_hash(name)}{suffix}"
    return stem.encode()[: limit_bytes - _size_bytes(tail)].decode("utf-8", "ignore") + tail


def _short_hash(text: str) -> str:
    return blake3(text.encode()).hexdigest(length=4)


def _size_bytes(text: str) -> int:
    return len(text.encode())


def _split_suffix(name: str) -> tuple[str, str]:
    match = _suffix.search(name)
    return (name[: match.start()], match[0]) if match else (name, "")


def fold(path: str) -> str:
    """A key that is equal for names that differ in case or Unicode form only, as disks without case see them."""
    if path.isascii():
        return path.lower()
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", path).casefold())


def with_label(path: str, label: str) -> str:
    """`a/name.tar.gz` with `desktop` is `a/name (desktop).tar.gz`; a safe path stays safe, whatever the label."""
    folders, slash, name = path.rpartition("/")
    stem, suffix = _split_suffix(name)
    tail = f" ({_shorten(_portable(label) or '_', '', LABEL_BYTES)}){suffix}"
    return f"{folders}{slash}{_shorten(stem, '', MAX_NAME_BYTES - _size_bytes(tail))}{tail}"


def printable(text: str) -> str:
    """`text` for a terminal: what it would obey, or nobody would see, is written as `\\x1b`, `\\u202e`, `\\xe9`."""
    return _to_show.sub(_show_character, text)


def _show_character(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xEF80 <= code <= 0xEFFF:
        code -= 0xEF00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def safe_name(text: str, fallback: str) -> str:
    """A name for a member or a share that can stand in a place, a pattern and a label; `fallback` where nothing is left."""
    # `~` is kept for display_names, so that nobody can call itself what we call somebody else.
    text = _not_in_name.sub("-", " ".join(unicodedata.normalize("NFC", text).split()))
    return _name_start.sub("", text)[:NAME_CHARACTERS].rstrip(" .-") or fallback


def display_names(members: Sequence[tuple[MemberId, str]]) -> dict[MemberId, str]:
    """What to call each member, all distinct; `members` in the order in which they became known, so that a name once given stays."""
    names: dict[MemberId, str] = {}
    # A member id stands wherever a name may, so nobody may be named like one.
    taken = {fold(member) for member, _ in members}
    for member, told in members:
        if member in names:
            continue
        name = plain = safe_name(told, "member")
        shown = ID_SHOWN
        while fold(name) in taken:
            name = f"{plain}~{member[:shown]}"
            shown += 1
        taken.add(fold(name))
        names[member] = name
    return names
