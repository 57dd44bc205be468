"""Pages as tests look at them: parsed, and in a browser, where Chromium is at hand."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

CHROMIUM = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
NEEDS_CHROMIUM = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--host-resolver-rules=MAP * ~NOTFOUND")
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
#: What a page tells of itself: what axe-core finds, whether it is wider than the window, and its scheme.
ASKED = """
<script>%s</script><script>
addEventListener("load", () => axe.run(document, {resultTypes: ["violations"]}).then(found => {
  const told = {
    violations: found.violations.map(v => [v.id, v.nodes.map(n => n.html.slice(0, 200))]),
    incomplete: found.incomplete.map(v => v.id), passes: found.passes.length,
    panels: [...document.querySelectorAll(".panels")].map(p => ({
      columns: new Set([...p.children].map(c => c.offsetLeft)).size, width: p.firstElementChild.offsetWidth,
      scrolls: p.scrollWidth > p.clientWidth})),
    width: innerWidth, content: document.scrollingElement.scrollWidth,
    dark: matchMedia("(prefers-color-scheme: dark)").matches};
  parent.postMessage(JSON.stringify(told), "*");
}));
</script></body>"""
FRAME = """<!DOCTYPE html><title>frame</title><body style="margin:0">
<iframe src="%s" style="border:0;width:%dpx;height:900px"></iframe><pre></pre>
<script>addEventListener("message", e => document.querySelector("pre").textContent = e.data)</script>
"""


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, source: str):
        super().__init__()
        self.source = source
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data if "style" not in self.open else ""

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def require_whole(page: Page) -> None:
    """Every tag closed, every id once, every link to a place in the page, one heading above all."""
    assert page.open == []
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"] for a in page.all("a")} <= {f"#{i}" for i in ids} and page.all("a")
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == 1


def require_alone(page: Page) -> None:
    """Nothing is loaded from anywhere, and nothing runs."""
    assert not page.all("script") and not re.search(r"https?://|@import|url\(", page.source)
    assert not [a for _, a in page.tags for name in a if name.startswith("on")]
    assert all(a["src"].startswith("data:image/png;base64,") for a in page.all("img"))
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def page_of(folder: Path | str) -> Page:
    """The page in a model folder, which has to be whole and alone."""
    page = Page((Path(folder) / "report.html").read_text(encoding="utf-8"))
    require_whole(page)
    require_alone(page)
    return page


def pictured(page: Page) -> list[str]:
    """What is seen of each case, in words."""
    return [a["aria-label"] for a in page.all("div") if a.get("class") == "panels"]


def dump(page: Path, folder: Path, *flags: str) -> subprocess.CompletedProcess:
    """The page as Chromium has it in the end."""
    done = subprocess.run([CHROMIUM, *QUIET, f"--user-data-dir={folder / 'profile'}", *flags, "--dump-dom",
                           page.as_uri()], capture_output=True, text=True, timeout=180)
    assert "</html>" in done.stdout, done.stderr[-2000:]
    return done


@functools.cache
def axe() -> str:
    """Source of axe-core, which checks accessibility; from the path `AXE_CORE`, or by npm. Skips where neither is."""
    if path := os.environ.get("AXE_CORE"):
        return Path(path).read_text()
    if not shutil.which("npm"):
        pytest.skip("needs axe-core: set AXE_CORE to its axe.min.js, or install npm")
    import tarfile
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(["npm", "pack", "--silent", "--fetch-retries=0", "--fetch-timeout=20000", "axe-core@4"],
                           cwd=folder, capture_output=True, timeout=60)
        packed = next(Path(folder).glob("*.tgz"), None)
        if packed is None:
            pytest.skip("needs axe-core: npm cannot fetch it; set AXE_CORE to its axe.min.js")
        with tarfile.open(packed) as archive:
            return archive.extractfile("package/axe.min.js").read().decode()


def ask(source: str, folder: Path, width: int, dark: bool) -> dict:
    """See ASKED; in a frame, because a window of Chromium cannot be as narrow as a phone."""
    assert source.count("</body>") == 1
    page, frame = folder / "asked.html", folder / "frame.html"
    page.write_text(POLICY.sub("", source).replace("<details>", "<details open>")
                    .replace("</body>", ASKED.replace("%s", axe().replace("</body>", "")), 1))
    frame.write_text(FRAME % (page.name, width))
    told = dump(frame, folder, f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--window-size=1400,1000",
                "--virtual-time-budget=60000").stdout
    return json.loads(unescape(re.search(r"<pre>(.*)</pre>", told, re.DOTALL)[1]))
