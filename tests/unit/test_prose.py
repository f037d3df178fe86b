"""The words of code and documentation: plain English, the glossary's terms, and names that exist."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ARCHITECTURE = ROOT / "docs" / "architecture.md"
GLOSSARY_SIZE = 25

#: What not to write, and what to write instead.
BANNED = {
    r"so many": "give the number, or 'this many'",
    r"of (?:ours|theirs)": "name the owner: 'this package's', 'their own'",
    r"who(?:so)?ever": "name the person or thing, or drop the clause",
    r"whatever": "'any', 'each', or drop the clause",
    r"nobody(?:'s)?": "'no consumer', 'no worker': name who does not",
    r"somebody(?:'s)?": "name who does: 'a user', 'another process'",
    r"is looked": "use the active voice: 'the engine checks'",
    r"any ?more": "'no longer', or the present state",
    r"for ever": "'without end', or the limit that is missing",
    r"(?:what|that) is to be": "use a verb: 'the messages to delete'",
    r"owed": "'pending'",
    r"leases?": "'visibility timeout'",
    r"keepers?": "'visibility extender' or 'acknowledger'",
    r"bur(?:y|ies|ied)": "'make a dead letter'",
    r"lanes?": "'message group'",
    r"doubts": "'warnings'",
    r"fates?": "'outcome'",
    r"illness": "'problem'; a good state is 'healthy'",
    r"as [`:][^,.;]*`,? but": "say what the function does",
}

#: Strings of the package that are names on the wire, in statuses or in Celery.
NAMES = {"owed", "bury", "balog_celery.bury"}

DOCUMENTS = [
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")),
    ROOT / "deploy" / "README.md",
]
SOURCES = [
    *sorted((ROOT / "balog_celery").rglob("*.py")),
    *sorted((ROOT / "benchmarks").glob("*.py")),
    *sorted((ROOT / "benchmarks" / "peers").glob("*.py")),
]


def texts_of_source(source: str) -> Iterator[tuple[int, str]]:
    """Yield the comments, docstrings and other strings of Python code, each with its line."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value not in NAMES:
            yield node.lineno, node.value


def texts_of_document(text: str) -> Iterator[tuple[int, str]]:
    """Yield the paragraphs of Markdown without its inline code, each with its line."""
    line = 1
    for paragraph in text.split("\n\n"):
        yield line, re.sub(r"`[^`\n]+`", "``", paragraph)
        line += paragraph.count("\n") + 2


def found_in(texts: Iterator[tuple[int, str]]) -> list[str]:
    """Return each banned expression with its line and what to write instead."""
    return [
        f"line {line}: {found[0]!r}: write {advice}"
        for line, text in texts
        for pattern, advice in BANNED.items()
        for found in re.finditer(rf"\b{pattern}\b", " ".join(text.split()), re.IGNORECASE)
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_code_is_in_plain_english(path: Path) -> None:
    """Comments, docstrings, log lines, errors and help use no banned expression."""
    assert found_in(texts_of_source(path.read_text())) == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_are_in_plain_english(path: Path) -> None:
    """README, CHANGELOG and the pages use no banned expression."""
    assert found_in(texts_of_document(path.read_text())) == []


@pytest.mark.parametrize(
    "text",
    [
        "With so many\ndeletes pending.",
        "Extend its lease.",
        "As `refuse`, but later.",
        "As :meth:`refuse`, but later.",
        "There is no thread any more.",
        "It is looked whether a worker serves it.",
    ],
)
def test_a_banned_expression_is_found(text: str) -> None:
    """An expression is found in a comment, a docstring and a paragraph, also across a line break."""
    assert len(found_in(texts_of_source(f'"""{text}"""'))) == 1
    assert len(found_in(texts_of_source(f"# {' '.join(text.split())}"))) == 1
    assert found_in(texts_of_document(f"Title\n\n{text}"))[0].startswith("line 3: ") or "`" in text


def section(title: str) -> str:
    """Return the section of the page on the architecture."""
    return ARCHITECTURE.read_text().split(f"## {title}\n")[1].split("\n## ")[0]


def test_the_glossary_is_short_and_used() -> None:
    """The glossary has at most 25 words, each once, and other documents or other entries use each of them."""
    rows = re.findall(r"^\| (\w[\w -]*) \| (.+) \|$", section("Glossary"), re.MULTILINE)[1:]
    words = [word for word, _ in rows]
    assert 0 < len(words) <= GLOSSARY_SIZE
    assert len(set(words)) == len(words)
    prose = "\n".join(path.read_text() for path in DOCUMENTS if path != ARCHITECTURE).lower()
    prose += ARCHITECTURE.read_text().replace(section("Glossary"), "").lower()
    assert [word for word in words if word.replace("-", " ") not in " ".join(prose.replace("-", " ").split())] == []


def test_the_architecture_names_what_exists() -> None:
    """Every path on the page exists, and every name that follows a path is defined in one of the row's files."""
    text = re.sub(r"^ {4}.*$", "", ARCHITECTURE.read_text(), flags=re.MULTILINE)
    missing = []
    for line in re.split(r"\n(?=[-|#])|\n\n", text):
        named = re.findall(r"`([\w./]+)`", line)
        paths = [name for name in named if name.endswith((".py", ".md", "/"))]
        places = [place for name in paths for place in (ROOT / "balog_celery" / name, ROOT / name) if place.exists()]
        missing += [name for name in paths if not any(str(place).endswith(name.rstrip("/")) for place in places)]
        code = "\n".join(place.read_text() for place in places if place.suffix == ".py")
        missing += [
            name
            for name in named
            if name not in paths and code and not all(defined(part, code) for part in name.split("."))
        ]
    assert missing == []


def defined(name: str, code: str) -> bool:
    """Return whether *code* defines *name* as a class, a function, a constant or a member."""
    return re.search(rf"\b(?:class|def) {name}\b|^ *{name}\b.* = ", code, re.MULTILINE) is not None
