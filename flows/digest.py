"""What people read when a run has ended: the page of one scan, of a batch, of a night."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from db.records import NightCounts, NightOutcome
from tasks.contracts import Course, Outcome

SHOWN_SCANS = 500  # an artifact is a page for people; SQL has the rest
PIXEL_STAGES = ("inpaint", "enhance", "faces", "colorize")
TERMS = {"research-only": "research-only", "unknown": "(terms unknown)"}
UNTOLD = {"running": "its run has not told how it ended", "lost": "its run vanished"}
UNFINISHED = {"failed", "lost", "running"}
NEXT_STEPS = {
    "Unavailable": "tried again on the next night; check that S3 and PostgreSQL answer",
    "Incident": "nothing was overwritten; compare the object named with the record in SQL before anything else",
    "BadOutput": "the evidence is kept under the work prefix; report it with the restoration id",
    "BadScan": "replace the scan; a new upload under the same key is looked at again",
}


def summary(courses: Sequence[Course]) -> str:
    """One line: how many scans ended how."""
    counts = Counter(course.results[-1].outcome.value for course in courses)
    return ", ".join(f"{number} {outcome}" for outcome, number in sorted(counts.items())) or "no scans"


def failures(courses: Sequence[Course]) -> str:
    """One line that names the first failed scans and why."""
    shown = "; ".join(f"{c.scan}: {c.results[-1].stage}: {c.results[-1].reason}" for c in courses[:5])
    return f"{len(courses)} failed: {shown}" + (" …" if len(courses) > 5 else "")


def scan_page(course: Course) -> str:
    """Markdown: every stage of one scan, and where its derivatives lie."""
    lines = [f"## {cell(course.scan)}", "", "| stage | outcome | model | seconds | measured | why |", "|-|-|-|-:|-|-|"]
    for r in course.results:
        measured = ", ".join(f"{name} {value:.4g}" for name, value in r.measures.items())
        lines.append(
            f"| {r.stage} | {r.outcome.value} | {r.model_id or ''} | {r.seconds:.1f} | {measured} | {cell(r.reason)} |"
        )
    lines += _score_lines(course)
    files = course.results[-1].derivatives
    if files:
        lines += ["", "| file | what it is | sha256 |", "|-|-|-|"]
        lines += [f"| `s3://{f.bucket}/{cell(f.key)}` | {f.label} | `{f.sha256[:16]}…` |" for f in files]
    if (plate := course.last_plate) is not None:
        lines += ["", "```sql", f"SELECT * FROM restorations WHERE restoration_id = '{plate.restoration_id}';", "```"]
    return "\n".join(lines) + "\n"


def _score_lines(course: Course) -> list[str]:
    """A table of what was measured: before -> after, and fidelity to the master."""
    scores = {(s.derivative, s.metric, s.moment): s for r in course.results for s in r.scores}
    rows: dict[tuple[str, str], str] = {}
    for (derivative, metric, moment), s in scores.items():
        if moment == "before":
            continue
        before = scores.get((derivative, metric, "before"))
        shown = f"{before.value:.4g} → {s.value:.4g}" if before else f"{s.value:.4g}"
        better = {"higher": "↑", "lower": "↓", "neutral": ""}[s.direction]
        rows[derivative, metric] = f"| {derivative} | {metric} {better} | {shown} |"
    if not rows:
        return []
    heading = "| derivative | measure (↑ higher is better) | before → after, or fidelity |"
    return ["", heading, "|-|-|-|", *rows.values()]


def batch_page(courses: Sequence[Course]) -> str:
    """Markdown: one line a scan."""
    lines = [f"## {summary(courses)}", "", "| scan | outcome | stage | why |", "|-|-|-|-|"]
    worst_first = sorted(courses, key=lambda c: c.results[-1].outcome is not Outcome.FAILED)
    for course in worst_first[:SHOWN_SCANS]:
        last = course.results[-1]
        lines.append(f"| {cell(course.scan)} | {last.outcome.value} | {last.stage} | {cell(last.reason)} |")
    return "\n".join(lines) + "\n"


def night_page(
    night_id: int, recipe: str, counts: NightCounts, outcomes: Sequence[NightOutcome], notes: Sequence[str] = ()
) -> str:
    """Markdown: the night in numbers, then what failed and what to do, what is in quarantine, what was restored."""
    c = counts
    lines = [
        f"# Night {night_id}: {night_line(counts)}",
        "",
        f"Recipe `{recipe}`.",
        "",
        "| listed | not scans | left out | unchanged | in quarantine before | given up before | cold | begun | left |",
        "|-:|-:|-:|-:|-:|-:|-:|-:|-:|",
        f"| {c.listed} | {c.ignored} | {c.excluded} | {c.unchanged} | {c.known_quarantined} | {c.given_up} "
        f"| {c.cold} | {c.planned} | {c.left} |",
        "",
        "| restored | nothing to mend or done before | newly in quarantine | failed |",
        "|-:|-:|-:|-:|",
        f"| {c.restored} | {c.skipped} | {c.quarantined} | {c.failed} |",
    ]
    lines += [line for note in notes for line in ("", note)]
    lines += _skip_lines(outcomes) + _terms_lines(outcomes)
    for title, states in (
        ("Failed", UNFINISHED),
        ("In quarantine", {"quarantined"}),
        ("Restored", {"restored"}),
        ("Nothing changed", {"skipped"}),
    ):
        chosen = [o for o in outcomes if o.state in states]
        if chosen:
            lines += ["", f"## {title} ({len(chosen)})", ""]
            lines += ["| scan | damage | why | next step or place |", "|-|-:|-|-|"]
            lines += [_night_row(o) for o in chosen[:SHOWN_SCANS]]
            if len(chosen) > SHOWN_SCANS:
                lines.append(f"\n{len(chosen) - SHOWN_SCANS} more in SQL: view `restorations`, nightly run {night_id}.")
    return "\n".join(lines) + "\n"


def _skip_lines(outcomes: Sequence[NightOutcome]) -> list[str]:
    """How many scans each stage left as they were, for which reason; a reason's details in brackets are left out."""
    counts = Counter(
        (line.stage, (line.reason or "").partition(" (")[0])
        for outcome in outcomes
        for line in outcome.stages
        if line.outcome == Outcome.SKIPPED and line.stage in PIXEL_STAGES
    )
    if not counts:
        return []
    lines = ["", "| stage | skipped because | scans |", "|-|-|-:|"]
    return lines + [f"| {stage} | {cell(reason)} | {scans} |" for (stage, reason), scans in sorted(counts.items())]


