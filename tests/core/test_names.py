"""Names: the escaping both ways, and that no stranger's name leaves the target, hides, or moves the cursor."""

from __future__ import annotations

import re
import unicodedata
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tinyp2p.core import names
from tinyp2p.core.names import display_names, fold, is_valid_path, path_from_bytes, path_to_bytes, printable, safe_name, safe_path, with_label
from tinyp2p.errors import Malformed
from tinyp2p.model import MemberId

steady = settings(max_examples=150, deadline=None, derandomize=True, database=None)
# Characters that mean something somewhere, and some that only look like them.
NASTY = './\\ :~$()-_*?"<>|a1CONnul¹\0\n\x1b\x7f\x85\xa0\xad\u0301\u0338\u200b\u200d\u202e\u2028\u2066\u212a\ufe0f\ufeff\ufffdéßﬁ日😀\uef80\uefe9\uefff\udce9\ud800'
nasty_text = st.one_of(
    st.text(alphabet=NASTY, max_size=40), st.text(st.characters(), max_size=40), st.text(alphabet="ab/.é日", min_size=200, max_size=1000)
)


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"plain/name.txt", "plain/name.txt"),
        ("Grüße/日本.txt".encode(), "Grüße/日本.txt"),
        (b"caf\xe9", "caf\uefe9"),
        (b"\xff\x80", "\uefff\uef80"),
        ("x\uef80y".encode(), "x\uefee\uefbe\uef80y"),
        ("\uefff".encode(), "\uefee\uefbf\uefbf"),
        ("\uef7f\uf000".encode(), "\uef7f\uf000"),
        (b"\xed\xa0\x80", "\uefed\uefa0\uef80"),
        (b"\xc3", "\uefc3"),
        (b"\xc3/\xa9", "\uefc3/\uefa9"),
    ],
)
def test_escaping(raw: bytes, path: str) -> None:
    assert path_from_bytes(raw) == path
    assert path_to_bytes(path) == raw


@steady
@given(st.one_of(st.binary(max_size=60), st.text(alphabet="a\uef80\uefff\uef7fé").map(str.encode)))
def test_any_bytes_come_back(raw: bytes) -> None:
    path = path_from_bytes(raw)
    path.encode()
    assert path_to_bytes(path) == raw
    assert is_valid_path(path) == (b"\0" not in raw and not any(part in (b"", b".", b"..") for part in raw.split(b"/")))


@steady
@given(nasty_text)
def test_a_valid_path_is_the_only_name_of_its_bytes(path: str) -> None:
    if is_valid_path(path):
        assert path_from_bytes(path_to_bytes(path)) == path


def test_half_a_character_has_no_bytes() -> None:
    with pytest.raises(Malformed):
        path_to_bytes("a\udce9")


@pytest.mark.parametrize(
    ("path", "valid"),
    [
        ("a", True),
        ("a/b.c", True),
        ("...", True),
        (".hidden/..x", True),
        ("a\\b:c\n", True),
        ("caf\uefe9", True),
        ("", False),
        ("/", False),
        ("/etc/passwd", False),
        ("a/", False),
        ("a//b", False),
        (".", False),
        ("..", False),
        ("./a", False),
        ("a/./b", False),
        ("a/../b", False),
        ("a/..", False),
        ("a\0b", False),
        ("a\ud800", False),
        ("é\0", False),
        ("é/../b", False),
        ("\uefc3\uefa9", False),  # says é in another way
        ("x" * 255, True),
        ("x" * 256, False),
        ("é" * 127, True),
        ("é" * 128, False),
        ("\uef80" * 255, True),
        ("\uef80" * 256, False),
        ("/".join(["x" * 255] * 16), True),
        ("/".join(["x" * 255] * 16) + "/y", False),
        ("é" * 5000, False),
    ],
)
def test_valid_paths(path: str, valid: bool) -> None:
    assert is_valid_path(path) is valid


