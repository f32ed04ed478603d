"""Builds the pages: ``sphinx-build -W --keep-going docs build/docs``.

Sphinx, since the docstrings are in its markup: Google's sections over reStructuredText, with
`name` for what there is in the code and ``text`` for all else; MyST, so that the pages can be read
on a code host as they are.

Any warning is an error: a link that leads nowhere, a reference in a docstring to what does not
exist, a public name that is not documented.
"""

import importlib
import inspect
import os
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.inspect import stringify_signature

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from diffusion_gym.wrappers import RewardShaping  # noqa: E402

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

project = PROJECT["name"]
author = "The diffusion-gym authors"
project_copyright = author
version = release = PROJECT["version"]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["README.md"]
nitpicky = True
default_role = "py:obj"

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # those of fields have ranges in them; see `readable_signature`
python_use_unqualified_type_names = True
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_class_signature = "mixed"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
python_maximum_signature_line_length = 88
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"{project} {version}"
html_theme_options = {"navigation_with_keys": True}
html_static_path = ["_static"]
html_css_files = ["wide.css"]
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

#: Packages whose public names, ``__all__``, must all be in the reference.
PUBLIC = (
    *("diffusion_gym", "diffusion_gym.emoji64", "diffusion_gym.envs", "diffusion_gym.models"),
    *("diffusion_gym.prompts", "diffusion_gym.rewards", "diffusion_gym.schedules"),
    *("diffusion_gym.wrappers", "agents.common", "agents.evaluation", "agents.nft"),
    *("agents.policy", "agents.ppo", "agents.runs"),
)

#: Where docstrings' names of other libraries' things are looked for.
NEIGHBOURS = (
    *(
        "gymnasium.envs.registration",
        "gymnasium",
        "gymnasium.error",
        "gymnasium.vector",
        "gymnasium.wrappers",
        "diffusers",
    ),
    *(
        "stable_baselines3",
        "stable_baselines3.common.callbacks",
        "stable_baselines3.common.monitor",
    ),
    *("stable_baselines3.common.evaluation", "stable_baselines3.common.vec_env"),
)

logger = logging.getLogger(__name__)


def setup(app: Sphinx) -> None:
    """Adds what is checked and linked beyond Sphinx's own."""
    app.connect("source-read", link_repository_files)
    app.connect("missing-reference", known_by_python)
    app.connect("autodoc-process-docstring", hide_colons, priority=400)  # Napoleon's is 500
    app.connect("autodoc-process-docstring", show_colons, priority=600)
    app.connect("autodoc-skip-member", is_bookkeeping)
    app.connect("autodoc-process-signature", readable_signature)
    app.connect("env-check-consistency", check_public_names)


# --------------------------------------------------- links from pages to files of the repository

INCLUDE = re.compile(r"^```\{include\} (?P<path>\S+)\n```$", re.MULTILINE)
LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<path>[^):#\s]+)(?P<anchor>#[^)\s]*)?\)")


def included() -> dict[Path, str]:
    """Files of the repository that are pages as well, and those pages' names."""
    return {
        (page.parent / include["path"]).resolve(): page.stem
        for page in DOCS.glob("*.md")
        for include in INCLUDE.finditer(page.read_text())
    }


def link_repository_files(app: Sphinx, docname: str, source: list[str]) -> None:
    """Brings along what pages link to and include from outside of ``docs``.

    A file is there for download, unless it is a page as well; of a folder, the path is shown.
    """
    page, pages = DOCS / docname, included()

    def expanded(include: re.Match[str]) -> str:
        file = (page.parent / include["path"]).resolve()
        app.env.note_dependency(str(file))
        return LINK.sub(lambda link: replaced(link, file.parent), file.read_text())

    def replaced(link: re.Match[str], folder: Path) -> str:
        target = (folder / link["path"]).resolve()
        anchor, text = link["anchor"] or "", link["text"]
        path = Path(os.path.relpath(target, page.parent)).as_posix()
        if link["image"] or target.is_relative_to(DOCS) or not target.exists():
            return f"{link['image']}[{text}]({path}{anchor})"  # Sphinx tells of what is not there
        if target in pages:
            return f"[{text}]({pages[target]}.md{anchor})"
        if target.is_dir():
            name = target.relative_to(ROOT).as_posix()
            return f"`{name}`" if text.strip("`") == name else f"{text} (`{name}`)"
        return f"{{download}}`{text.replace('`', '')} <{path}>`"

    own = LINK.sub(lambda link: replaced(link, page.parent), source[0])
    source[0] = INCLUDE.sub(expanded, own)


