"""How the demo tells its story: chapters, claims that were checked, and what agents said."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import click


@dataclass
class Story:
    """Tells what happens as it happens, and remembers which claims held.

    Attributes:
        quiet: Say nothing until `close`; for ``--json``.
        claims: Each claim with whether it held and what was seen.
        unshown: What this machine could not show.
    """

    quiet: bool = False
    claims: list[dict[str, object]] = field(default_factory=list[dict[str, object]])
    unshown: list[str] = field(default_factory=list[str])
    _chapter: str = ""

    def chapter(self, title: str) -> None:
        """Begins a chapter."""
        self._chapter = title
        self._say("\n" + click.style(title, bold=True))

    def note(self, text: str) -> None:
        """Tells something that is not a claim."""
        self._say("    " + click.style(text, dim=True))

    def heard(self, name: str, text: str) -> None:
        """Tells a line that an agent wrote."""
        self._say("    " + click.style(f"{name:>5} │ ", fg="cyan") + text)

    def claim(self, text: str, held: bool, seen: str = "") -> None:
        """Tells a claim that was just checked, and what was seen."""
        self.claims.append({"chapter": self._chapter, "claim": text, "held": held, "seen": seen})
        mark = click.style("✓", fg="green") if held else click.style("✗ NOT SO:", fg="red")
        self._say(f"  {mark} {text}" + (click.style(f" ({seen})", dim=True) if seen else ""))

    def not_shown(self, text: str) -> None:
        """Tells, loudly, what cannot be shown here and why. No claim fails by it."""
        self.unshown.append(text)
        self._say("  " + click.style(f"! NOT SHOWN: {text}", fg="yellow", bold=True))

    @property
    def true(self) -> bool:
        """Whether every claim held; a story without claims is not true."""
        return bool(self.claims) and all(claim["held"] for claim in self.claims)

    def close(self, seconds: float) -> None:
        """Ends with the summary line, or with the whole story as JSON."""
        held = sum(bool(claim["held"]) for claim in self.claims)
        if self.quiet:
            told = {"claims": self.claims, "notShown": self.unshown}
            click.echo(json.dumps({"ok": self.true, "seconds": seconds, **told}))
            return
        verdict = "all true" if self.true else f"{len(self.claims) - held} NOT TRUE"
        color = "green" if self.true else "red"
        summary = f"{len(self.claims)} claims checked in {seconds:.1f} s: {verdict}"
        if self.unshown:
            summary += f"; what this kernel cannot show: {len(self.unshown)}, see above"
        self._say("\n" + click.style(summary, fg=color, bold=True))

    def _say(self, text: str) -> None:
        if not self.quiet:
            click.echo(text)