@pytest.mark.parametrize(
    ("path", "safe"),
    [
        ("Photos/beach (2).jpg", "Photos/beach (2).jpg"),
        ("日本/é.txt", "日本/é.txt"),
        ("", "_"),
        ("/", "_"),
        (".", "_"),
        ("..", "_"),
        ("../../etc/passwd", "_/_/etc/passwd"),
        ("/etc/x", "etc/x"),
        ("a//b/", "a/b"),
        ("C:\\x", "C__x"),
        ("\\\\host\\x", "__host_x"),
        ("..\\..\\x", "__.._x"),
        (".bashrc", "_bashrc"),
        (".ssh/authorized_keys", "_ssh/authorized_keys"),
        ("x/.tinyp2p-parts/y", "x/_tinyp2p-parts/y"),
        ("...x", "_x"),
        ("\u200d.bashrc", "_bashrc"),
        ("\ufe0f\u200c.\u200d.git", "_git"),
        ("TINYP2~1/y", "TINYP2_1/y"),
        ("GIT~12.EXE", "GIT_12.EXE"),
        ("a longer name~1.txt", "a longer name~1.txt"),
        ("name. . ", "name"),
        (" . ", "_"),
        ('a<b>c:d"e|f?g*h', "a_b_c_d_e_f_g_h"),
        ("red\x1b[31m\0\n", "red_[31m__"),
        ("exe\u202egpj.x", "exe_gpj.x"),
        ("a\u2028b\ud800c", "a_b_c"),
        ("e\u0301", "é"),
        (">\u0338", "≯"),
        ("caf\uefe9", "café"),
        ("\uef93quoted\uef94", "“quoted”"),
        ("\uef81", "\ufffd"),
        ("CON", "_CON"),
        ("con.tar.gz", "_con.tar.gz"),
        ("Aux .txt", "_Aux .txt"),
        ("COM1", "_COM1"),
        ("COM¹.x", "_COM¹.x"),
        ("lpt9", "_lpt9"),
        ("CONIN$", "_CONIN$"),
        ("conout$.log", "_conout$.log"),
        ("NUL ", "_NUL"),
        ("NUL:", "NUL_"),
        ("console", "console"),
        ("COM10", "COM10"),
    ],
)
def test_safe_paths(path: str, safe: str) -> None:
    assert safe_path(path) == safe


@given(st.from_regex(r"[A-Za-z0-9_.~ -]{1,12}", fullmatch=True) | st.sampled_from(["con", "Nul.txt", "com1.a.b", "a~1", "x" * 255, "x" * 256]))
def test_names_that_are_safe_at_first_sight_are_what_the_long_way_makes_of_them(name: str) -> None:
    found = safe_path(name)
    with mock.patch.object(names, "_plain", re.compile(r"(?!)")):
        assert safe_path(name) == found


def test_long_names_are_cut_keep_their_suffix_and_stay_apart() -> None:
    one, two = safe_path("ж" * 200 + "1.tar.gz"), safe_path("ж" * 200 + "2.tar.gz")
    assert one != two
    assert one.endswith(".tar.gz") and two.endswith(".tar.gz")
    assert 250 <= len(one.encode()) <= 255
    assert len(safe_path("x." + "y" * 300)) == 255
    assert safe_path("x" * 255) == "x" * 255


def test_deep_folders_are_cut_and_their_files_stay_together() -> None:
    deep = "/".join(["folder" * 10] * 30)
    one, two = safe_path(f"{deep}/a.txt"), safe_path(f"{deep}/{'b' * 255}")
    assert one.rpartition("/")[0] == two.rpartition("/")[0]
    assert one.startswith("folder") and one.endswith("/a.txt")
    assert safe_path(f"{deep}/x/a.txt") != one
    assert len(two.encode()) < 900


@steady
@given(nasty_text)
@example("a/" * 1000)
@example("é" * 127 + ".")
def test_safe_paths_are_safe(path: str) -> None:
    safe = safe_path(path)
    assert safe_path(safe) == safe
    assert is_valid_path(safe)
    assert printable(safe) == safe
    assert unicodedata.is_normalized("NFC", safe)
    assert len(safe.encode()) < 900
    assert not set(safe) & set('<>:"|?*\\')
    for component in safe.split("/"):
        assert component and component[0] != "." and component[-1] not in ". "
        assert len(component.encode()) <= 255
        assert component.partition(".")[0].strip().upper() not in {"CON", "NUL", "COM1", "COM¹"}


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("README", "readme"),
        ("É", "e\u0301"),
        ("Å", "\u212b"),
        ("ΟΔΟΣ", "οδος"),
        ("\u1100\u1161", "가"),
        ("a/B", "A/b"),
        ("STRASSE", "straße"),
        ("ᾳ", "ΑΙ"),
    ],
)
def test_twins_fold_alike(one: str, two: str) -> None:
    assert fold(one) == fold(two)


def test_others_do_not_fold_alike() -> None:
    assert len({fold(name) for name in ("a", "b", "á", "à", "a/b", "a_b")}) == 6


@steady
@given(nasty_text)
def test_fold_sees_no_unicode_form(path: str) -> None:
    assert fold(unicodedata.normalize("NFC", path)) == fold(unicodedata.normalize("NFD", path)) == fold(fold(path))


