"""The code of pages that need scikit-learn runs, and links and pictures of all pages are there."""

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))


def prose(page):
    """A page without its code."""
    return re.sub(r"^```(?:python|sh)\n.*?^```|`[^`\n]+`", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def program(page):
    """The Python blocks of a page as one program, without the outputs that doctests print."""
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    return "\n".join(doctest.script_from_examples(block) if ">>>" in block else block for block in blocks)


def test_the_code_of_the_quickstart_runs():
    pytest.importorskip("sklearn")
    exec(compile(program(ROOT / "docs" / "quickstart.md"), "quickstart.md", "exec"), {"__name__": "page"})


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.stem)
def test_every_picture_of_a_page_exists_and_has_a_text(page):
    text = page.read_text(encoding="utf-8")
    pictures = re.findall(r"!\[(.*?)\]\((.*?)\)", text, re.S)
    pictures += re.findall(r"```\{(?:image|figure)\} (\S+)\n(?::(?!alt).*\n)*:alt: (.+)", text)
    for alternative, target in pictures:
        if target.endswith((".svg", ".png")) or alternative.endswith((".svg", ".png")):
            name, words = (target, alternative) if target.endswith((".svg", ".png")) else (alternative, target)
            assert (page.parent / name).exists()
            assert len(words.split()) >= 5


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.stem)
def test_every_link_to_a_file_leads_to_one(page):
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", prose(page)):
        assert (page.parent / target).exists(), target
