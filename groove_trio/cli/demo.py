"""``groove-trio demo``: a real daemon, real agents, and every claim checked as it is told."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import anyio
import click

from groove_trio.cli.held import hold_by_kernel
from groove_trio.cli.launch import start_detached, stop_daemon
from groove_trio.cli.props import API_STEPS, DOCS_STEPS, FILES, UI_STEPS, cue, make_project, spec
from groove_trio.cli.story import Story
from groove_trio.cli.watch import Watch, alive, watching
from groove_trio.client import Client, connect_groove
from groove_trio.rules.scopes import Scope
from groove_trio.shell.heads import checkpoint_path
from groove_trio.shell.private import config_directory
from groove_trio.words.agents import Restart
from groove_trio.words.base import AgentId
from groove_trio.words.errors import EXIT_DIFFERS, Locked, ScopeOverlap


@click.command(
    epilog="""\b
Examples:
  groove-trio demo             the whole story, in under half a minute
  groove-trio demo --keep      leave the daemon running, to look around
  groove-trio demo --json      only what was checked, for a program"""
)
@click.option("--keep", is_flag=True, help="Leave the daemon and its project where they are.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document at the end.")
def demo(keep: bool, as_json: bool) -> None:
    """Show it all on a small project: three scripted agents, no account needed.

    Starts a daemon on a temporary git project and checks every claim against the disk, the
    process table and the log. Exits 5 if anything is not as it should be.
    """
    began = time.monotonic()
    story = Story(quiet=as_json)
    project = make_project(Path(tempfile.mkdtemp(prefix="groove-demo-")).resolve() / "project")
    with ExitStack() as clean_up:
        clean_up.callback(shutil.rmtree, project.parent)
        head = checkpoint_path(config_directory(), project / ".groove/audit")
        clean_up.callback(head.unlink, missing_ok=True)
        daemon = start_detached(project, port=0)
        clean_up.callback(stop_daemon, project)
        story.note(f"project {project}")
        story.note(f"daemon  {daemon.url}")
        anyio.run(tell, story, project, daemon.url, keep)
        if keep:
            clean_up.pop_all()
    story.close(time.monotonic() - began)
    if keep and not as_json:
        click.echo(f"\nStill running. Look around:\n  cd {project}\n  groove-trio agents")
        click.echo("  groove-trio logs api\n  groove-trio stop")
    if not story.true:
        sys.exit(EXIT_DIFFERS)


async def tell(story: Story, project: Path, url: str, keep: bool) -> None:
    """The chapters in order."""
    async with connect_groove(url=url) as groove, watching(groove, story) as watch:
        agents = await three_agents(story, groove)
        await refuse_a_fourth(story, groove)
        await keep_to_scope(story, watch, agents["api"], project)
        await restart_after_crash(story, groove, watch, agents["ui"], project)
        await share_by_lease(story, groove, watch, agents, project)
        await hold_by_kernel(story, groove, watch, project)
        await stop_without_survivors(story, groove, watch, agents["docs"], project)
        await verify_log(story, groove, project)
        if not keep:
            await end(story, groove)


async def three_agents(story: Story, groove: Client) -> dict[str, AgentId]:
    """Chapter one: disjoint scopes are accepted."""
    story.chapter("Three agents, side by side, each with files of its own")
    # Behind a wall alone, no lease opens anything: what they show then takes hooks.
    best = (await groove.status()).containment
    level = "gate" if "gate" in best else "hooks"
    patient = Restart(mode="on-failure", first_s=0.3, max_restarts=5)
    agents: dict[str, AgentId] = {}
    for each in (
        spec("api", ["src/api/**"], API_STEPS, containment=level),
        spec("ui", ["src/ui/**"], UI_STEPS, restart=patient, containment=level),
        spec("docs", ["docs/**"], DOCS_STEPS, grace_s=0.5, containment=level),
    ):
        view = await groove.spawn(each)
        agents[view.name] = view.id
        story.claim(
            f"'{view.name}' runs and may write {view.scope[0]}",
            view.state == "running" and view.pid is not None,
            f"pid {view.pid}, held by {view.containment}",
        )
    return agents


async def refuse_a_fourth(story: Story, groove: Client) -> None:
    """Chapter two: an overlapping scope is refused, with a path that both would own."""
    story.chapter("A fourth agent wants every page")
    wanted = ["pages/**", "src/ui/*.html"]
    try:
        await groove.spawn(spec("pages", wanted, []))
    except ScopeOverlap as refusal:
        story.claim("it is refused, and told why", True, refusal.detail)
        witness = str(refusal.fields.get("witness", ""))
        both = all(Scope(each).matches(witness) for each in (wanted, ["src/ui/**"]))
        story.claim("the witness is a path that both scopes match", both, witness)
    else:
        story.claim("it is refused", False, "it was accepted")


async def keep_to_scope(story: Story, watch: Watch, api: AgentId, project: Path) -> None:
    """Chapter three: what was granted is on the disk, what was denied is not."""
    story.chapter("Every write knocks first")
    cue(project, "api")
    granted = await watch.line(api, "granted: wrote src/api/users.py")
    written = (project / "src/api/users.py").is_file()
    story.claim("inside its scope: granted, and the file is there", bool(granted) and written)
    for path, where in (
        ("src/ui/page.html", "in another agent's scope"),
        ("../escaped.txt", "outside the project"),
        (".git/hooks/post-commit", "a protected name"),
    ):
        denied = await watch.line(api, f"denied: {path}")
        target = project / path
        untouched = (
            target.read_text("utf-8") == FILES[path] if path in FILES else not target.exists()
        )
        story.claim(f"{where}: denied, and nothing changed", bool(denied) and untouched, path)


async def restart_after_crash(
    story: Story, groove: Client, watch: Watch, ui: AgentId, project: Path
) -> None:
    """Chapter four: a crash is followed by a wait and a new start."""
    story.chapter("An agent crashes, twice")
    cue(project, "ui")
    arrived = await watch.line(ui, "granted: wrote src/ui/form.html")
    view = await groove.agent(ui)
    waits = watch.states.get(ui, []).count("backing-off")
    story.claim(
        "it was restarted after each crash, with a wait before",
        waits == view.restarts == 2,  # noqa: PLR2004 - the script crashes twice
    )
    story.claim("its third run did the work", bool(arrived) and view.state == "running")


async def share_by_lease(
    story: Story, groove: Client, watch: Watch, agents: dict[str, AgentId], project: Path
) -> None:
    """Chapter five: a file that nobody owns goes from hand to hand."""
    story.chapter("A shared file, one writer at a time")
    api, ui = agents["api"], agents["ui"]
    await groove.instruct(api, "note it in the changelog")
    taken = await watch.line(api, "leased: CHANGELOG.md")
    wrote = await watch.line(api, "granted: appended to CHANGELOG.md")
    text = (project / "CHANGELOG.md").read_text("utf-8")
    story.claim("'api' leases it and writes", bool(taken and wrote) and "users route" in text)
    await groove.instruct(ui, "try the changelog")
    refused = await watch.line(ui, "refused:")
    story.claim("'ui' asks for it and is refused", bool(refused))
    try:
        await groove.declare(ui, ["CHANGELOG.md"])
    except Locked as refusal:
        story.claim("the refusal names the holder", refusal.fields.get("owner") == api)
    else:
        story.claim("the refusal names the holder", False, "it was granted")
    await groove.instruct(api, "give it back")
    returned = await watch.line(api, "returned: 1")
    await groove.instruct(ui, "try again")
    second = await watch.line(ui, "leased: CHANGELOG.md")
    story.claim("'api' gives it back, and 'ui' gets it", bool(returned and second))


async def stop_without_survivors(
    story: Story, groove: Client, watch: Watch, docs: AgentId, project: Path
) -> None:
    """Chapter seven: neither a deaf agent nor its hidden grandchild outlives the stop."""
    story.chapter("An agent ignores SIGTERM and hides a grandchild in another session")
    cue(project, "docs")
    left = await watch.line(docs, "left behind:")
    grandchild = int(left.rpartition(" ")[2] or 0)
    root = (await groove.agent(docs)).pid or 0
    story.claim("both are alive", alive(root) and alive(grandchild), f"pids {root}, {grandchild}")
    view = await groove.stop(docs)
    story.claim("stopped", view.state == "stopped", view.reason or "")
    story.claim("no process is left", not alive(root) and not alive(grandchild))


async def verify_log(story: Story, groove: Client, project: Path) -> None:
    """Chapter eight: the log proves itself, and a changed copy gives itself away."""
    from groove_trio.shell.audit import verify_log as verify

    story.chapter("The audit log")
    found = await groove.verify_audit()
    story.claim("the log verifies", found.ok, f"{found.records} records")
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "audit"
        shutil.copytree(project / ".groove/audit", copy)
        segment = min(copy.glob("*.jsonl"))
        segment.write_bytes(segment.read_bytes().replace(b"knock.denied", b"knock.granted", 1))
        forged = verify(copy)
    story.claim(
        "a copy with one denial turned into a grant does not",
        not forged.ok,
        f"{forged.bad_line}: {forged.problem}",
    )


async def end(story: Story, groove: Client) -> None:
    """The last chapter: everything ends."""
    story.chapter("The end")
    pids = [view.pid for view in await groove.agents() if view.pid]
    for view in await groove.agents():
        if view.state in {"running", "backing-off", "starting"}:
            await groove.stop(view.id, 2.0)
    story.claim("all agents are stopped, none left behind", not any(map(alive, pids)))
