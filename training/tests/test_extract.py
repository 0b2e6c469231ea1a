"""Functions, licences and packages."""

from pathlib import Path

import pytest

import extract
from corpus import domain_of, read_sources

SOURCE = '''
import os

class Box:
    @property
    def volume(self):
        """Return the volume of the box in litres."""
        # Sides are in decimetres.
        return self.a * self.b * self.c

def undocumented(x):
    return x + 1 if x > 0 else x - 1

def only_docstring():
    """This function is documented at length and does nothing."""

async def wait(seconds,
               clock=None):
    """Wait for a while.

    seconds: how long.
    """
    await clock.sleep(seconds)
'''


def test_functions_are_cut_after_the_docstring_and_lose_their_indentation() -> None:
    found = list(extract.functions(SOURCE))
    assert [f.prompt for f in found] == [
        "Complete this Python function.\nasync def wait(seconds,\n               clock=None):\n"
        '    """Wait for a while.\n\n    seconds: how long.\n    """',
        'Complete this Python function.\ndef volume(self):\n    """Return the volume of the box in litres."""',
    ]
    assert found[1].body == "    # Sides are in decimetres.\n    return self.a * self.b * self.c"


def test_files_that_do_not_parse_yield_nothing() -> None:
    assert list(extract.functions("print 'python 2'")) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("License-Expression: MIT AND Apache-2.0\n", {"MIT", "Apache-2.0"}),
        ("License-Expression: (Apache-2.0 WITH LLVM-exception) OR ISC\n", {"Apache-2.0", "ISC"}),
        ("Classifier: License :: OSI Approved :: MIT License\nLicense: whatever\n", {"MIT"}),
        ("Classifier: License :: OSI Approved\nLicense: BSD\n", {"BSD-3-Clause"}),
        ("License: GPL v3 or later\n", {"GPL"}),
        ("License: UNKNOWN\n", {"unknown"}),
        ("Name: nothing\n", set()),
    ],
)
def test_metadata_names_licences(text: str, expected: set[str]) -> None:
    assert extract.metadata_licences(text) == expected


def test_the_packaging_stanza_of_a_copyright_file_is_ignored() -> None:
    text = "Format: x\n\nFiles: *\nLicense: Expat\n\nFiles: debian/*\nLicense: GPL-3+\n\nLicense: Expat\n text"
    assert extract.copyright_licences(text) == {"MIT"}
    assert extract.copyright_licences("prose") == {"unknown"}


def unpack(root: Path, name: str, licence: str) -> None:
    (root / name / "src" / "tests").mkdir(parents=True)
    (root / name / "PKG-INFO").write_text(f"License: {licence}\n", encoding="utf-8")
    for path in ("src/code.py", "src/tests/code.py", "guide.rst"):
        (root / name / path).write_text(SOURCE, encoding="utf-8")


def test_only_packages_whose_every_licence_is_allowed_are_read(tmp_path: Path) -> None:
    for name, licence in (("free", "MIT"), ("copyleft", "LGPL-2.1"), ("silent", "")):
        unpack(tmp_path, name, licence)
    allowed = read_sources(Path(extract.__file__).with_name("sources.toml"))["packages"].allowed
    found = {package.name: package for package in extract.packages(tmp_path)}
    assert [name for name, package in found.items() if package.is_allowed(allowed)] == ["free"]
    assert [path.name for path in found["free"].files] == ["guide.rst", "code.py"]


def test_installed_packages_are_found_by_their_record(tmp_path: Path) -> None:
    info = tmp_path / "thing-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("License-Expression: ISC\n", encoding="utf-8")
    (info / "RECORD").write_text("thing/a.py,sha256=x,3\nthing/tests/b.py,,\n../bin/thing,,\n", encoding="utf-8")
    (tmp_path / "thing" / "tests").mkdir(parents=True)
    (tmp_path / "thing" / "a.py").touch()
    (tmp_path / "thing" / "tests" / "b.py").touch()
    (package,) = extract.packages(tmp_path)
    assert (package.name, package.licences) == ("thing", {"ISC"})
    assert [path.name for path in package.files] == ["a.py"]


def test_long_documents_are_cut_at_blank_lines() -> None:
    paragraph = "x" * (extract.PART_CHARS // 2)
    assert list(extract.parts("\n\n".join([paragraph] * 3))) == [paragraph + "\n\n" + paragraph, paragraph]


@pytest.mark.parametrize(
    ("prompt", "response", "expected"),
    [
        ("Write a loop.", "for i in x:\n    print(i)\n```", "code"),
        ("Reverse a string.", "def reverse(s):\n    return s[::-1]", "code"),
        ("Hello", "I import wine from France and return soon.", "chat"),
    ],
)
def test_program_text_makes_a_pair_code(prompt: str, response: str, expected: str) -> None:
    assert domain_of(prompt, response) == expected
