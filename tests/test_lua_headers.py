"""The headers of the scripts agree with their bodies, and the check finds those that don't."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lua_headers import FOLDER, check, scripts, unused_includes

SOUND = """\
#!lua
-- move: put messages somewhere else.
-- KEYS[1] source      ZSET    id -> due time, unix ms
-- KEYS[2] job prefix  prefix of the records, completed with the id
-- KEYS[3..] ready     STREAM  one a level
-- ARGV[1] limit       int     messages
-- ARGV[2..] message   msgpack [level, id]
-- Returns the number moved
-- Errors  BADARG no such level; nothing written
-- Cost    O(1) a message
local limit, job_prefix = ARGV[1], KEYS[2]
for i = 2, #ARGV do
  local message = cmsgpack.unpack(ARGV[i])
  if not KEYS[3 + message[1]] then
    return redis.error_reply("BADARG level " .. tostring(message[1]))
  end
  redis.call("ZREM", KEYS[1], message[2])  -- KEYS[9] in a comment is no use
  redis.call("DEL", job_prefix .. message[2])
  redis.call("XADD", KEYS[3 + message[1]], "*", "note", "a -- b .. c")
end
return limit
"""


@pytest.mark.parametrize("path", scripts(), ids=lambda path: path.stem)
def test_the_header_agrees_with_the_body(path: Path) -> None:
    assert check(path) == []


def test_every_include_is_included() -> None:
    assert FOLDER.is_dir()
    assert unused_includes() == []


def test_a_sound_script_has_no_faults(tmp_path: Path) -> None:
    path = tmp_path / "move.lua"
    path.write_text(SOUND, encoding="utf-8")
    assert check(path) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("-- move:", "-- shift:", "the header is of shift"),
        ("-- move: put messages somewhere else.", "-- move", "the first line"),
        ('"ZREM", KEYS[1]', '"ZREM", "x"', "KEYS[1] is documented and not used"),
        (
            "local limit, job_prefix = ARGV[1]",
            "local limit, job_prefix = 1",
            "ARGV[1] is documented and not used",
        ),
        (
            "-- KEYS[2] job prefix  prefix of the records, completed with the id\n",
            "",
            "KEYS[3] is out of order",
        ),
        ("-- KEYS[3..] ready     STREAM  one a level\n", "", "no KEYS[n..] is documented"),
        ("-- KEYS[3..]", "-- KEYS[3]", "KEYS is indexed by a variable"),
        ("KEYS[3 + message[1]]", "KEYS[4 + message[1]]", "begins at"),
        ("for i = 2, #ARGV", "for i = 3, #ARGV", "ARGV[2..] is documented and begins at 3"),
        ("ZSET ", "THING", "KEYS[1] has no type"),
        ("-- Returns the number moved\n", "", "no line `Returns`"),
        ("-- Cost    O(1) a message\n", "", "no line `Cost`"),
        (
            "-- Errors  BADARG no such level",
            "-- Errors  none of its own",
            "the error BADARG is raised",
        ),
        ("-- Errors  BADARG", "-- Errors  GONE no message, BADARG", "the error GONE is documented"),
        ('"BADARG level "', '"bad level "', "an error without a word in capitals"),
        ("cmsgpack.unpack", "cjson.decode", "cjson"),
        ('"DEL", job_prefix ..', '"DEL", ARGV[1] ..', "a key is concatenated"),
        (
            "return limit",
            'local key = KEYS[1] .. "x"\nredis.call("DEL", key)\nreturn limit',
            "a key is concatenated",
        ),
        ("-- Returns", "-- Gives back", "a header line of no known kind"),
        ("return limit", "--@include nothing\nreturn limit", "no include nothing"),
        ("return limit", "return KEYS[2], ARGV[0], KEYS[0]", "KEYS[0] is used and not documented"),
    ],
)
def test_a_fault_is_found(tmp_path: Path, old: str, new: str, fault: str) -> None:
    assert old in SOUND
    path = tmp_path / "move.lua"
    path.write_text(SOUND.replace(old, new), encoding="utf-8")
    assert any(fault in found for found in check(path)), check(path)


def test_what_an_include_uses_counts_as_used(tmp_path: Path) -> None:
    path = tmp_path / "move.lua"
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "end.lua").write_text("return KEYS[1]\n", encoding="utf-8")
    path.write_text(
        SOUND.replace('"ZREM", KEYS[1]', '"ZREM", "x"').replace("return limit", "--@include end"),
        encoding="utf-8",
    )
    assert check(path) == []
