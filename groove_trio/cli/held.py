"""The demo's chapter on what holds an agent's programs, whatever they do and however they hide."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any, NamedTuple

from groove_trio.cli.props import FILES, Steps, cue, spec
from groove_trio.cli.story import Story
from groove_trio.cli.watch import Watch
from groove_trio.client import Client
from groove_trio.words.agents import AgentView, Containment
from groove_trio.words.base import AgentId

SHELL = "sh"
"""The demo's agent runs one, because agents do; nothing of ours goes through it."""

LINE = "built by a shell"
MAX_COMMAND = 15  # bytes of a program's name that the kernel keeps, TASK_COMM_LEN


class Attempt(NamedTuple):
    """Something that a program tries out of its scope: how it is told, the line, the target."""

    what: str
    program: str
    command: str
    path: str


REDIRECT = Attempt("a shell's redirect", SHELL, f"(echo {LINE} >> README.md)", "README.md")
ATTEMPTS = (
    REDIRECT,
    Attempt(
        "a python one-liner",
        Path(sys.executable).name[:MAX_COMMAND],
        shlex.join([sys.executable, "-I", "-S", "-c", "open('docs/index.md', 'w').write('gone')"]),
        "docs/index.md",
    ),
    Attempt("an mv", "mv", "mv -f build/page.html src/ui/page.html", "src/ui/page.html"),
)


def shell(command: str) -> dict[str, object]:
    """The step that has a shell run a command in a process of its own."""
    return {"do": "run", "argv": [SHELL, "-c", f"{command}; exit $?"]}


STEPS: Steps = [
    {"do": "await", "path": "cues/build", "seconds": 60},
    shell("(echo a page > build/page.html)"),
    *(shell(each.command) for each in ATTEMPTS),
]
LEASE_STEPS: Steps = [
    {"do": "read"},
    {"do": "declare", "paths": [REDIRECT.path], "ttlS": 60, "reason": "note the build"},
    shell(REDIRECT.command),
    {"do": "complete"},
    shell(REDIRECT.command),
]


async def hold_by_kernel(story: Story, groove: Client, watch: Watch, project: Path) -> None:
    """Chapter six: no program of an agent writes what was not granted."""
    story.chapter("An agent starts programs that never ask")
    told = await groove.status()
    level = told.containment[0]
    if level == "hooks":
        lacks = "; ".join(told.missing)
        story.not_shown(f"that the kernel holds them. This ran at level hooks: {lacks}")
        return
    steps = [*STEPS, *LEASE_STEPS] if level == "gate" else STEPS
    build = await groove.spawn(spec("build", ["build/**"], steps, containment=level))
    claim_canary(story, build, level)
    cue(project, "build")
    _, code = await ran(watch, build.id, 1)
    written = (project / "build/page.html").is_file()
    story.claim("inside its scope, a shell writes as ever", code == 0 and written)
    for number, attempt in enumerate(ATTEMPTS, 2):
        await refused(story, groove, watch, build, attempt, number)
    if level == "gate":
        await open_by_lease(story, groove, watch, build.id, project)
    else:
        lacks = "; ".join(told.missing)
        story.not_shown(f"the record of it, and a lease that lets it through. {lacks}")


def claim_canary(story: Story, build: AgentView, level: Containment) -> None:
    """What was tried from inside before the program ran must have failed, all of it."""
    expected = {"write", "rename", "symlink"}
    story.claim(
        f"'build' runs behind the {level}; what was tried from inside first has failed",
        build.containment == level and expected <= build.canary.keys(),
        ", ".join(f"{attempt}: {error}" for attempt, error in build.canary.items()),
    )


async def ran(watch: Watch, agent: AgentId, number: int) -> tuple[int, int]:
    """Pid and exit code of the agent's `number`-th program; -1 if it never ended."""
    line = await watch.line(agent, f"ran: {SHELL}", number)
    pid, _, code = line.removeprefix(f"ran: {SHELL} as ").partition(", ended with ")
    return int(pid or -1), int(code or -1)


async def refused(  # noqa: PLR0917 - what all chapters have, and the attempt
    story: Story, groove: Client, watch: Watch, build: AgentView, attempt: Attempt, number: int
) -> None:
    """An attempt must have failed and changed nothing, and at the gate be on record."""
    child, code = await ran(watch, build.id, number)
    project = Path((await groove.status()).project)
    same = (project / attempt.path).read_text("utf-8") == FILES[attempt.path]
    story.claim(
        f"{attempt.what} out of its scope: refused by the kernel, and nothing changed",
        code > 0 and same,
        attempt.path,
    )
    if build.containment != "gate":
        return
    found = await on_record(groove, build.id, "knock.denied", attempt)
    pid = found.get("pid", 0)
    story.claim(
        "the log names the program, a grandchild of the agent",
        found.get("tool") == attempt.program and pid > 0 and pid not in {child, build.pid},
        f"{found.get('tool')}, process {pid}, {found.get('call')}: {found.get('rule')}",
    )


async def on_record(groove: Client, agent: AgentId, action: str, attempt: Attempt) -> Any:
    """What the gate's record of an attempt says; the last one of several."""
    page = await groove.audit(agent=agent, action=action)
    details = [json.loads(bytes(record))["detail"] for record in page.records]
    fits = [each for each in details if each["path"] == attempt.path and each["source"] == "gate"]
    return fits[-1] if fits else {}


async def open_by_lease(
    story: Story, groove: Client, watch: Watch, build: AgentId, project: Path
) -> None:
    """With a lease the same line goes through, and no longer once it is given back."""
    await groove.instruct(build, "now with a lease")
    leased = await watch.line(build, f"leased: {REDIRECT.path}")
    _, code = await ran(watch, build, len(ATTEMPTS) + 2)
    granted = await on_record(groove, build, "knock.granted", REDIRECT)
    story.claim(
        f"it leases {REDIRECT.path}, and the same redirect goes through",
        bool(leased) and code == 0 and bool(granted),
        f"{granted.get('tool')}, process {granted.get('pid')}: {granted.get('rule')}",
    )
    await watch.line(build, "returned: 1")
    _, code = await ran(watch, build, len(ATTEMPTS) + 3)
    text = (project / REDIRECT.path).read_text("utf-8")
    story.claim("given back, it is refused again", code > 0 and text.count(LINE) == 1)
