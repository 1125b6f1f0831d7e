"""The plan of a get: which files land where, which are here already, what it needs. Nothing is fetched or written here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ..core.names import fold, safe_path, with_label
from ..disk.notes import Notes, Placed
from ..disk.target import Target
from ..errors import LocalError
from ..model import Cid, Entry, MemberId, Place, ShareKey


@dataclass(slots=True)
class Item:
    """One file to have: where it comes from, and the names it may take below the target, the best first."""

    key: ShareKey
    entry: Entry
    place: str
    names: list[str]
    holders: list[MemberId]
    cid: Cid | None
    path: str = ""
    exists: bool = False
    differs: bool = False


@dataclass(slots=True)
class Plan:
    """What a get means to do."""

    items: list[Item] = field(default_factory=list)
    folders: list[tuple[str, Entry]] = field(default_factory=list)
    links: list[tuple[str, Entry, str]] = field(default_factory=list)

    def wanted(self) -> list[Item]:
        return [item for item in self.items if not item.exists and not item.differs]


def make_plan(found: Iterable[tuple[ShareKey, Entry]], names: dict[MemberId, str], target: Target, notes: Notes, update: bool) -> Plan:
    """Lay out the entries below the target folder. Blocks: looks at what lies there."""
    plan = Plan()
    files: dict[tuple[str, object, int], Item] = {}
    folders: dict[str, str] = {}
    ordered = sorted(found, key=lambda pair: (pair[0].member, pair[0].share, pair[1].path))
    for key, entry in ordered:
        path = safe_path(entry.path)
        owner = names.get(key.member, key.member)
        place = str(Place(owner, key.share, entry.path))
        for above in _folders_above(path, entry.type == "d"):
            folders.setdefault(fold(above), above)
        if entry.type == "d":
            plan.folders.append((path, entry))
        elif entry.type == "l":
            plan.links.append((path, entry, place))
        else:
            # The same path with the same content from several members is one file with several sources; a false size stands for itself.
            same = files.setdefault(
                (fold(path), entry.cid or entry.mtime_ns, entry.size),
                Item(key, entry, place, [path, with_label(path, owner), with_label(path, f"{owner}, {key.share}")], [], entry.cid),
            )
            same.holders.append(key.member)
    plan.items = list(files.values())
    choose_names(plan, folders, target, notes, update)
    return plan


def _folders_above(path: str, itself: bool) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts) + (1 if itself else 0))]


def choose_names(plan: Plan, folders: dict[str, str], target: Target, notes: Notes, update: bool) -> None:
    """Give each file its name: the one under which its content lies here, else the first that is free."""
    taken = set(folders)
    for item in plan.items:
        item.names = [name for name in item.names if fold(name) not in taken] or item.names[-1:]
        here = next((name for name in item.names if is_here(item, name, target, notes)), None)
        free = next((name for name in item.names if is_free(item, name, target, notes)), None)
        item.path = here or free or item.names[0]
        item.exists = here is not None
        item.differs = item.cid is not None and not item.exists and not may_place(item, target, notes, update)
        taken.add(fold(item.path))


def look_again(item: Item, target: Target, notes: Notes, update: bool) -> None:
    """Just before fetching: another get may have put it there since, or its content was not known before."""
    item.exists = is_here(item, item.path, target, notes)
    item.differs = not item.exists and not may_place(item, target, notes, update)


def may_place(item: Item, target: Target, notes: Notes, update: bool) -> bool:
    """Whether nothing lies under the item's name, or only what --update may replace."""
    try:
        return target.stat(item.path) is None or (update and is_ours_unedited(item, target, notes))
    except LocalError:
        return False  # something that is no folder stands in its way


def is_here(item: Item, name: str, target: Target, notes: Notes) -> bool:
    """Whether a regular file with this content lies under that name."""
    if item.cid is None:
        return False
    try:
        found = target.stat(name)
        if found is None or found.st_size != item.entry.size:
            return False
        placed = notes.placed(target.full_path(name))
        if placed is not None and is_as_placed(placed, found.st_size, found.st_mtime_ns, found.st_ino):
            return placed.cid == item.cid
        return target.hash_existing(name) == item.cid
    except LocalError:
        return False


def is_free(item: Item, name: str, target: Target, notes: Notes) -> bool:
    """Whether the name is nobody's, or is this very place's from an earlier get (then it differs, and gets no second name)."""
    try:
        if target.stat(name) is None:
            return True
    except LocalError:
        return False
    placed = notes.placed(target.full_path(name))
    return placed is None or placed.place == item.place


def is_ours_unedited(item: Item, target: Target, notes: Notes) -> bool:
    """Whether what lies there was placed by a get from this place and not touched since."""
    found, placed = target.stat(item.path), notes.placed(target.full_path(item.path))
    return (
        found is not None
        and placed is not None
        and placed.place == item.place
        and is_as_placed(placed, found.st_size, found.st_mtime_ns, found.st_ino)
    )


def is_as_placed(placed: Placed, size: int, mtime_ns: int, inode: int) -> bool:
    return (placed.size, placed.mtime_ns, placed.inode) == (size, mtime_ns, inode)
