"""For mkdocs: a link to a file of the repository that is no page becomes text with its path, which a site can show."""

import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UPWARDS = re.compile(r"(?<!!)\[([^\]]+)\]\((\.\./[^)#\s]+)[^)]*\)")


def on_page_markdown(markdown: str, page, **_) -> str:
    """A link that leads nowhere is left as it is, so that a strict build ends there."""
    def shown(link: re.Match) -> str:
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.file.src_uri), link[2]))
        outside = not path.startswith("docs/") and (ROOT / path).is_file()
        return f"{link[1]} (`{path}`)" if outside else link[0]
    return UPWARDS.sub(shown, markdown)
