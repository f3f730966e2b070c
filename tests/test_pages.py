"""The code of pages that need scikit-learn runs, and links and pictures of all pages are there."""

import doctest
import inspect
import re
import runpy
from pathlib import Path

import pytest

import branchsig

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


def test_the_page_for_an_index_is_the_readme_of_today_and_its_links_work_anywhere():
    tool = runpy.run_path(str(ROOT / "tools" / "index_page.py"))
    page = tool["PAGE"].read_text(encoding="utf-8")
    assert page == tool["index_page"]((ROOT / "README.md").read_text(encoding="utf-8")), "run tools/index_page.py"
    links = re.findall(r"\]\(([^)]+)\)", page)
    assert links
    assert all(link.startswith("https://") for link in links)


def test_the_page_of_options_has_all_of_them_once_with_their_defaults():
    page = (ROOT / "docs" / "api" / "options.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.+?) \| (.+?) \|", page, re.M)
    found = {name: values for names, values in rows for name in re.findall(r"`(\w+)`", names)}
    assert len(found) == sum(len(re.findall(r"`(\w+)`", names)) for names, _ in rows)
    defaults = {}
    for name in branchsig.__all__:
        function = getattr(branchsig, name)
        if inspect.isfunction(function) and name not in ("as_paths", "pad_paths", "warm_up"):
            for parameter in inspect.signature(function).parameters.values():
                if parameter.default is not parameter.empty:
                    defaults.setdefault(parameter.name, parameter.default)
    assert set(found) == set(defaults)
    shown = {"depth": "required", "static_kernel": "linear", "max_batch": "\N{MINUS SIGN}1"}
    for name, default in defaults.items():
        expected = "none" if default is None else f'"{default}"' if isinstance(default, str) else str(default)
        assert found[name].replace("`", "").startswith(shown.get(name, expected)), name
