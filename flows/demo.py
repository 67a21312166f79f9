"""The demo: scans in, one night through the worker, and everything a person wants to see afterwards."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from db.ask import ask
from flows import sheet
from flows.restore import open_shelf
from infra.settings import Settings
from infra.store import Store, Taken, open_store
from models.imaging import MEDIA_TYPES
from tasks.contracts import GlassplateError
from tasks.fetch import verified
from tasks.recipe import RECIPES, ColorizeConfig, FacesConfig, RecipeName, RestorationRecipe
from tasks.shelf import Shelf

DEMO_PREFIX = "demo/"
POLL_SECONDS = 0.7


@dataclass(frozen=True)
class Shown:
    """One scan as the demo shows it, read from the database."""

    key: str
    outcome: str
    damage: str
    stages: str
    reason: str
    prefix: str | None


def run(settings: Settings, scans: Path | None, recipe: str, to: Path, out: Console) -> int:
    """Exit status: 0 when every scan ended restored, skipped or in quarantine, else 1. Pictures lie in ``to``.

    Raises FileNotFoundError when there are no scans, or when the recipe's default face or colour model is absent.
    """
    require_models(RECIPES[RecipeName(recipe)], open_shelf(settings))
    store = open_store(settings)
    keys = _upload(scans or own_scans(), settings, store, out)
    parameters = {"recipe": recipe, "prefix": DEMO_PREFIX}
    code = wait_for("nightly-archive/nightly-archive", parameters, out, watch=(settings, keys))

    shown = [_shown(settings, key, recipe) for key in keys]
    table = Table(show_lines=True)
    table.add_column("scan, restored version", overflow="fold", ratio=5)
    table.add_column("outcome")
    table.add_column("damage", justify="right")
    table.add_column("what ran or was skipped, and why", overflow="fold", ratio=4)
    for scan in shown:
        place = f"{scan.key}\n→ {scan.prefix}" if scan.prefix else scan.key
        table.add_row(place, scan.outcome, scan.damage, scan.stages or scan.reason)
    out.print(table)
    to.mkdir(parents=True, exist_ok=True)
    picture = sheet.make([(s.key, s.outcome, s.reason, s.prefix) for s in shown], settings, store, to)
    out.print(f"contact sheet      {picture}")
    out.print(f"restored pictures  {to}")
    if settings.prefect_api_url:
        out.print(f"Prefect UI         {settings.prefect_api_url.removesuffix('/api')}")
    question = "SELECT key, state, damage_coverage, models FROM restorations"
    out.print(f'ask in SQL         glassplate sql "{question}"', soft_wrap=True)
    if all(scan.outcome in ("none", "failed") for scan in shown):
        out.print("[red]Nothing was restored.[/red]")
        return 1
    return code


def require_models(recipe: RestorationRecipe, models: Shelf) -> None:
    """Raises FileNotFoundError when there is no model for the recipe's faces or colour, or its file is not there.

    A model that the allow-list refuses is there: the stage says why it is not used. One that is fetched on first use
    is fetched then.
    """
    for config in recipe.stages:
        if not isinstance(config, FacesConfig | ColorizeConfig) or config.model == "none":
            continue
        purpose, called = ("face", "face") if isinstance(config, FacesConfig) else ("colorize", "colour")
        cards = [c for c in models.cards if c.purpose == purpose and config.model in ("auto", c.id)]
        wanted = f"recipe {recipe.name}: expected the {called} model {config.model!r}"
        remedy = f"install glassplate whole, register a {called} model (GLASSPLATE_MODELS), or choose another recipe"
        if not cards:
            raise FileNotFoundError(f"{wanted}, found none in this installation; {remedy}")
        lying_here = cards[0].files[0].source.startswith(("bundled:", "file:"))
        try:
            if lying_here:
                verified(cards[0], models.weights_dir.expanduser())
        except GlassplateError as error:
            raise FileNotFoundError(f"{wanted} ({cards[0].id}) whole, found {error}; {remedy}") from error


def own_scans() -> Path:
    """The public-domain scans that come with glassplate: in the wheel a package, in a checkout ``tests/data/scans``."""
    packaged = find_spec("flows.demo_scans")
    if packaged is not None and packaged.submodule_search_locations:
        return Path(next(iter(packaged.submodule_search_locations)))
    return Path(__file__).parents[1] / "tests" / "data" / "scans"


def _upload(folder: Path, settings: Settings, store: Store, out: Console) -> list[str]:
    """Keys of the scans of ``folder``, now under the masters prefix; one that lies there already is left alone."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    types = {suffix: media_type for media_type, suffix in MEDIA_TYPES.items()}
    keys = []
    for path in paths:
        key = f"{settings.masters_prefix}{DEMO_PREFIX}{path.relative_to(folder).as_posix()}"
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        media_type = types.get(path.suffix.lower(), "application/octet-stream")
        try:
            store.put_new(settings.masters_bucket, key, path, media_type=media_type, sha256=sha256, metadata={})
        except Taken:
            out.print(f"[yellow]{key} is in the bucket already with other content; that one is used[/yellow]")
        keys.append(key)
    if not keys:
        raise FileNotFoundError(f"{folder}: expected scans, found no files")
    out.print(f"{len(keys)} files under s3://{settings.masters_bucket}/{settings.masters_prefix}{DEMO_PREFIX}")
    return keys