@pytest.mark.parametrize(
    ("path", "label", "labelled"),
    [
        ("a/name.jpg", "desktop", "a/name (desktop).jpg"),
        ("a/name.tar.gz", "desktop", "a/name (desktop).tar.gz"),
        ("name.TAR.zst", "d", "name (d).TAR.zst"),
        ("a.b.c", "d", "a.b (d).c"),
        ("x.tar", "d", "x (d).tar"),
        ("a.b/README", "laptop~k3f9, Photos", "a.b/README (laptop~k3f9, Photos)"),
        ("Dr. No and others", "d", "Dr. No and others (d)"),
        ("_bashrc", "../x:y", "_bashrc (.._x_y)"),
        ("name.txt", "", "name (_).txt"),
    ],
)
def test_labels(path: str, label: str, labelled: str) -> None:
    assert with_label(path, label) == labelled


@steady
@given(nasty_text, nasty_text)
@example("ж" * 200 + ".tar.gz", "日" * 300)
def test_a_labelled_path_is_safe_and_another(path: str, label: str) -> None:
    safe = safe_path(path)
    labelled = with_label(safe, label)
    assert labelled != safe
    assert safe_path(labelled) == labelled


def test_long_names_with_a_label_stay_apart() -> None:
    one, two = (with_label("x" * 249 + end + ".jpg", "desktop") for end in "12")
    assert one != two
    assert one.endswith(" (desktop).jpg") and len(one) == 255


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain/Grüße 日本 👩\u200d👩 ❤\ufe0f", "plain/Grüße 日本 👩\u200d👩 ❤\ufe0f"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("a\nb\tc\x9b", "a\\x0ab\\x09c\\x9b"),
        ("exe\u202egpj", "exe\\u202egpj"),
        ("a\u2028\u2069\ufeff", "a\\u2028\\u2069\\ufeff"),
        ("\ud800", "\\ud800"),
        ("caf\uefe9", "caf\\xe9"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


@steady
@given(nasty_text)
def test_printable_text_stays(text: str) -> None:
    shown = printable(text)
    shown.encode()
    assert printable(shown) == shown


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("desktop", "desktop"),
        ("  Anna's\tlaptop \n", "Anna's laptop"),
        ("Fotos & Vidéos", "Fotos & Vidéos"),
        ("e\u0301", "é"),
        ("a/b:c*d?e[f]g\\h", "a-b-c-d-e-f-g-h"),
        ("laptop~k3f9", "laptop-k3f9"),
        ("~root", "root"),
        ("..hidden", "hidden"),
        ("--yes", "yes"),
        ("\u200d\u200d.x", "x"),
        ("x\x1b[0m\u202e", "x--0m"),
        ("", "member"),
        ("...", "member"),
        ("///", "member"),
        ("\u3164 \ufe0f", "member"),
        ("x" * 63 + " yz", "x" * 63),
    ],
)
def test_safe_names(text: str, name: str) -> None:
    assert safe_name(text, "member") == name


@steady
@given(nasty_text)
def test_safe_names_are_safe(text: str) -> None:
    name = safe_name(text, "member")
    assert name and len(name) <= 64
    assert safe_name(name, "-") == name
    assert printable(name) == name == name.strip()
    assert not set(name) & set("/:*?[]\\~")


def test_display_names() -> None:
    a, b, c, d, e = (MemberId(start + "2" * 46) for start in ("k3f9aa", "k3f9bb", "k3f9ab", "zzzzzz", "yyyyyy"))
    known = [(a, "laptop"), (b, "Laptop"), (c, "laptop"), (d, "laptop~k3f9"), (e, "\x1b"), (a, "other")]
    assert display_names(known) == {a: "laptop", b: "Laptop~k3f9", c: "laptop~k3f9a", d: "laptop-k3f9", e: "member"}
    for count in range(len(known)):  # a name once given stays
        assert display_names(known[:count]).items() <= display_names(known).items()


def test_nobody_is_called_by_the_id_of_another() -> None:
    a, b = MemberId("a" * 52), MemberId("b" * 52)
    assert display_names([(a, b.upper()), (b, "desktop")]) == {a: f"{b.upper()}~aaaa", b: "desktop"}


@steady
@given(
    st.lists(
        st.tuples(st.text(alphabet="ab", min_size=8, max_size=8), st.one_of(st.sampled_from(["x", "X", "", "x~aaaa", "x~aaaab"]), nasty_text)),
        max_size=12,
    )
)
def test_display_names_are_distinct(members: list[tuple[str, str]]) -> None:
    names = display_names([(MemberId(member), name) for member, name in members])
    assert set(names) == {member for member, _ in members}
    assert len({fold(name) for name in names.values()}) == len(names)
