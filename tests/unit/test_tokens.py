"""Tokens by reference: found, replaced, missing, and never shown."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bridge.asm import tokens
from bridge.asm.errors import Unauthorized
from bridge.asm.tokens import Tokens

SECRET = "tok-3f9a7c12"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_RECHECK", 0.0)


def resolver(directory: Path | None, default: str | None = None) -> Tokens:
    return Tokens(directory, default)


def test_each_kind_of_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token is read from file:NAME, file:NAME#KEY, env:NAME or asm.token, without an end of line."""
    (tmp_path / "agent-7").write_text(SECRET + "\n")
    (tmp_path / "all.json").write_text(json.dumps({"a-1": "one", "b": {"c": 1}}))
    monkeypatch.setenv("AGENT_TOKEN", "two")
    found = resolver(tmp_path, "three")
    references = ["file:agent-7", "file:all.json#a-1", "env:AGENT_TOKEN", None]
    assert [found.get(reference) for reference in references] == [SECRET, "one", "two", "three"]


def rewritten(path: Path, text: str) -> None:
    path.write_text(text)


def renamed(path: Path, text: str) -> None:
    fresh = path.with_name("fresh")
    fresh.write_text(text)
    fresh.rename(path)


def relinked(path: Path, text: str) -> None:
    """Replaces a file as Kubernetes does: its name is a link into a directory that is replaced."""
    target = path.parent / text
    target.write_text(text)
    link = path.with_name("link")
    link.symlink_to(target)
    link.rename(path)


def test_a_byte_order_mark_is_no_part_of_a_token(tmp_path: Path) -> None:
    """A byte order mark at the beginning of a file is not part of its tokens."""
    (tmp_path / "agent-7").write_text(SECRET, encoding="utf-8-sig")
    (tmp_path / "all.json").write_text(json.dumps({"a-1": "one"}), encoding="utf-8-sig")
    found = resolver(tmp_path)
    assert [found.get("file:agent-7"), found.get("file:all.json#a-1")] == [SECRET, "one"]


@pytest.mark.parametrize("replace", [rewritten, renamed, relinked])
def test_a_file_is_read_again_when_it_changes(tmp_path: Path, replace: Callable[[Path, str], None]) -> None:
    """A changed file is read again, even if it was replaced by renaming with the same length, and only reloads are
    counted.
    """
    path, found = tmp_path / "agent-7", resolver(tmp_path)
    for number, token in enumerate(("token-1", "token-2", "token-3"), 1):
        replace(path, token)
        assert [found.get("file:agent-7") for _ in range(3)] == [token] * 3
        assert found.reloads == number


def test_a_key_is_read_again_when_its_file_changes(tmp_path: Path) -> None:
    """A key of a file is read again when the file changes."""
    found = resolver(tmp_path)
    for token in ("one", "two"):
        renamed(tmp_path / "all", json.dumps({"k": token}))
        assert found.get("file:all#k") == token


def test_a_file_that_comes_later_is_found_and_one_that_goes_is_missed(tmp_path: Path) -> None:
    """A file that is added or removed later is noticed without a restart."""
    found = resolver(tmp_path)
    with pytest.raises(Unauthorized):
        found.get("file:agent-7")
    (tmp_path / "agent-7").write_text(SECRET)
    assert found.get("file:agent-7") == SECRET
    (tmp_path / "agent-7").unlink()
    with pytest.raises(Unauthorized):
        found.get("file:agent-7")


def test_a_file_is_not_looked_at_for_every_poll(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is checked at most once per second, not for every poll."""
    monkeypatch.undo()
    assert tokens._RECHECK < 1
    (tmp_path / "agent-7").write_text(SECRET)
    found, looks = resolver(tmp_path), 0
    real = Path.stat

    def counted(path: Path, **options: bool) -> object:
        nonlocal looks
        looks += 1
        return real(path, **options)

    monkeypatch.setattr(Path, "stat", counted)
    for _ in range(50):
        found.get("file:agent-7")
    assert looks == 1


@pytest.mark.parametrize(
    "reference", [None, "env:NO_SUCH_VARIABLE", "file:none", "file:all#none", "file:plain#k", "file:dir"]
)
def test_what_is_missing_is_named_with_what_to_do(tmp_path: Path, reference: str | None) -> None:
    """A missing token raises Unauthorized with the name of what is missing and what to do."""
    (tmp_path / "all").write_text(json.dumps({"k": SECRET, "none": None}))
    (tmp_path / "plain").write_text(SECRET)
    (tmp_path / "dir").mkdir()
    with pytest.raises(Unauthorized) as caught:
        resolver(tmp_path).get(reference)
    name = "asm.token" if reference is None else reference.partition(":")[2].partition("#")[0]
    assert name in str(caught.value)
    assert SECRET not in str(caught.value)
    assert caught.value.http_status is None
    assert not caught.value.possibly_processed


def test_a_file_needs_a_secrets_directory() -> None:
    """A file reference is refused without a secrets directory."""
    with pytest.raises(Unauthorized, match="ASM_BRIDGE_SECRETS_DIR"):
        resolver(None).get("file:agent-7")


@pytest.mark.parametrize("ending", ["\r\nX-Injected: 1", " and more", "\x00", "ä", "\u2028", "\x7f"])
def test_what_a_header_cannot_carry_is_refused_unseen(tmp_path: Path, ending: str) -> None:
    """A token that a header cannot carry is refused, and is not shown."""
    (tmp_path / "a").write_bytes((SECRET + ending + "x").encode())
    (tmp_path / "b").write_text(json.dumps({"k": SECRET + ending + "x"}))
    found = resolver(tmp_path, SECRET + ending + "x")
    for reference in ("file:a", "file:b#k", None):
        with pytest.raises(Unauthorized) as caught:
            found.get(reference)
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"{", b"[]", b'{"k": 1}', b"", b"{" + b'"k": ' * 3])
def test_a_file_of_any_content_is_at_worst_no_token(tmp_path: Path, content: bytes) -> None:
    """A file with any content gives a token or raises Unauthorized."""
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(Unauthorized):
        resolver(tmp_path).get("file:a#k")


def test_a_file_nested_without_end_is_no_token(tmp_path: Path) -> None:
    """A file of deeply nested JSON raises Unauthorized instead of a recursion error."""
    (tmp_path / "a").write_text('{"k": ' * 200_000)
    with pytest.raises(Unauthorized):
        resolver(tmp_path).get("file:a#k")
