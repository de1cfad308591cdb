"""Holds the header of every Lua script against its body; `python -m tests.lua_headers`.

A header is the comment block at the top of a script::

    #!lua flags=allow-oom                      (optional)
    -- name: purpose.
    -- KEYS[1] wake      STREAM  meaning       (KEYS[5..] for all from there on)
    -- ARGV[1] token     str     meaning       (ARGV[2..] for the rest)
    -- Returns ...
    -- Errors  WORD ...; nothing written       (or: none of its own)
    -- Cost    ...

A line with three or more blanks after its dashes goes on with the one before it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "broker" / "lua"

_INCLUDE = re.compile(r"^--@include (\w+)$")
_COMMENT = re.compile(r"--(?!@).*$")
_STRING = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'')
_NAME = re.compile(r"-- ([\w]+): \S.*\.$")
_DECLARED = re.compile(r"-- (KEYS|ARGV)\[(\d+)(\.\.)?\] +(\S.*)$")
_SECTION = re.compile(r"-- (Returns|Errors|Cost) +(\S.*)$")
_CONTINUED = re.compile(r"-- {3,}\S")
_RECORD_KEY = re.compile(r"(?:\w+\.)?job_prefix \.\. .+$")
_Resolved = tuple[list[str], list[str]]
_KEY_TYPES = {"STREAM", "ZSET", "HASH", "SET", "LIST", "STRING", "prefix"}
_SECTIONS = ("Returns", "Errors", "Cost")


@dataclass
class Slots:
    """The documented or used indexes of KEYS or of ARGV."""

    single: set[int] = field(default_factory=set)
    #: All from here on; None: no such range.
    rest_from: int | None = None


@dataclass
class Header:
    """What the comment block says."""

    name: str | None = None
    slots: dict[str, Slots] = field(default_factory=lambda: {"KEYS": Slots(), "ARGV": Slots()})
    sections: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def check(path: Path) -> list[str]:
    """What is wrong with the script, each fault as one sentence; empty when nothing is."""
    text = path.read_text("utf-8")
    lines = text.splitlines()
    header, length = _parse_header(lines)
    body, faults = _resolve(path, lines[length:])
    code = "\n".join(_without_comment(line) for line in body)
    faults = [
        *header.faults,
        *faults,
        *_check_name(path, header),
        *(f"no line `{section}`" for section in _SECTIONS if section not in header.sections),
        *_check_slots("KEYS", header.slots["KEYS"], code),
        *_check_slots("ARGV", header.slots["ARGV"], code),
        *_check_keys(code),
        *_check_errors(header, code),
    ]
    if re.search(r"\bcjson\b", code):
        faults.append("cjson: it turns large integers into floats and empty arrays into objects")
    return faults


def scripts(folder: Path = FOLDER) -> list[Path]:
    """Every script, without the includes."""
    return sorted(folder.glob("*.lua"))


def unused_includes(folder: Path = FOLDER) -> list[str]:
    """Names of include files that no script pulls in."""
    pulled = {
        found[1]
        for path in folder.glob("**/*.lua")
        for line in path.read_text("utf-8").splitlines()
        if (found := _INCLUDE.match(line))
    }
    return sorted(path.stem for path in folder.glob("include/*.lua") if path.stem not in pulled)


def main() -> int:
    """Print every fault; 1 if there is one, or if there are no scripts at all."""
    found = scripts()
    faults = [f"{path.name}: {fault}" for path in found for fault in check(path)]
    faults += [f"include/{name}.lua: no script includes it" for name in unused_includes()]
    if not found:
        faults.append(f"no scripts in {FOLDER}")
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"Lua headers: {len(found)} scripts, {len(faults)} faults")
    return 1 if faults else 0


def _parse_header(lines: list[str]) -> tuple[Header, int]:
    header = Header()
    length = 1 if lines and lines[0].startswith("#!lua") else 0
    first = True
    while length < len(lines) and lines[length].startswith("-- "):
        _parse_line(header, lines[length], first=first)
        first = False
        length += 1
    return header, length


def _parse_line(header: Header, line: str, *, first: bool) -> None:
    if first:
        if found := _NAME.match(line):
            header.name = found[1]
        else:
            header.faults.append(f"the first line is no `-- name: purpose.` but {line!r}")
    elif found := _DECLARED.match(line):
        _declare(header, found[1], int(found[2]), bool(found[3]), found[4])
    elif found := _SECTION.match(line):
        header.sections[found[1]] = found[2]
    elif not _CONTINUED.match(line):
        header.faults.append(f"a header line of no known kind: {line!r}")


def _declare(header: Header, kind: str, index: int, is_range: bool, text: str) -> None:
    slots = header.slots[kind]
    if slots.rest_from is not None or index != len(slots.single) + 1:
        header.faults.append(f"{kind}[{index}] is out of order")
    if is_range:
        slots.rest_from = index
    else:
        slots.single.add(index)
    if kind == "KEYS" and not _KEY_TYPES & set(text.split()):
        header.faults.append(f"KEYS[{index}] has no type out of {', '.join(sorted(_KEY_TYPES))}")


def _resolve(path: Path, lines: list[str], seen: frozenset[str] = frozenset()) -> _Resolved:
    """The lines with the includes in their place, and the includes that are missing."""
    body: list[str] = []
    faults: list[str] = []
    for line in lines:
        found = _INCLUDE.match(line)
        if not found:
            body.append(line)
            continue
        included = path.parent / "include" / f"{found[1]}.lua"
        if found[1] in seen:
            faults.append(f"include {found[1]} twice")
        elif not included.is_file():
            faults.append(f"no include {found[1]}")
        else:
            body += included.read_text("utf-8").splitlines()
        seen |= {found[1]}
    return body, faults


def _without_comment(line: str) -> str:
    """The line without its comment; dashes inside a string are none."""
    masked = _STRING.sub(lambda found: "x" * len(found[0]), line)
    found = _COMMENT.search(masked)
    return line[: found.start()] if found else line


def _check_name(path: Path, header: Header) -> Iterator[str]:
    if header.name is not None and header.name != path.stem:
        yield f"the header is of {header.name}"


def _check_slots(kind: str, documented: Slots, code: str) -> Iterator[str]:
    used, by_variable, lowest = _uses(kind, code)
    for index in sorted(used - documented.single):
        if documented.rest_from is None or index < documented.rest_from:
            yield f"{kind}[{index}] is used and not documented"
    for index in sorted(documented.single - used):
        # A range that begins lower is how `unpack(ARGV, 5)` or a loop reaches it.
        if lowest is None or index < lowest:
            yield f"{kind}[{index}] is documented and not used"
    if documented.rest_from is None:
        if by_variable:
            yield f"{kind} is indexed by a variable, and no {kind}[n..] is documented"
    elif not by_variable:
        yield f"{kind}[{documented.rest_from}..] is documented and not used"
    elif lowest is not None and lowest != documented.rest_from:
        yield f"{kind}[{documented.rest_from}..] is documented and begins at {lowest}"


def _uses(kind: str, code: str) -> tuple[set[int], bool, int | None]:
    """Constant indexes; whether a variable one is used; where that range begins, if it says so."""
    constant = {int(found) for found in re.findall(rf"\b{kind}\[(\d+)\]", code)}
    computed = re.findall(rf"\b{kind}\[(?!\d+\])([^\]]+(?:\[[^\]]*\][^\]]*)*)\]", code)
    bases = {int(found[1]) for index in computed if (found := re.match(r"(\d+) \+ ", index))}
    bases |= {int(found) for found in re.findall(rf"\bunpack\({kind}, (\d+)\)", code)}
    bases |= {int(found) for found in re.findall(rf"\bfor \w+ = (\d+), #{kind} do", code)}
    by_variable = bool(computed or bases or re.search(rf"#{kind}\b", code))
    return constant, by_variable, min(bases, default=None)


def _check_keys(code: str) -> Iterator[str]:
    """A key is never put together in a script, except a record's: its prefix is a declared key."""
    for command in re.finditer(r"\bredis\.p?call\(", code):
        arguments = _arguments(code, command.end())
        if len(arguments) < 2 or ".." not in _STRING.sub('""', arguments[1]):
            continue
        if not _RECORD_KEY.fullmatch(arguments[1]):
            yield f"a key is concatenated: {arguments[1]}"
    for name, value in re.findall(
        r"\blocal (\w*(?:key|record)\w*) = ([^\n,]*\.\.[^\n]*)$", code, re.M
    ):
        if re.search(rf"\bredis\.p?call\([^,]+, {name}\b", code) and not _RECORD_KEY.fullmatch(
            value
        ):
            yield f"a key is concatenated: {name} = {value}"