def wait_for(
    deployment: str, parameters: dict[str, Any], out: Console, watch: tuple[Settings, list[str]] | None = None
) -> int:
    """Starts a run of ``deployment`` and waits for its end, with progress; exit status 0 when it completed."""
    run: Any = run_deployment(deployment, parameters=parameters, timeout=0, as_subflow=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with get_client(sync_client=True) as client, Progress(*columns, console=out) as progress:
        bar = progress.add_task("waiting for the worker", total=len(watch[1]) if watch else None)
        while True:
            state = _state(client, run)
            done = _ended(watch[0], str(run.id)) if watch else 0
            progress.update(bar, description=state.name.lower(), completed=done)
            if state.is_final():
                break
            time.sleep(POLL_SECONDS)
    colour = "green" if state.is_completed() else "red"
    out.print(f"[{colour}]{state.name}[/{colour}] {state.message or ''}")
    return 0 if state.is_completed() else 1


def _state(client: SyncPrefectClient, run: FlowRun) -> Any:
    state = client.read_flow_run(run.id).state
    assert state is not None, "a run that was created has a state"
    return state


_ENDED = """
SELECT (SELECT count(*) FROM restorations r JOIN nightly_runs n USING (nightly_run_id)
        WHERE n.flow_run_id = :id AND r.state NOT IN ('planned', 'running'))
     + (SELECT count(*) FROM quarantine q JOIN nightly_runs n USING (nightly_run_id) WHERE n.flow_run_id = :id)
"""


def _ended(settings: Settings, flow_run_id: str) -> int:
    """Scans of the night that have ended so far."""
    assert settings.database_url is not None
    _, rows = ask(settings.database_url.get_secret_value(), _ENDED, {"id": flow_run_id})
    return int(rows[0][0])


_SHOWN = """
SELECT r.state, r.reason, r.damage_coverage, r.prefix,
       (SELECT string_agg(s.stage || ': ' || s.outcome || coalesce(' (' || s.reason || ')', ''), E'\\n'
                          ORDER BY s.position)
        FROM stage_runs s WHERE s.restoration_id = r.restoration_id AND s.last_attempt) AS stages
FROM restorations r WHERE r.key = :key AND r.recipe = :recipe
ORDER BY r.planned_at DESC LIMIT 1
"""
_QUARANTINED = "SELECT reason FROM quarantine WHERE key = :key AND released_at IS NULL ORDER BY 1 LIMIT 1"


def _shown(settings: Settings, key: str, recipe: str) -> Shown:
    assert settings.database_url is not None
    url, values = settings.database_url.get_secret_value(), {"key": key, "recipe": recipe}
    _, rows = ask(url, _SHOWN, values)
    if rows:
        state, reason, coverage, prefix, stages = rows[0]
        damage = "" if coverage is None else f"{coverage:.2%}"
        return Shown(key, state, damage, stages or "", reason or "", prefix if state == "restored" else None)
    _, rows = ask(url, _QUARANTINED, values)
    if rows:
        return Shown(key, "quarantined", "", "", rows[0][0], None)
    return Shown(key, "none", "", "", "not a scan by its name, or the same bytes as another", None)
