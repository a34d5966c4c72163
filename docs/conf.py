"""The documentation site: ``make docs`` builds it; a warning is an error there."""

import importlib.metadata
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import generated

project = "ltdd"
release = importlib.metadata.version("ltdd")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
smartquotes = False  # --seed is --seed
html_theme = "furo"
html_title = f"ltdd {release}"
exclude_patterns = ["_build", "_generated"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
default_role = "code"


def setup(app: object) -> None:
    """Write the pages that are generated before anything is read."""
    generated.write_pages(Path(__file__).parent / "_generated")
