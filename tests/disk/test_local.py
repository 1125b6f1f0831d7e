"""The working copy of my own shares: what scans and hashes leave in it, and what is published of it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.model_catalog import Catalog

from tinyp2p.core.catalog import EMPTY_ROOT, root_of
from tinyp2p.core.chunks import Manifest
from tinyp2p.core.wire import ShareRecord, SignedRecord
from tinyp2p.disk import local as local_module
from tinyp2p.disk.catalogs import Catalogs, CatalogState
from tinyp2p.disk.hasher import Hashed
from tinyp2p.disk.index import Index
from tinyp2p.disk.local import Local
from tinyp2p.disk.scan import Folder, Found
from tinyp2p.limits import MIB
from tinyp2p.model import Entry, MemberId, ShareKey

KEY = ShareKey(MemberId("m" * 52), "Docs")


def found(path: str, size: int = 1, time: int = 7, inode: int = 1) -> Found:
    return Found(path, "f", size, time, 0o644, inode, time, None)


def folder(path: str, mode: int = 0o755) -> Found:
    return Found(path, "d", 0, 0, mode, 1, 1, None)


def hashed(file: Found, content: bytes = b"h") -> Hashed:
    return Hashed(file.size, file.mtime_ns, file.ctime_ns, file.inode, content * 32 * max(1, (file.size + MIB - 1) // MIB) if file.size else b"")


def cid_of(file: Found, content: bytes = b"h") -> str:
    done = hashed(file, content)
    return Manifest(done.size, done.hashes).cid


@contextmanager
def store() -> Iterator[Local]:
    with tempfile.TemporaryDirectory() as path:
        index = Index(f"{path}/index.db")
        yield Local(index, Catalogs(index), KEY.member)
        index.close()


def look(local: Local, path: str, *items: Found, unreadable: int = 0) -> local_module.Applied:
    (applied,) = local.apply_folders("Docs", [(path, Folder(sorted(items, key=lambda item: item.path), 0, unreadable))])
    return applied


def state_of(local: Local) -> CatalogState:
    state = local.catalogs.state(KEY)
    assert state is not None
    return state


def empty(version: int) -> ShareRecord:
    return ShareRecord("g" * 52, KEY.member, "Docs", [], version, EMPTY_ROOT, 0, 0, 0, False, 0)


def publish(local: Local, with_cids: bool = True, again: bool = False) -> ShareRecord | None:
    records: list[ShareRecord] = []

    def sign(record: ShareRecord) -> SignedRecord:
        records.append(record)
        return SignedRecord(b"%d" % record.version, bytes(64))

    standing = local.catalogs.standing(KEY)
    signed = local.publish(empty((standing[0] if standing else 0) + 1), with_cids, again, sign)
    assert (signed is None) == (not records)
    return records[0] if records else None


def entries_of(local: Local) -> dict[str, Entry]:
    return {entry.path: entry for entry in local.catalogs.below(KEY, "")}


# --- the same as in memory ----------------------------------------------------------------------------------------------
SIZES = st.integers(0, 3)
NAMES = st.sampled_from(["x", "y", "z"])
TREE = st.dictionaries(
    NAMES, st.one_of(SIZES, st.dictionaries(NAMES, st.one_of(SIZES, st.dictionaries(NAMES, SIZES, max_size=2)), max_size=3)), max_size=3
)


def contents(tree: dict[str, object], below: str = "") -> dict[str, list[Found]]:
    """Each folder of a tree and what lies in it, as a walk would tell."""
    here: list[Found] = []
    folders = {below: here}
    for name, item in sorted(tree.items()):
        path = f"{below}/{name}" if below else name
        if isinstance(item, dict):
            here.append(folder(path))
            folders.update(contents(item, path))
        else:
            here.append(found(path, int(str(item))))
    return folders


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(TREE, st.booleans(), st.booleans()), min_size=1, max_size=6))
def test_what_is_published_is_what_was_found(steps: list[tuple[dict[str, object], bool, bool]]) -> None:
    model = Catalog()
    with store() as local:
        for tree, hash_now, publish_now in steps:
            folders = contents(tree)
            local.apply_folders("Docs", [(path, Folder(items, 0, 0)) for path, items in folders.items()])
            items = {item.path: item for each in folders.values() for item in each}
            files = {path: item for path, item in items.items() if item.type == "f"}
            assert {path for _, path, _ in local.unhashed("Docs", 100)} <= set(files)
            if hash_now:
                local.hashed("Docs", [(path, hashed(file)) for path, file in files.items()])
                assert not local.unhashed("Docs", 100)
            if not publish_now:
                continue
            before = state_of(local).version
            goal = publish(local)
            cids = {path: file.cid for path in files if (file := local.file("Docs", path))}
            wanted = {path: (item.type, item.size, cids.get(path)) for path, item in items.items()}
            assert {path: (entry.type, entry.size, entry.cid) for path, entry in entries_of(local).items()} == wanted
            news = [entry for path, entry in entries_of(local).items() if model.entries.get(path) != entry]
            model.publish(news, [path for path in model.entries if path not in wanted])
            if goal is not None:
                assert goal.version == before + 1 and all(entry.version == goal.version for entry in news)
                assert (goal.entries, goal.files) == (len(wanted), len(files)) and goal.root == root_of(goal.bits, state_of(local).hashes)
            # The model counts its own versions: only those of the store are told.
            model.entries, model.version = entries_of(local), state_of(local).version
            assert state_of(local).complete and root_of(state_of(local).bits, state_of(local).hashes) == model.root()
            assert publish(local) is None, "nothing changed since"


def test_many_changes_are_dealt_out_over_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_module, "VERSION_BLOCK", 10)
    with store() as local:
        look(local, "", *(found(f"{number:02d}") for number in range(25)))
        goal = publish(local)
        assert goal is not None and goal.version == 3
        assert sorted(entry.version for entry in entries_of(local).values()) == [1] * 10 + [2] * 10 + [3] * 5
        look(local, "", *(found(f"{number:02d}", 2) for number in range(8)))
        goal = publish(local)
        assert goal is not None and goal.version == 6
        told = local.catalogs.changes(state_of(local), 3)
        assert told is not None
        versions = [entry.version for entry in told[0]] + [version for _, version in told[1]]
        assert sorted(versions) == [4] * 10 + [5] * 10 + [6] * 5
        model = Catalog({f"{number:02d}": Entry(f"{number:02d}", "f", 1, 7, 0o644, number // 10 + 1, None, None) for number in range(25)}, {}, 3, 0)
        assert model.apply_changes(*told, goal.version, goal.bits, goal.root)


# --- scanning ------------------------------------------------------------------------------------------------------------
def test_what_a_look_at_a_folder_changed() -> None:
    with store() as local:
        first = look(local, "", found("a"), folder("b"))
        assert first.changed and first.new_folders == ["b"] and first.gone_folders == []
        assert not look(local, "", found("a"), folder("b")).changed
        assert look(local, "b", found("b/c"), folder("b/d")).new_folders == ["b/d"]
        look(local, "b/d", found("b/d/e"))
        assert local.folders_below("Docs", "") == [] and local.folders_below("Docs", "b") == ["b/d"]
        publish(local)
        # The folder becomes a file: what lay in it is gone, whoever tells first.
        assert look(local, "", found("a"), found("b", 3)).gone_folders == ["b"]
        assert set(entries_of(local)) == {"a", "b", "b/c", "b/d", "b/d/e"}
        publish(local)
        assert {path: entry.type for path, entry in entries_of(local).items()} == {"a": "f", "b": "f"}
        assert look(local, "", found("a"), folder("b")).new_folders == ["b"]


def test_what_cannot_be_read_is_not_gone() -> None:
    with store() as local:
        look(local, "", found("a"), folder("b"))
        look(local, "b", found("b/c"))
        assert not look(local, "b", unreadable=1).changed
        assert not look(local, "", found("a"), unreadable=1).changed
        assert look(local, "", found("a", 2), unreadable=1).changed
        publish(local)
        assert set(entries_of(local)) == {"a", "b", "b/c"}
        assert look(local, "", found("a", 2)).gone_folders == ["b"]
        publish(local)
        assert set(entries_of(local)) == {"a"}


def test_a_folder_that_vanished_takes_all_below_with_it() -> None:
    with store() as local:
        look(local, "", folder("b"), found("b.txt"), found("bb"))
        look(local, "b", found("b/c"))
        publish(local)
        assert local.folder_gone("Docs", "b") and not local.folder_gone("Docs", "b")
        publish(local)
        assert set(entries_of(local)) == {"b", "b.txt", "bb"}, "the folder itself is its parent's affair"


def test_what_came_and_went_between_two_versions_is_never_told() -> None:
    with store() as local:
        look(local, "", found("a"))
        look(local, "")
        assert publish(local, again=True)
        assert entries_of(local) == {} and local.catalogs.changes(state_of(local), 0) == ([], [])


def test_numbers_that_sqlite_has_not() -> None:
    with store() as local:
        file = found("a", inode=(1 << 64) - 2)
        look(local, "", file)
        assert not look(local, "", file).changed
        assert local.hashed("Docs", [("a", hashed(file))]) == 1
        kept = local.file("Docs", "a")
        assert kept is not None and kept.inode == file.inode
        local.keep_root("Docs", ((1 << 64) - 1, 1 << 63))
        assert local.root_of("Docs") == ((1 << 64) - 1, 1 << 63)
        local.keep_root("Docs", (1, 2))
        assert local.root_of("Docs") == (1, 2) and local.root_of("Other") is None


# --- hashing -------------------------------------------------------------------------------------------------------------
def test_content_ids_wait_for_their_batch_and_paths_do_not() -> None:
    with store() as local:
        look(local, "", found("a"), found("b"))
        assert publish(local, with_cids=False)
        local.hashed("Docs", [("a", hashed(found("a")))])
        assert publish(local, with_cids=False) is None and entries_of(local)["a"].cid is None
        look(local, "", found("a"), found("b"), found("c"))
        assert publish(local, with_cids=False)
        assert entries_of(local)["a"].cid is None and "c" in entries_of(local)
        assert publish(local) and entries_of(local)["a"].cid == cid_of(found("a"))


def test_only_what_was_hashed_gets_the_id() -> None:
    with store() as local:
        look(local, "", found("a"), found("b"), found("c"), folder("d"))
        wrong = [("a", hashed(found("a", time=8))), ("b", hashed(found("b", 2))), ("c", hashed(found("c", inode=2))), ("d", hashed(found("d")))]
        assert local.hashed("Docs", [*wrong, ("nowhere", hashed(found("a")))]) == 0
        assert len(local.unhashed("Docs", 10)) == 3
        assert local.totals("Docs") == (3, 3, 0)


def test_the_same_content_again_is_no_news() -> None:
    with store() as local:
        file = found("a")
        look(local, "", file)
        local.hashed("Docs", [("a", hashed(file))])
        publish(local)
        # A link was made to it, say: other times, the same file.
        moved = replace(file, ctime_ns=99)
        assert look(local, "", moved).changed
        assert entries_of(local)["a"].cid and [path for _, path, _ in local.unhashed("Docs", 10)] == ["a"]
        local.hashed("Docs", [("a", hashed(moved))])
        assert publish(local) is None
        changed = replace(file, ctime_ns=100)
        look(local, "", changed)
        local.hashed("Docs", [("a", hashed(changed, b"o"))])
        assert publish(local) and entries_of(local)["a"].cid == cid_of(file, b"o")


def test_a_file_that_was_not_what_the_catalog_tells() -> None:
    with store() as local:
        file = found("a")
        look(local, "", file)
        local.hashed("Docs", [("a", hashed(file))])
        publish(local)
        local.forget_hash("Docs", "a")
        assert publish(local) and entries_of(local)["a"].cid is None
        assert look(local, "", file).changed, "it is looked at as if it were new"
        local.hashed("Docs", [("a", hashed(file))])
        assert publish(local) and entries_of(local)["a"].cid == cid_of(file)


def test_files_to_hash_come_in_portions() -> None:
    with store() as local:
        look(local, "", *(found(f"{number}") for number in range(7)))
        first = local.unhashed("Docs", 4)
        second = local.unhashed("Docs", 4, first[-1][0])
        assert len(first) == 4 and len(second) == 3 and local.unhashed("Docs", 4, second[-1][0]) == []
        assert local.unhashed("Other", 4) == [] and local.catalogs.standing(ShareKey(KEY.member, "Other")) is None


def test_manifests_of_large_files_are_kept() -> None:
    with store() as local:
        small, large = found("small", MIB), found("large", MIB + 1)
        look(local, "", small, large)
        local.hashed("Docs", [("small", hashed(small)), ("large", hashed(large))])
        kept = local.file("Docs", "large")
        assert kept is not None and kept.cid is not None
        manifest = local.manifest(kept.cid)
        assert manifest is not None and manifest.cid == kept.cid and local.files_of(kept.cid) == [kept]
        assert local.manifest(Manifest(small.size, hashed(small).hashes).cid) is None


# --- publishing ----------------------------------------------------------------------------------------------------------
def test_an_empty_share_is_published_once_and_again_when_asked() -> None:
    with store() as local:
        local.catalog_id("Docs")
        first = publish(local)
        assert first is not None and (first.version, first.entries) == (1, 0)
        assert publish(local) is None
        again = publish(local, again=True)
        assert again is not None and again.version == 2 and again.root == first.root


def test_what_a_crash_left_incomplete_is_signed_again() -> None:
    with store() as local:
        look(local, "", found("a"))
        publish(local)
        with local.index.write() as db:
            db.execute("UPDATE catalog SET complete = 0, record = NULL")
        assert publish(local) and state_of(local).complete and set(entries_of(local)) == {"a"}


def test_a_version_that_could_not_be_signed_never_was() -> None:
    with store() as local:
        look(local, "", found("a"))
        publish(local)
        look(local, "", found("b"))

        def fail(record: ShareRecord) -> SignedRecord:
            raise ZeroDivisionError

        before = state_of(local)
        with pytest.raises(ZeroDivisionError):
            local.publish(empty(2), True, False, fail)
        assert state_of(local) == before and set(entries_of(local)) == {"a"}
        assert publish(local) and set(entries_of(local)) == {"b"}
