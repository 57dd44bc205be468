"""The documentation as a site: it is built without a warning, and what is built asks no other host for anything."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FETCHES = {"link", "script", "img", "source", "iframe", "embed", "object", "video", "audio", "use", "image", "input"}
ELSEWHERE = re.compile(r"^\s*(https?:)?//", re.IGNORECASE)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Links to pages, files and headings that are not there, and pages that the navigation leaves out, are warnings; so
    each of them ends the build."""
    for needed in ("mkdocs", "material"):
        pytest.importorskip(needed, reason="mkdocs-material is not installed: pip install '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(ROOT / "mkdocs.yml"),
                           "-d", str(folder)], capture_output=True, text=True, cwd=ROOT,
                          env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Fetched(HTMLParser):
    """What a browser fetches by itself to show a page, and what the theme's script would fetch for it."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag in FETCHES and given.get("rel") != "canonical":
            self.addresses += [given[name] for name in ("src", "href", "xlink:href", "data", "poster") if name in given]
            self.addresses += [part.split()[0] for part in given.get("srcset", "").split(",") if part.strip()]
        if "mermaid" in given.get("class", "").split() or given.get("data-md-component") == "source":
            self.addresses.append(f"https://{tag} that the theme's script completes from another host")


def fetched(page: str) -> list[str]:
    parser = Fetched()
    parser.feed(page)
    styles = " ".join(re.findall(r"<style[^>]*>(.*?)</style>", page, re.DOTALL))
    return parser.addresses + urls(styles)


def urls(styles: str) -> list[str]:
    return re.findall(r"(?:url\(|@import)\s*[\"']?([^\"')\s;]+)", styles)


@pytest.mark.parametrize("given", ['<script src="//cdn/x.js"></script>', '<img srcset="a.png 1x, https://x/b.png 2x">',
                                   '<style>@import "https://fonts/x.css"</style>', '<pre class="mermaid"></pre>'])
def test_what_is_fetched_from_elsewhere_is_seen(given):
    assert any(ELSEWHERE.match(address) for address in fetched(given))


def test_no_built_page_asks_another_host(site):
    """Kind: a page that looks right only where there is a network, and tells others who reads it."""
    pages, styles = sorted(site.rglob("*.html")), sorted(site.rglob("*.css"))
    assert len(pages) > 30 and styles
    asked = {str(p.relative_to(site)): [a for a in fetched(p.read_text()) if ELSEWHERE.match(a)] for p in pages}
    asked |= {str(p.relative_to(site)): [a for a in urls(p.read_text()) if ELSEWHERE.match(a)] for p in styles}
    assert {name: addresses for name, addresses in asked.items() if addresses} == {}


def test_every_page_of_the_folder_is_in_the_site(site):
    pages = [p.relative_to(ROOT / "docs").with_suffix(".html") for p in (ROOT / "docs").rglob("*.md")]
    built = [site / p.with_name("index.html") if p.stem == "README" else site / p for p in pages]
    assert [str(p) for p in built if not p.is_file()] == []


def test_figures_are_small_and_each_is_shown():
    """Kind: figures that nobody sees, or that make the package heavy. Those of the studies are older and larger."""
    figures = sorted((ROOT / "docs").rglob("*.png"))
    text = "".join(p.read_text() for p in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")))
    assert [f.name for f in figures if f"{f.parent.name}/{f.name})" not in text] == []
    studies = ROOT / "docs" / "explanation" / "figures"
    assert {f.name: f.stat().st_size for f in figures if f.parent != studies and f.stat().st_size > 120_000} == {}


def test_links_of_the_readme_lead_somewhere():
    """The README is no page of the site, so its links are looked at here."""
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)(?:#[^)]*)?\)", (ROOT / "README.md").read_text())
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []
