"""Who is let in, under what name, and how keys change while the gateway runs."""

import os
from pathlib import Path

import pytest
from asgi_calls import Answer, Echo, ask

from deploykit.errors import ConfigError
from deploykit.gateway.key_ring import VARIABLE, KeyRing
from deploykit.gateway.keys import Keys, client_name

GOOD = "sk-0123456789abcdef"


def asked(ring: KeyRing, *, key: str | None = None, path: str = "/v1/models", scheme: str = "Bearer") -> Answer:
    troubles: list[ConfigError] = []
    app = Keys(Echo(), ring, open_paths=frozenset({"/health"}), on_trouble=troubles.append)
    headers = {} if key is None else {"authorization": f"{scheme} {key}"}
    return ask(app, path=path, headers=headers, method="GET")


def key_file(folder: Path, text: str) -> Path:
    file = folder / "keys"
    file.write_text(text)
    return file


def test_lets_everybody_in_where_there_are_no_keys() -> None:
    ring = KeyRing(None, {})
    assert ring.is_open
    assert asked(ring).status == 200


@pytest.mark.parametrize("empty", ["", " ", ",", "# none yet"])
def test_a_secret_that_came_out_empty_lets_nobody_in(tmp_path: Path, empty: str) -> None:
    with pytest.raises(ConfigError, match=r"DEPLOYKIT_API_KEYS is set but holds no key; .*unset it"):
        KeyRing(None, {VARIABLE: empty})
    assert not KeyRing(key_file(tmp_path, GOOD), {VARIABLE: empty}).is_open


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_lets_in_who_has_a_key_under_its_name(tmp_path: Path, scheme: str) -> None:
    ring = KeyRing(key_file(tmp_path, f"# ours\n\nteam-a: {GOOD}\nother-key-12345\n"), {})
    answer = asked(ring, key=GOOD, scheme=scheme)
    assert (answer.status, client_name(answer.scope)) == (200, "team-a")
    unnamed = client_name(asked(ring, key="other-key-12345").scope)
    assert unnamed.startswith("key-")
    assert "other" not in unnamed


@pytest.mark.parametrize("key", ["sk-wrong-wrong", GOOD[:-1], GOOD + "x", "team-a:" + GOOD, "\xff\xfe", "x" * 5000])
def test_refuses_a_wrong_key(tmp_path: Path, key: str) -> None:
    answer = asked(KeyRing(key_file(tmp_path, f"team-a:{GOOD}"), {}), key=key)
    assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
    assert answer.error["type"] == "invalid_request_error"
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert key not in answer.body.decode()


@pytest.mark.parametrize("path", ["/v1/models", "/nowhere", "/metrics", "/openapi.json", "/health/", "//health"])
def test_refuses_who_shows_none(tmp_path: Path, path: str) -> None:
    ring = KeyRing(key_file(tmp_path, GOOD), {})
    assert asked(ring, path=path).status == 401
    assert asked(ring, path=path, key=GOOD, scheme="Basic").error["code"] == "missing_api_key"
    assert asked(ring, path="/health").status == 200


def test_takes_keys_from_the_environment_too(tmp_path: Path) -> None:
    ring = KeyRing(key_file(tmp_path, GOOD), {VARIABLE: "team-b:key-of-team-b, key-of-team-c"})
    assert [asked(ring, key=key).status for key in (GOOD, "key-of-team-b", "key-of-team-c", "nope-nope")] == [
        200,
        200,
        200,
        401,
    ]


def test_reads_the_file_again_when_it_has_changed(tmp_path: Path) -> None:
    file = key_file(tmp_path, GOOD)
    ring = KeyRing(file, {})
    new = tmp_path / "new"
    new.write_text("another-key-1")
    new.rename(file)
    assert [asked(ring, key=key).status for key in (GOOD, "another-key-1")] == [401, 200]


@pytest.mark.parametrize("damage", ["gone", "empty", "nonsense"])
def test_keeps_its_keys_when_the_file_is_damaged_and_complains_once(tmp_path: Path, damage: str) -> None:
    file = key_file(tmp_path, GOOD)
    ring = KeyRing(file, {})
    if damage == "gone":
        file.unlink()
    else:
        file.write_text({"empty": "", "nonsense": "a b c"}[damage])
    with pytest.raises(ConfigError, match="--api-keys keys"):
        ring.reload()
    ring.reload()
    assert asked(ring, key=GOOD).status == 200


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "holds no key"),
        ("# none\n", "holds no key"),
        ("short", "line 1: not a key"),
        (f"{GOOD}\nwith a space in it", "line 2: not a key"),
        (f":{GOOD}", "line 1: not a key"),
        ("schlüssel-schlüssel", "line 1: not a key"),
        ("n" * 65 + f":{GOOD}", "a name has up to 64"),
    ],
)
def test_says_what_is_wrong_with_a_file_and_no_key(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        KeyRing(key_file(tmp_path, text), {})
    assert GOOD not in str(caught.value)
    assert os.fspath(tmp_path) not in str(caught.value)


def test_refuses_a_file_that_is_missing_or_huge(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read"):
        KeyRing(tmp_path / "none", {})
    with pytest.raises(ConfigError, match="more than 1048576 bytes"):
        KeyRing(key_file(tmp_path, "x" * 2**20 + "yy"), {})