def _arguments(code: str, start: int) -> list[str]:
    """The arguments of the call whose parenthesis opens before `start`."""
    masked = _STRING.sub(lambda found: "x" * len(found[0]), code[start:])
    arguments, depth, begin = [], 0, 0
    for position, sign in enumerate(masked):
        if sign in "([{":
            depth += 1
        elif sign in ")]}" and depth:
            depth -= 1
        elif depth == 0 and sign in ",)":
            arguments.append(code[start + begin : start + position].strip())
            begin = position + 1
            if sign == ")":
                break
    return arguments


def _check_errors(header: Header, code: str) -> Iterator[str]:
    documented = set(re.findall(r"\b[A-Z]{2,}\b", header.sections.get("Errors", "")))
    raised: set[str] = set()
    for found in re.finditer(r"\bredis\.error_reply\(", code):
        argument = _arguments(code, found.end())[0]
        word = re.match(r'["\']([A-Z]{2,})\b', argument)
        if word is None:
            yield f"an error without a word in capitals at its beginning: {argument}"
        else:
            raised.add(word[1])
    for error in sorted(raised - documented):
        yield f"the error {error} is raised and not documented"
    for error in sorted(documented - raised):
        yield f"the error {error} is documented and not raised"


if __name__ == "__main__":
    sys.exit(main())