def _terms_lines(outcomes: Sequence[NightOutcome]) -> list[str]:
    """A warning where a model that had a part in this was trained on pictures that were not free to use."""
    used: dict[str, set[str]] = {}
    for line in (line for outcome in outcomes for line in outcome.stages):
        if line.model_id and line.data_terms and line.data_terms != "free":
            used.setdefault(line.data_terms, set()).add(line.model_id)
    return [
        line
        for terms, models in sorted(used.items())
        for line in ("", f"**Note:** models trained on {TERMS[terms]} data were used: {', '.join(sorted(models))}.")
    ]


def night_line(counts: NightCounts) -> str:
    """The night in one line."""
    c = counts
    return (
        f"{c.planned} planned: {c.restored} restored, {c.skipped} skipped, "
        f"{c.quarantined} quarantined, {c.failed} failed; {c.left} left for later"
        + (f", {c.cold} cold" if c.cold else "")
    )


def cold_notes(cold_keys: Sequence[str], cold: int, asked_days: int, refused: Mapping[str, str]) -> list[str]:
    """What the digest says of scans in cold storage, one paragraph each; nothing where there are none."""
    if not cold:
        return []
    asked = len(cold_keys) - len(refused) if asked_days else 0
    about = (
        f"{asked} were asked back for {asked_days} days" if asked else "ask for them in the store to have them restored"
    )
    shown = ", ".join(f"`{cell(key)}`" for key in cold_keys[:SHOWN_SCANS])
    lines = [f"**{cold} scans are in cold storage** and were not begun; {about}: {shown}{' …' * (cold > SHOWN_SCANS)}"]
    return lines + [f"Not asked back: `{cell(key)}`: {cell(why)}" for key, why in list(refused.items())[:SHOWN_SCANS]]


def estimate_line(scans: int, megapixels: float, size_bytes: int, hours: float | None) -> str:
    """What a night would take, in one line."""
    time = "an unknown time (this recipe has not run here yet)" if hours is None else f"about {hours:.3g} hours"
    return f"{scans} scans, {megapixels:,.1f} megapixels, {size_bytes / 1e9:.3g} GB: {time} of one worker's work"


def estimate_page(line: str, counts: NightCounts, known_scans: int, pace: float | None) -> str:
    """Markdown: what a night would do, for a dry run."""
    c = counts
    unknown = c.planned - known_scans
    speed = "not measured yet" if pace is None else f"{pace:.2f} s per megapixel, all stages together"
    return "\n".join([
        f"# Dry run: {line}", "", "Nothing was started or claimed.", "",
        "| listed | not scans | left out | unchanged | in quarantine | given up | cold | to do | left by the limit |",
        "|-:|-:|-:|-:|-:|-:|-:|-:|-:|",
        f"| {c.listed} | {c.ignored} | {c.excluded} | {c.unchanged} | {c.known_quarantined} | {c.given_up} "
        f"| {c.cold} | {c.planned} | {c.left} |",
        "",
        f"Size: {known_scans} scans were opened before, for {unknown} megapixels are estimated from their bytes. "
        f"Speed: {speed}.", "",
    ])  # fmt: skip


def next_step(o: NightOutcome) -> str:
    """What somebody can do about a scan that failed or is in quarantine; empty for any other."""
    if o.state in ("restored", "skipped"):
        return ""
    return NEXT_STEPS.get(o.error_type or "", "see the run's log; tried again on the next night")


def _night_row(o: NightOutcome) -> str:
    damage = "" if o.damage_coverage is None else f"{o.damage_coverage:.2%}"
    place = f"`{cell(o.prefix)}`" if o.state == "restored" else next_step(o)
    return f"| {cell(o.key)} | {damage} | {cell(o.reason or UNTOLD.get(o.state))} | {place} |"


def cell(text: str | None) -> str:
    """``text`` fit for a markdown table cell."""
    return (text or "").replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("`", "'")
