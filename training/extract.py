"""Text of Python packages: functions with docstrings, documentation files, and the licence that allows their use."""

import ast
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

COMPLETE = "Complete this Python function.\n"

# Characters of a prompt (signature and docstring) and of a body; outside, a pair teaches little.
PROMPT_CHARS = (40, 2000)
BODY_CHARS = (20, 4000)

# Documentation files are cut at headings into parts of about this many characters.
PART_CHARS = 12_000

SKIPPED_FOLDERS = {
    "test",
    "tests",
    "testing",
    "idlelib",
    "lib2to3",
    "vendor",
    "_vendor",
    "site-packages",
    "dist-packages",
}

# What licence texts and classifiers say, in the order tried, and their SPDX names.
LICENCE_PHRASES = (
    (r"\bA?L?GPL|GNU (Lesser |Affero )?General Public", "GPL"),
    (r"Mozilla Public|\bMPL\b", "MPL-2.0"),
    (r"MIT-0", "MIT-0"),
    (r"Apache", "Apache-2.0"),
    (r"\bISC\b|Permission to use, copy, modify, and/or distribute this software for any purpose", "ISC"),
    (r"\bMIT\b|Expat|Permission is hereby granted, free of charge", "MIT"),
    (r"BSD-2-Clause|BSD 2-Clause", "BSD-2-Clause"),
    (r"0BSD", "0BSD"),
    (r"\bBSD\b|Redistribution and use in source and binary forms", "BSD-3-Clause"),
    (r"\bPSF\b|Python Software Foundation|Python-2\.0", "PSF-2.0"),
    (r"\bHPND\b|Historical Permission", "HPND"),
    (r"Unlicense", "Unlicense"),
    (r"CC0", "CC0-1.0"),
    (r"\bzlib\b", "Zlib"),
    (r"Boost|BSL-1\.0", "BSL-1.0"),
)


@dataclass(frozen=True)
class Package:
    """An unpacked package: its files and the licences it names, as SPDX names or "unknown"."""

    name: str
    licences: frozenset[str]
    files: tuple[Path, ...]

    def is_allowed(self, allowed: frozenset[str]) -> bool:
        return bool(self.licences) and self.licences <= allowed


@dataclass(frozen=True)
class Completion:
    """A function split after its docstring."""

    prompt: str
    body: str


def functions(source: str) -> Iterator[Completion]:
    """Functions and methods with a docstring, in file order; decorators are left out, indentation is removed."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return
    lines = source.splitlines()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node) and len(node.body) > 1:
            completion = split_function(node, lines)
            if completion is not None:
                yield completion


def split_function(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> Completion | None:
    """Signature with docstring, and the rest; None if too short, too long, or written on shared lines."""
    docstring = node.body[0]
    if node.body[1].lineno <= docstring.end_lineno:
        return None
    whole = textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno]))
    head_lines = docstring.end_lineno - node.lineno + 1
    rows = whole.splitlines()
    head, body = "\n".join(rows[:head_lines]), "\n".join(rows[head_lines:]).rstrip()
    prompt = COMPLETE + head
    fits = PROMPT_CHARS[0] <= len(prompt) <= PROMPT_CHARS[1] and BODY_CHARS[0] <= len(body) <= BODY_CHARS[1]
    return Completion(prompt, body) if fits else None


def parts(text: str) -> Iterator[str]:
    """A documentation file as parts of at most about PART_CHARS, cut at blank lines."""
    part: list[str] = []
    size = 0
    for paragraph in re.split(r"\n\s*\n", text.replace("\r\n", "\n").strip("\n")):
        if part and size + len(paragraph) > PART_CHARS:
            yield "\n\n".join(part)
            part, size = [], 0
        part.append(paragraph)
        size += len(paragraph)
    if part:
        yield "\n\n".join(part)


def files_under(root: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Files with one of the suffixes, sorted, without tests and copies of other packages."""
    found = []
    for path in root.rglob("*"):
        inside = path.relative_to(root).parts[:-1]
        if path.suffix in suffixes and not SKIPPED_FOLDERS & set(inside) and path.is_file():
            found.append(path)
    return sorted(found)


def packages(root: Path) -> Iterator[Package]:
    """The packages of a folder.

    Two layouts: what `pip install --target` leaves (one *.dist-info per package, files listed in RECORD), or one
    unpacked source archive per child folder, of PyPI (PKG-INFO) or Debian (debian/copyright).
    """
    infos = sorted(root.glob("*.dist-info"))
    for info in infos:
        rows = (info / "RECORD").read_text(encoding="utf-8").splitlines() if (info / "RECORD").exists() else []
        listed = (root / row.rsplit(",", 2)[0] for row in rows)
        kept = (path for path in listed if not SKIPPED_FOLDERS & set(path.relative_to(root).parts))
        yield Package(info.name.split("-")[0], licences(info), tuple(sorted(path for path in kept if path.is_file())))
    if not infos:
        for child in sorted(path for path in root.iterdir() if path.is_dir()):
            yield Package(child.name, licences(child), tuple(files_under(child, (".py", ".rst", ".md"))))


def licences(folder: Path) -> frozenset[str]:
    """Licences a package names: its metadata first, then its Debian copyright file, then its licence files."""
    for name in ("METADATA", "PKG-INFO"):
        if (folder / name).exists():
            found = metadata_licences((folder / name).read_text(encoding="utf-8", errors="replace"))
            if found - {"unknown"}:
                return found
    for name in ("debian/copyright", "copyright"):
        if (folder / name).exists():
            return copyright_licences((folder / name).read_text(encoding="utf-8", errors="replace"))
    texts = sorted(
        path for path in folder.iterdir() if re.match(r"(?i)(licen[cs]e|copying)", path.name) and path.is_file()
    )
    return frozenset(spdx(path.read_text(encoding="utf-8", errors="replace")[:4000]) for path in texts)


def metadata_licences(text: str) -> frozenset[str]:
    """From the header of a METADATA file: the SPDX expression, else the classifiers, else the free field."""
    header = HeaderParser().parsestr(text)
    if expression := header.get("License-Expression"):
        # An exception behind WITH only adds permissions.
        names = re.split(r"\s+(?:AND|OR)\s+", re.sub(r"\s+WITH\s+[\w.-]+", "", expression))
        return frozenset(name.strip("() ") for name in names)
    classifiers = [line for line in header.get_all("Classifier", []) if line.startswith("License ::")]
    named = [line for line in classifiers if line != "License :: OSI Approved"]
    fields = named or [header.get("License", "")]
    return frozenset(spdx(field) for field in fields if field.strip())


def copyright_licences(text: str) -> frozenset[str]:
    """From a machine-readable Debian copyright file; the stanza of the packaging itself is not the package's text."""
    found = set()
    for stanza in re.split(r"\n\s*\n", text):
        files = re.search(r"^Files:\s*(.+)$", stanza, re.MULTILINE)
        licence = re.search(r"^License:\s*(.+)$", stanza, re.MULTILINE)
        if files and licence and not files[1].startswith("debian/"):
            found.update(spdx(name) for name in re.split(r"\s+(?:and|or)\s+|,", licence[1]) if name.strip())
    return frozenset(found or {"unknown"})


def spdx(text: str) -> str:
    """The SPDX name a phrase or a licence text stands for; "unknown" if none is recognised."""
    for pattern, name in LICENCE_PHRASES:
        if re.search(pattern, text, re.IGNORECASE if len(text) < 200 else 0):
            return name
    return "unknown"
