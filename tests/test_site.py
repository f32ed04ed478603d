"""What is strict about the build of the pages: the real one, of a page with every mistake."""

import io
from pathlib import Path

import pytest
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

DOCS = Path(__file__).parents[1] / "docs"

PAGE = """# Mistakes

[no page](nowhere.md), [no file](../agents/nothing.py), [no heading](#nothing), but
[a file](../agents/files.py), [a folder](../agents) and [another page](#mistakes).

```{eval-rst}
:py:obj:`diffusion_gym.errors.NothingError`, but :py:obj:`diffusion_gym.errors.ModelLoadError`,
:py:obj:`gymnasium.Env` and :py:obj:`EvalCallback`

.. automodule:: diffusion_gym.errors
```
"""


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Warnings, and the page as HTML."""
    folder, warnings = tmp_path_factory.mktemp("site"), io.StringIO()
    (folder / "source").mkdir()
    (folder / "agents").symlink_to(DOCS.parent / "agents")
    (folder / "source" / "index.md").write_text(PAGE)
    with patch_docutils(), docutils_namespace():
        Sphinx(
            folder / "source",
            DOCS,
            folder / "html",
            folder / "trees",
            "html",
            confoverrides={"html_static_path": []},
            status=None,
            warning=warnings,
        ).build()
    return warnings.getvalue(), (folder / "html" / "index.html").read_text()


@pytest.mark.slow
def test_what_leads_nowhere_is_told(build):
    warnings, _ = build
    for target in ("nowhere.md", "../agents/nothing.py", "nothing", "NothingError"):
        assert target in warnings
    for target in ("files.py", "mistakes'", "ModelLoadError", "gymnasium", "EvalCallback"):
        assert target not in warnings


@pytest.mark.slow
def test_public_names_without_an_entry_are_told(build):
    warnings, _ = build
    assert "diffusion_gym.finished_episodes is public and not in the reference" in warnings
    assert "agents.ppo.DiffusionPPO is public and not in the reference" in warnings
    assert "diffusion_gym.InvalidInputError is public" not in warnings


@pytest.mark.slow
def test_links_to_the_repository(build):
    _, html = build
    assert "_downloads/" in html  # agents/files.py
    assert "files.py" in html
    assert 'href="#diffusion_gym.errors.ModelLoadError"' in html
