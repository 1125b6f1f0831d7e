"""The plan of a get: which files land where, which are here already, what it needs. Nothing is fetched or written here."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from functools import cache, partial
from typing import Literal

import msgspec

from ..core.names import fold, safe_path, with_label
from ..disk.notes import Notes
from ..disk.target import Target
from ..errors import LocalError
from ..model import Cid, Entry, MemberId, Place, ShareKey

Look = Literal["free", "same", "ours", "user", "other"]


class Item(msgspec.Struct, eq=False):
    """One file to have: where it comes from, and where it goes below the target."""

    key: ShareKey
    entry: Entry
    place: str
    safe: str
    owner: str
    taken: set[str]  # the names of the others, folded
    holders: list[MemberId]
    cid: Cid | None
    path: str = ""
    status: Literal["wanted", "exists", "differs"] = "wanted"

    def names(self) -> list[str]:
        """The names that it may take, the best first; worked out only where the first will not do."""
        names = [self.safe, with_label(self.safe, self.owner), with_label(self.safe, f"{self.owner}, {self.key.share}")]
        return [name for name in names if fold(name) not in self.taken] or names[-1:]

    def judge(self, look: Look, update: bool) -> None:
        """What to do, by what lies under the item's name: nothing is replaced but, with `update`, what a get put there."""
        if look == "same":
            self.status = "exists"
        else:
            self.status = "wanted" if look == "free" or (look == "ours" and update) else "differs"


class Plan(msgspec.Struct):
    """What a get means to do."""

    items: list[Item] = msgspec.field(default_factory=list)
    folders: list[tuple[str, Entry]] = msgspec.field(default_factory=list)
    links: list[Item] = msgspec.field(default_factory=list)

    def wanted(self) -> list[Item]:
        return [item for item in self.items if item.status == "wanted"]


def make_plan(found: Iterable[tuple[ShareKey, Entry]], names: dict[MemberId, str], target: Target, notes: Notes, update: bool) -> Plan:
    """Lay out the entries below the target folder. Blocks: looks at what lies there."""
    plan = Plan()
    files: dict[tuple[str, object, int], Item] = {}
    taken: set[str] = set()
    for key, entry in sorted(found, key=lambda pair: (pair[0].member, pair[0].share, pair[1].path)):
        path = safe_path(entry.path)
        owner = names.get(key.member, key.member)
        place = str(Place(owner, key.share, entry.path))
        folded = fold(path)
        _take_folders(taken, folded if entry.type == "d" else folded.rpartition("/")[0])
        if entry.type == "d":
            plan.folders.append((path, entry))
        elif entry.type == "l":
            plan.links.append(Item(key, entry, place, path, owner, taken, [], None, path))
        else:
            # The same path with the same content from several members is one file with several sources; a false size stands for itself.
            mark = folded, entry.cid or entry.mtime_ns, entry.size
            same = files.get(mark)
            if same is None:
                same = files[mark] = Item(key, entry, place, path, owner, taken, [], entry.cid)
            same.holders.append(key.member)
    plan.items = list(files.values())
    is_missing = cache(partial(_is_missing, target))
    for (folded, _, _), item in files.items():
        if is_missing(item.safe.rpartition("/")[0]):
            item.path = item.safe if folded not in taken else item.names()[0]
        else:
            choose_name(item, target, notes, update)
        taken.add(fold(item.path))
    return plan


def _take_folders(taken: set[str], folder: str) -> None:
    """No file may have the name of a folder, nor of one above it."""
    while folder and folder not in taken:
        taken.add(folder)
        folder = folder.rpartition("/")[0]


def _is_missing(target: Target, folder: str) -> bool:
    try:
        return folder != "" and target.stat(folder) is None
    except LocalError:
        return False


def choose_name(item: Item, target: Target, notes: Notes, update: bool) -> None:
    """Choose among the names of a file: the one under which its content lies here, else the first that no other get has taken."""
    looks: dict[str, Look] = {}
    for name in item.names():
        looks[name] = look_at(item, name, target, notes)
        if looks[name] == "same":
            break
    # A user's own file is left as it is, and what was to go there gets no second name.
    ranks = {"same": 0, "free": 1, "ours": 1, "user": 1, "other": 2}
    item.path = min(looks, key=lambda name: ranks[looks[name]])
    if item.cid is not None:  # else what it is shows only when its turn comes
        item.judge(looks[item.path], update)


def look_at(item: Item, name: str, target: Target, notes: Notes) -> Look:
    """What lies under a name: nothing, this content, what a get put there from this very place or from another, or what is the user's by now."""
    try:
        found = target.stat(name)
    except LocalError:
        return "other"  # something that is no folder stands in its way
    if found is None:
        return "free"
    placed = notes.placed(target.full_path(name))
    unedited = placed is not None and (placed.size, placed.mtime_ns, placed.inode) == (found.st_size, found.st_mtime_ns, found.st_ino)
    if item.cid is not None and found.st_size == item.entry.size:
        with suppress(LocalError):  # no file, or one that is written to just now
            if item.cid == (placed.cid if placed is not None and unedited else target.hash_existing(name)):
                return "same"
    if placed is not None and placed.place != item.place:
        return "other"
    return "ours" if unedited else "user"
