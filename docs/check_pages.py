"""Opens the built pages in Chromium and looks at them as a reader does.

    python docs/check_pages.py FOLDER

FOLDER is what `sphinx-build -b html docs FOLDER` wrote. Every page must open without an error of a script and without
the network, show its pictures, describe them in words, show no raw formula or role, and have links that lead
somewhere. Code blocks must fit the page. The search must find what readers look for. Needs playwright and the
`chromium` of the system; without Chromium nothing is checked, which the output says.
"""

import functools
import http.server
import shutil
import sys
import threading
from pathlib import Path
from urllib.parse import unquote, urldefrag

SEARCHES = {
    "bandwidth": "choosing",
    "classification": "classif",
    "ragged": "ragged",
    "Ito": "ito_or_stratonovich",
}
"""Words to search for, and a part of the address of a page that must be among the results."""

WIDTH, HEIGHT = 1440, 900

LOOK = r"""() => {
  const text = document.body.cloneNode(true);
  for (const part of text.querySelectorAll("pre, code, script, style, math")) part.remove();
  const raw = [
    /\\[(\[]/, /\$\$/, /\\[a-z]{2,}\b/, /\$[^\s$][^$\n]*\$/,
    /\{(func|class|meth|mod)\}/, /:(func|class|meth|math):/,
  ];
  const visible = text.textContent;
  const faults = [];
  for (const pattern of raw) {
    const found = visible.match(pattern);
    if (found) faults.push(`raw markup: ${visible.slice(Math.max(0, found.index - 20), found.index + 40)}`);
  }
  for (const image of document.images) {
    if (!image.alt.trim()) faults.push(`no words for the picture ${image.src}`);
    if (!image.complete || !image.naturalWidth) faults.push(`no picture at ${image.src}`);
  }
  for (const block of document.querySelectorAll("pre")) {
    if (block.scrollWidth <= block.clientWidth + 1) continue;
    faults.push(`code that is too wide: ${block.innerText.slice(0, 60).replace(/\n/g, " ")}`);
  }
  return {
    faults,
    names: [...document.querySelectorAll("[id], a[name]")].map(part => part.id || part.name),
    links: [...document.querySelectorAll("a[href]")].map(link => link.href),
  };
}"""


SEARCHED = r"""() => {
  const said = document.querySelector("#search-results p.search-summary");
  const number = said && said.innerText.match(/found (\d+|one)|did not match/);
  if (!number) return false;
  const expected = number[1] ? Number(number[1]) || 1 : 0;
  return document.querySelectorAll("#search-results li").length >= expected;
}"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and logs nothing."""

    def log_message(self, *arguments):
        pass


def look_at(browser, root, addresses):
    """What each page has, and the faults found on it."""
    faults, pages = [], {}
    context = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT})
    page, current = context.new_page(), ""

    def complain(what):
        faults.append(f"{current}: {what}")

    def pass_local(route):
        if route.request.url.startswith((root, "data:")):
            route.continue_()
        else:
            complain(f"asks the network for {route.request.url}")
            route.abort()

    page.route("**/*", pass_local)
    page.on("pageerror", lambda error: complain(f"error of a script: {error}"))
    page.on("console", lambda said: complain(f"error: {said.text}") if said.type == "error" else None)
    page.on("response", lambda got: complain(f"status {got.status}: {got.url}") if got.status >= 400 else None)
    for current in addresses:
        page.goto(root + current)
        pages[current] = page.evaluate(LOOK)
        for fault in pages[current]["faults"]:
            complain(fault)
    for word, part in SEARCHES.items():
        current = f"search.html?q={word}"
        page.goto(root + current)
        page.wait_for_function(SEARCHED, timeout=30_000)
        found = page.eval_on_selector_all("#search-results li a", "links => links.map(link => link.href)")
        print(f"search for {word}: {len(found)} pages")
        if not any(part in link for link in found):
            complain(f"the search does not find a page with {part} in its address, but {found[:5]}")
    context.close()
    return faults, pages


def broken_links(root, pages, folder):
    """Links within the pages that lead nowhere."""
    for address, page in pages.items():
        for link in sorted(set(page["links"])):
            if not link.startswith(root):
                continue
            target, anchor = urldefrag(link.removeprefix(root))
            target = unquote(target).partition("?")[0] or "index.html"
            if not (folder / target).is_file():
                yield f"{address}: no page at {link}"
            elif anchor and target in pages and unquote(anchor) not in pages[target]["names"]:
                yield f"{address}: no place {anchor} on {target}"


def main(folder):
    """Check all pages of a folder; the exit status."""
    program = shutil.which("chromium")
    if program is None:
        print("SKIPPED: no chromium on this machine, so that the pages were not opened")
        return 0
    from playwright.sync_api import sync_playwright

    addresses = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.html"))
    addresses = [address for address in addresses if not address.startswith("_static/")]  # parts of the theme
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    root = f"http://127.0.0.1:{server.server_port}/"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        faults, pages = look_at(browser, root, addresses)
        browser.close()
    server.shutdown()
    faults += broken_links(root, pages, folder)
    print("\n".join([*faults, f"{len(pages)} pages, {len(faults)} faults"]))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
