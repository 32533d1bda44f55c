"""What the demo plays with: a small project, and the scripts of its agents."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

from groove_trio.words.agents import AgentSpec

FILES = {
    "README.md": "# A small project\n",
    "CHANGELOG.md": "# Changes\n",
    "src/api/server.py": "routes = {}\n",
    "src/ui/page.html": "<p>Hello</p>\n",
    "docs/index.md": "# Manual\n",
    "build/notes.txt": "Made by the build.\n",
}

Steps = list[dict[str, object]]

API_STEPS: Steps = [
    {"do": "await", "path": "cues/api", "seconds": 60},
    {"do": "write", "path": "src/api/users.py", "text": "def users(): ...\n"},
    {"do": "append", "path": "src/api/server.py", "text": "routes['users'] = 1\n"},
    {"do": "write", "path": "src/ui/page.html", "text": "overwritten by api\n"},
    {"do": "write", "path": "../escaped.txt", "text": "out of the project\n"},
    {"do": "write", "path": ".git/hooks/post-commit", "text": "#!/bin/sh\n"},
    {"do": "read"},
    {"do": "declare", "paths": ["CHANGELOG.md"], "ttlS": 60, "reason": "users route"},
    {"do": "append", "path": "CHANGELOG.md", "text": "- users route\n"},
    {"do": "read"},
    {"do": "complete"},
    {"do": "read"},
]
UI_STEPS: Steps = [
    {"do": "await", "path": "cues/ui", "seconds": 60},
    {"do": "crash", "code": 7, "first": 2},
    {"do": "write", "path": "src/ui/form.html", "text": "<form></form>\n"},
    {"do": "read"},
    {"do": "declare", "paths": ["CHANGELOG.md"], "ttlS": 60},
    {"do": "read"},
    {"do": "declare", "paths": ["CHANGELOG.md"], "ttlS": 60},
    {"do": "read"},
]
DOCS_STEPS: Steps = [
    {"do": "await", "path": "cues/docs", "seconds": 60},
    {"do": "write", "path": "docs/users.md", "text": "# Users\n"},
    {"do": "ignore-sigterm"},
    {"do": "grandchild", "seconds": 3600},
    {"do": "sleep", "seconds": 3600},
]


def make_project(root: Path) -> Path:
    """A small git project; the user's own git settings play no part."""
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    if git := shutil.which("git"):
        quiet = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        subprocess.run([git, "init", "--quiet", str(root)], env=quiet, check=True)
    return root


def spec(name: str, scope: list[str], steps: Steps, **more: object) -> AgentSpec:
    """A scripted agent."""
    return AgentSpec(
        role="demo",
        name=name,
        provider="demo",
        scope=scope,
        prompt=json.dumps(steps),
        interactive=True,
        **more,  # type: ignore[arg-type]
    )


def cue(project: Path, name: str) -> None:
    """Lets an agent begin: its script waits for a file of its name."""
    (project / "cues").mkdir(exist_ok=True)
    (project / "cues" / name).touch()
