"""The plan of a get: which files land where, which are here already, what it needs. Nothing is fetched or written here."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Literal

from ..core.names import fold, safe_path, with_label
from ..disk.notes import Notes
from ..disk.target import Target
from ..errors import LocalError
from ..model import Cid, Entry, MemberId, Place, ShareKey

Look = Literal["free", "same", "ours", "user", "other"]


@dataclass(slots=True, eq=False)
class Item:
    """One file to have: where it comes from, and the names it may take below the target, the best first."""

    key: ShareKey
    entry: Entry
    place: str
    names: list[str]
    holders: list[MemberId]
    cid: Cid | None
    path: str = ""
    status: Literal["wanted", "exists", "differs"] = "wanted"

    def judge(self, look: Look, update: bool) -> None:
        """What to do, by what lies under the item's name: nothing is replaced but, with `update`, what a get put there."""
        if look == "same":
            self.status = "exists"
        else:
            self.status = "wanted" if look == "free" or (look == "ours" and update) else "differs"


@dataclass(slots=True)
class Plan:
    """What a get means to do."""

    items: list[Item] = field(default_factory=list)
    folders: list[tuple[str, Entry]] = field(default_factory=list)
    links: list[Item] = field(default_factory=list)

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
        above = fold(path).split("/")
        taken.update("/".join(above[:count]) for count in range(1, len(above) + (entry.type == "d")))
        if entry.type == "d":
            plan.folders.append((path, entry))
        elif entry.type == "l":
            plan.links.append(Item(key, entry, place, [path], [], None, path))
        else:
            # The same path with the same content from several members is one file with several sources; a false size stands for itself.
            same = files.setdefault(
                (fold(path), entry.cid or entry.mtime_ns, entry.size),
                Item(key, entry, place, [path, with_label(path, owner), with_label(path, f"{owner}, {key.share}")], [], entry.cid),
            )
            same.holders.append(key.member)
    plan.items = list(files.values())
    is_missing = cache(partial(_is_missing, target))
    for item in plan.items:
        item.names = [name for name in item.names if fold(name) not in taken] or item.names[-1:]
        if is_missing(item.names[0].rpartition("/")[0]):
            item.path = item.names[0]
        else:
            choose_name(item, target, notes, update)
        taken.add(fold(item.path))
    return plan


def _is_missing(target: Target, folder: str) -> bool:
    try:
        return folder != "" and target.stat(folder) is None
    except LocalError:
        return False


def choose_name(item: Item, target: Target, notes: Notes, update: bool) -> None:
    """Choose among the names of a file: the one under which its content lies here, else the first that no other get has taken."""
    looks: dict[str, Look] = {}
    for name in item.names:
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
