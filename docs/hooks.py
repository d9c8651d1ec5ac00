"""What mkdocs needs so that one set of links works on GitHub and in the site.

Pages link to files of the repository by relative paths, as GitHub wants it. The site also gets the pictures and the
pages of `recipes/` and `examples/`; a link to any other file becomes its address on GitHub.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
GUESTS = ("recipes/**/*.md", "recipes/**/*.png", "examples/*.md", "examples/*.png")
LINK = re.compile(r"(\]\()([^)\s]+)(\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages and pictures that live beside `docs/`, under their own paths."""
    for pattern in GUESTS:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links that are relative to the repository into links that are relative to the site."""
    here = page.file.src_uri
    folder = posixpath.dirname(here if here.startswith(("recipes/", "examples/")) else f"docs/{here}")

    def moved(link: re.Match[str]) -> str:
        path, hash_, anchor = link[2].partition("#")
        if not path or "://" in path or path.startswith("mailto:"):
            return link[0]
        target = posixpath.normpath(posixpath.join(folder, path))
        uri = target.removeprefix("docs/")
        if not (ROOT / target).exists():
            return link[0]  # mkdocs says where it is broken
        if files.get_file_from_path(uri) is None:
            kind = "tree" if (ROOT / target).is_dir() else "blob"
            return f"{link[1]}{config.repo_url}/{kind}/main/{target}{hash_}{anchor}{link[3]}"
        return f"{link[1]}{posixpath.relpath(uri, posixpath.dirname(here))}{hash_}{anchor}{link[3]}"

    return LINK.sub(moved, markdown)
