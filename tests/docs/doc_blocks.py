"""The fenced blocks of README and docs, and the test options in the comment before one.

    <!-- test: PART, PART, … -->

on the line above a fence, with these parts:

    DATA=KIND               make the name in the block's folder: pictures (or digits; hundred has as many classes),
                            experts, convexified, run or set
    append "FLAGS"          put FLAGS behind every command that takes a recipe (experts, distill, plan)
    append COMMAND "FLAGS"  put FLAGS behind that command of pydistill's, that module or that program
    as written              do not shrink the commands
    with NAME               run set-up NAME (tests/docs/test_docs.py) first, for a block that is a part of a program
    serves PROGRAM          start PROGRAM, open the page whose address it prints, and stop it

A block of Python that begins with `# NAME.py` is that file for the commands of its page.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

_BLOCK = re.compile(
    r"(?:^<!-- test: (?P<options>[^\n]*) -->\n+)?^```(?P<language>[^\n]*)\n(?P<source>.*?)^```$", re.M | re.S
)
_PART = re.compile(
    r"(?P<name>\w+)=(?P<kind>\w+)"
    r'|append (?:(?P<command>[\w.-]+) )?"(?P<flags>[^"]*)"'
    r"|(?P<as_written>as written)"
    r"|with (?P<setup>[\w-]+)"
    r"|serves (?P<server>\w+)"
)


@dataclass
class BlockOptions:
    """The test options of a block."""

    made: dict[str, str] = field(default_factory=dict)
    appended: dict[str, str] = field(default_factory=dict)
    as_written: bool = False
    setup: str | None = None
    server: str | None = None


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, the line of its fence, its language and its text."""

    page: Path
    line: int
    language: str
    source: str
    options: BlockOptions

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def read_comment(text: str) -> BlockOptions:
    """Parse the parts of a comment; ValueError names the first that is not one."""
    options, position = BlockOptions(), 0
    while position < len(text):
        match = _PART.match(text, position)
        if match is None or (match.end() < len(text) and not text.startswith(", ", match.end())):
            raise ValueError(f"a test comment says {text[position:]!r}, which tests/docs/doc_blocks.py does not know")
        if match["name"]:
            options.made[match["name"]] = match["kind"]
        elif match["flags"] is not None:
            options.appended[match["command"] or "recipe"] = match["flags"]
        options.as_written |= match["as_written"] is not None
        options.setup = match["setup"] or options.setup
        options.server = match["server"] or options.server
        position = match.end() + 2
    return options


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, match.start("language")) + 1,
            match["language"],
            match["source"],
            read_comment(match["options"] or ""),
        )
        for match in _BLOCK.finditer(text)
    ]


def files_of(page: Path) -> dict[str, str]:
    """Return the Python blocks of a page that are files, by file name."""
    named = ((re.match(r"# (\w+\.py)\n", block.source), block) for block in blocks(page) if block.language == "python")
    return {match[1]: block.source for match, block in named if match}


def all_blocks(language: str) -> list[Block]:
    """Return the blocks of one language on all pages."""
    return [block for page in PAGES for block in blocks(page) if block.language == language]


def command_lines(source: str) -> list[str]:
    """Return the commands of a bash block, without comments and blanks; a backslash joins a line to the next."""
    joined = re.sub(r"\\\n\s*", "", source)
    return [line.strip() for line in joined.splitlines() if line.strip() and not line.strip().startswith("#")]
