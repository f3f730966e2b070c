"""Write README.md for a package index, to tools/index_page.md.

An index has neither the files and pictures of the repository nor places in the page that a link could lead to. Such
links become their text; such pictures, and comments for tools, are left out.
"""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "tools" / "index_page.md"


def index_page(readme: str) -> str:
    """The text of README.md without comments, pictures, and links that lead into the repository."""
    text = re.sub(r"<!--.*?-->\n", "", readme, flags=re.DOTALL)
    text = re.sub(r"!\[[^\]]*\]\((?!https://)[^)]*\)\n+", "", text)
    return re.sub(r"\[([^\]]*)\]\((?!https://)[^)]*\)", r"\1", text)


if __name__ == "__main__":
    PAGE.write_text(index_page((ROOT / "README.md").read_text(encoding="utf-8")), encoding="utf-8")