# -------------------------------------------------------------------- references in docstrings


def known_by_python(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.Element
) -> nodes.Element | None:
    """A reference to what Sphinx does not know by this name: a link, or text where it exists.

    Docstrings name things as they are called in their own modules, which are others than those
    they are public in; and name what other libraries have, whose reference is not at hand here.
    """
    if node.get("refdomain") != "py":
        return None
    objects = env.get_domain("py").objects
    for name, found in meanings(node, objects):
        for full_name in names_of(found, name):
            if full_name in objects:
                entry = objects[full_name]
                uri = app.builder.get_relative_uri(node["refdoc"], entry.docname)
                reference = nodes.reference("", "", internal=True, refuri=f"{uri}#{entry.node_id}")
                reference += content.deepcopy()
                return reference
        return content.deepcopy()
    return None


def meanings(node: addnodes.pending_xref, objects: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What a reference may stand for, by full names, the nearest first."""
    target, home = node["reftarget"], node.get("py:module")
    own = [name for name in sys.modules if home and f"{name}.".startswith(f"{home}.")]
    owner = node.get("py:class")
    homes = [f"{home}.{owner}", *own] if owner else own
    for name in (*(f"{home}.{target}" for home in homes), target):
        found = lookup(name)
        if found is not None:
            yield name, found
    for name in objects:
        if name.endswith(f".{target}"):
            yield name, lookup(name)
    for library in NEIGHBOURS:
        found = lookup(f"{library}.{target}")
        if found is not None:
            yield f"{library}.{target}", found


def lookup(name: str) -> Any:
    """What a dotted name stands for in Python, or None."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except (ImportError, ValueError):
            continue
        for part in parts[length:]:
            if not hasattr(found, part) and part not in getattr(found, "__annotations__", {}):
                return None
            found = getattr(found, part, part)
        return found
    return None


def names_of(found: Any, name: str) -> list[str]:
    """The full names that an object may be documented under: in its module, or above."""
    module, qualified = getattr(found, "__module__", None), getattr(found, "__qualname__", None)
    if not (isinstance(module, str) and isinstance(qualified, str)):
        module, _, qualified = name.rpartition(".")
    parts = module.split(".")
    above = [".".join([*parts[:length], qualified]) for length in range(len(parts), 0, -1)]
    return [name, *above]


# --------------------------------------------------------------------------- what autodoc reads


COLON = "\ue000"


def hide_colons(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Keeps the text below an attribute as it is: to Napoleon, "A: b" is a type and a text."""
    if what in ("attribute", "data", "property"):
        lines[:] = [line.replace(":", COLON) for line in lines]


def show_colons(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Undoes `hide_colons` after Napoleon."""
    lines[:] = [line.replace(COLON, ":") for line in lines]


def is_bookkeeping(
    app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any
) -> bool | None:
    """Leaves out fields of named tuples, which their docstrings have, and what forms know."""
    generated = str(getattr(obj, "__doc__", "")).startswith("Alias for field number")
    return True if generated or name in ("forms", "shaping_name") else None


def readable_signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str
) -> tuple[str, str] | None:
    """Shows functions with their types, and shapings with what they take: ``__new__`` takes any."""
    if what == "class" and issubclass(obj, RewardShaping):
        own = inspect.signature(obj.__init__)
    elif what in ("function", "method") and signature is not None:
        own = inspect.signature(obj)
    else:
        return None
    text = stringify_signature(own, unqualified_typehints=True)
    arguments, _, result = text.partition(") -> ")
    arguments = re.sub(r"^\((self|cls)(, |$|\))", "(", arguments.removesuffix(")"))
    return f"{arguments})", "" if what == "class" else result


# --------------------------------------------------------------------------------- public names


def check_public_names(app: Sphinx, env: BuildEnvironment) -> None:
    """Warns of public names that the reference lacks: without a docstring there is no entry."""
    documented = env.get_domain("py").objects
    for package in PUBLIC:
        module = importlib.import_module(package)
        for name in module.__all__:
            value = getattr(module, name)
            known = names_of(value, f"{package}.{name}")
            inside = (other for other in documented if other.startswith(f"{package}."))
            if (
                not inspect.ismodule(value)
                and not any(other in documented for other in known)
                and not any(other.endswith(f".{name}") for other in inside)
            ):
                logger.warning("%s.%s is public and not in the reference", package, name)
