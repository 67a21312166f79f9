"""The command line ``glassplate``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from flows import bench
from infra import settings as places
from infra import stack
from infra.processes import StackError
from infra.settings import Settings
from infra.store import StoreError

if TYPE_CHECKING:  # they bring torch and Prefect along, which most commands do not need
    from models.registry import ModelCard
    from tasks.shelf import Shelf

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Restores an archive's scanned photographs.")
db_app = typer.Typer(no_args_is_help=True, help="The provenance database.")
app.add_typer(db_app, name="db")
models_app = typer.Typer(no_args_is_help=True, help="The models: what they are, and their weights on this machine.")
app.add_typer(models_app, name="models")
app.add_typer(bench.app, name="bench")
out = Console()


def _attach() -> Settings:
    """Settings of the running stack, and Prefect's client pointed at it; must come before Prefect is imported."""
    from infra import prefect_server

    settings = places.load()
    if settings.prefect_api_url is None or settings.database_url is None or settings.s3_endpoint_url is None:
        out.print("[red]No stack is running.[/red] Start it with `glassplate up`, or set the addresses of your own.")
        raise typer.Exit(2)
    os.environ.update(prefect_server.client_environment(settings))
    return settings


def _prepare(settings: Settings) -> None:
    """Database migrated, buckets there, flows deployed: what both ``up`` and ``demo`` need."""
    from prefect.client.orchestration import get_client

    from db import migrations
    from flows.deploy import deploy
    from flows.restore import open_ledger
    from infra.store import open_store

    assert settings.database_url is not None
    migrations.migrate(settings.database_url.get_secret_value())
    store = open_store(settings)
    for bucket in (settings.masters_bucket, settings.restored_bucket):
        store.ensure_bucket(bucket)
    with get_client(sync_client=True) as client:
        for deployed in deploy(settings, client):
            out.print(f"deployed {deployed.name}")
    open_ledger(settings).note_schedule(settings.nightly_cron, settings.timezone)


def _started() -> stack.Running:
    try:
        running = stack.start(Settings(), out.print)
    except StackError as error:
        out.print(f"[red]{error}[/red]")
        raise typer.Exit(1) from error
    _prepare(_attach())
    return running


@app.command()
def up() -> None:
    """Start the embedded stack and stay in the foreground; ctrl-C stops everything cleanly."""
    with stack.interruptible():
        running = _started()
        try:
            _catch_up(places.load())
            for name, url in running.urls.items():
                out.print(f"{name:>8}  {url}")
            if running.attached:
                out.print("It was up already; `glassplate down` stops it.")
                return
            out.print("Up. ctrl-C stops it.")
            running.watch(out.print)
        except KeyboardInterrupt:
            out.print("stopping …")
        except StackError as error:
            out.print(f"[red]{error}[/red]")
            raise typer.Exit(1) from error
        finally:
            running.stop()


@app.command()
def down() -> None:
    """Stop the embedded stack, also one whose starter was killed."""
    stopped = stack.down(Settings(), out.print)
    out.print("stopped: " + (", ".join(stopped) or "nothing was running"))


@app.command()
def status() -> None:
    """Ask every service whether it answers; exit status 1 when one does not."""
    table = Table("service", "state", "address", "pid", "detail")
    services = stack.status(places.load())
    for service in services:
        table.add_row(service.name, service.state, service.url, str(service.pid or ""), service.detail)
    out.print(table)
    if any(service.state != "running" for service in services):
        raise typer.Exit(1)


@app.command()
def demo(
    scans: Annotated[Path | None, typer.Option(help="Folder of scans; a few public-domain ones if not given.")] = None,
    recipe: Annotated[str, typer.Option(help="archival, enhanced or full.")] = "full",
    to: Annotated[Path, typer.Option(help="Folder for the restored pictures and the contact sheet.")] = Path(
        "glassplate-demo"
    ),
    stop: Annotated[bool, typer.Option(help="Stop the stack at the end instead of leaving it up.")] = False,
) -> None:
    """Start everything, restore some photographs through a worker, and show what was done."""
    running = _started()
    try:
        from flows import demo as show

        code = show.run(_attach(), scans, recipe, to, out)
    except (FileNotFoundError, ValueError) as error:  # a folder without scans, a recipe that does not exist
        out.print(str(error), style="red", markup=False)
        code = 2
    finally:
        if stop:
            running.stop()
    if not stop:
        out.print("The stack stays up; `glassplate down` stops it.")
    raise typer.Exit(code)


@app.command()
def deploy() -> None:
    """Migrate the database, make the buckets and (re)deploy the flows: after an upgrade or a changed setting."""
    settings = _attach()
    _prepare(settings)
    _catch_up(settings)


@app.command()
def restore(
    keys: Annotated[list[str], typer.Argument(help="S3 keys in the masters bucket.")],
    recipe: Annotated[str, typer.Option(help="archival, enhanced or full.")] = "archival",
) -> None:
    """Restore scans now, through the worker; exit status 1 when one failed."""
    _attach()
    from flows.demo import wait_for

    raise typer.Exit(wait_for("restore-batch/restore-batch", {"keys": keys, "recipe": recipe}, out))


@app.command()
def nightly(
    recipe: Annotated[str, typer.Option(help="archival, enhanced or full.")] = "archival",
    prefix: Annotated[str, typer.Option(help="Only keys that begin so.")] = "",
    include: Annotated[list[str] | None, typer.Option(help="Only keys like this; a star matches slashes, too.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="No keys like this.")] = None,
    order: Annotated[str, typer.Option(help="key, newest or oldest: what comes first.")] = "key",
    limit: Annotated[int | None, typer.Option(help="At most so many scans.")] = None,
    stop_starting_at: Annotated[str | None, typer.Option(help="HH:MM after which no batch starts.")] = None,
    force: Annotated[bool, typer.Option(help="Also what was done or given up; nothing is overwritten.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Only count and estimate; nothing is started or claimed.")] = False,
) -> None:
    """Run the night now, through the worker; exit status 1 when a scan failed."""
    _attach()
    from prefect.exceptions import PrefectHTTPStatusError

    from flows.demo import wait_for

    parameters = {
        "recipe": recipe, "prefix": prefix, "include": include, "exclude": exclude, "order": order, "limit": limit,
        "stop_starting_at": stop_starting_at, "force": force, "dry_run": dry_run,
    }  # fmt: skip
    try:
        code = wait_for("nightly-archive/nightly-archive", parameters, out)
    except PrefectHTTPStatusError as error:
        if error.response.status_code not in (409, 422):
            raise
        out.print(error.response.json().get("detail", str(error)), style="red", markup=False)
        code = 2
    raise typer.Exit(code)


@app.command()
def nights(
    last: Annotated[int, typer.Option(min=1, help="How many of the last scheduled nights.")] = 3,
    catch_up: Annotated[bool, typer.Option(help="Start the last one now if it did not run.")] = False,
) -> None:
    """Whether the scheduled nights ran; exit status 1 when one did not, or broke off."""
    settings = _attach()
    from flows import missed
    from flows.restore import open_ledger

    ledger = open_ledger(settings)
    found = missed.due(ledger, last)
    table = Table("was to start (UTC)", "ran", "what became of it", "night")
    for due in found:
        ran = "yes" if due.ran else "[red]no[/red]"
        table.add_row(f"{due.at:%Y-%m-%d %H:%M}", ran, due.words, str(due.night_id or ""))
    out.print(table if found else "No night was due yet.")
    if catch_up:
        _catch_up(settings)
    raise typer.Exit(0 if all(due.ran for due in found) else 1)


def _catch_up(settings: Settings) -> None:
    """Starts the last scheduled night if it did not run."""
    from prefect.client.orchestration import get_client

    from flows import missed
    from flows.restore import open_ledger

    with get_client(sync_client=True) as client:
        started = missed.catch_up(open_ledger(settings), client)
    if started:
        out.print(f"The night of {started.at:%Y-%m-%d %H:%M} UTC {started.words}; it is started now.", markup=False)


@app.command()
def sql(query: Annotated[str, typer.Argument(help="A SELECT on the public views.")], as_json: bool = False) -> None:
    """Ask the provenance database, read-only."""
    from db.ask import ask
    from db.records import LedgerError

    settings = _attach()
    assert settings.database_url is not None
    try:
        columns, rows = ask(settings.database_url.get_secret_value(), query)
    except LedgerError as error:
        out.print(str(error), style="red", markup=False)
        raise typer.Exit(1) from error
    if as_json:
        out.print_json(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], default=str))
        return
    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row))
    out.print(table)


@app.command()
def release(key: Annotated[str, typer.Argument(help="S3 key in the masters bucket.")]) -> None:
    """Let a scan out of quarantine, or give one that kept failing another chance: the next night looks at it again."""
    import getpass

    from flows.restore import open_ledger

    settings = _attach()
    released = open_ledger(settings).release(settings.masters_bucket, key, by=getpass.getuser())
    out.print(f"{key}: " + (f"released ({released})" if released else "nothing to release"))
    raise typer.Exit(0 if released else 1)


@app.command()
def verify(
    restoration_id: Annotated[str | None, typer.Argument(help="One restoration; all of them if not given.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also look for objects without a row and for masters that changed.")
    ] = False,
    read_masters: Annotated[bool, typer.Option(help="With --all: read every master, too, not only its ETag.")] = False,
    sweep: Annotated[
        bool, typer.Option(help="With --all: first delete what killed runs left in the work area.")
    ] = False,
) -> None:
    """Read every published file back and compare its sha256 with the database; exit status 1 on any difference."""
    from flows import verify as check

    settings = _attach()
    if not everything:
        problems, files = check.verify(settings, restoration_id)
        said = f"{files} files read"
    elif restoration_id is not None:
        raise typer.BadParameter("expected one restoration or --all, found both")
    else:
        swept = check.sweep(settings) if sweep else 0
        found = check.verify_all(settings, read_masters=read_masters)
        problems, said = list(found.problems), f"{found.files} files read, {found.objects} objects listed"
        said += f", {found.masters} masters compared, {found.masters_read} read"
        said += f", {swept} left-over objects deleted" if sweep else ""
    for problem in problems:
        out.print(problem, style="red", markup=False, highlight=False, soft_wrap=True)
    out.print(f"{said}, {len(problems)} problems", highlight=False)
    raise typer.Exit(1 if problems else 0)


@app.command()
def policy(name: Annotated[str, typer.Argument(help="worker or reader.")]) -> None:
    """Print the IAM policy of a worker or a reader for the buckets that the settings name."""
    from infra import iam

    if name not in iam.NAMES:
        raise typer.BadParameter(f"expected {' or '.join(iam.NAMES)}, found {name}")
    try:
        out.print_json(json.dumps(iam.policy(name, Settings())))
    except ValueError as error:
        out.print(str(error), style="red", markup=False)
        raise typer.Exit(1) from error


@db_app.command("upgrade")
def db_upgrade() -> None:
    """Bring the database to the newest schema."""
    from db import migrations

    settings = _attach()
    assert settings.database_url is not None
    migrations.migrate(settings.database_url.get_secret_value())
    out.print("database is at", migrations.current(settings.database_url.get_secret_value()))


def _shelf() -> Shelf:
    from flows.restore import open_shelf

    return open_shelf(Settings())


def _cards(shelf: Shelf, ids: list[str]) -> list[ModelCard]:
    """The cards of these ids, or all; exit status 2 for an id that no model has."""
    from models.registry import UnknownModel, card

    try:
        return [card(model_id, shelf.cards) for model_id in ids] or list(shelf.cards)
    except UnknownModel as error:
        out.print(str(error), style="red", markup=False)
        raise typer.Exit(2) from error


def _weights_state(card: ModelCard, shelf: Shelf) -> tuple[str, str]:
    """(none, here, missing or altered) and what was expected and found."""
    from tasks.contracts import Unavailable
    from tasks.fetch import BadWeights, verified

    try:
        return ("here" if verified(card, shelf.weights_dir) else "none"), ""
    except Unavailable as error:
        return "missing", str(error)
    except BadWeights as error:
        return "altered", str(error)


@models_app.command("list")
def models_list() -> None:
    """Every model: what for, under which terms, whether it is permitted, and whether its weights are here."""
    from tasks.fetch import kept

    shelf, table = _shelf(), Table("model", "purpose", "licence", "training data", "weights", "permitted")
    for card in shelf.cards:
        size = sum(file.size_bytes for file in card.files) / 1e6
        there = all(path.is_file() for path in kept(card, shelf.weights_dir))
        weights = f"{size:.1f} MB, {'here' if there else 'not fetched'}" if card.files else "none"
        table.add_row(card.id, card.purpose, card.licence, card.data_terms, weights, shelf.refusal(card) or "yes")
    out.print(table)


@models_app.command("show")
def models_show(model_id: Annotated[str, typer.Argument(help="A model's id, as `models list` gives it.")]) -> None:
    """Everything that is known of one model."""
    from tasks.fetch import kept

    shelf = _shelf()
    (card,) = _cards(shelf, [model_id])
    facts = {
        "purpose": card.purpose, "architecture": card.arch, "licence": card.licence, "training data": card.data_terms,
        "trained on": card.trained_on, "recipe": card.recipe, "channels": card.channels, "scale": card.scale,
        "tile": f"{card.tile_px} px", "note": card.note, "permitted": shelf.refusal(card) or "yes",
    }  # fmt: skip
    facts |= dict(card.measures)
    for name, value in facts.items():
        out.print(f"{name:<22}{value}", markup=False, soft_wrap=True)
    for file, path in zip(card.files, kept(card, shelf.weights_dir), strict=True):
        for name, value in (("source", file.source), ("sha256", file.sha256), ("bytes", file.size_bytes), ("at", path)):
            out.print(f"{name:<22}{value}", markup=False, soft_wrap=True)
    out.print(f"{'weights':<22}{_weights_state(card, shelf)[0]}")


@models_app.command("fetch")
def models_fetch(
    ids: Annotated[list[str] | None, typer.Argument(help="Models by id; all that are permitted if not given.")] = None,
) -> None:
    """Fetch weights now instead of at first use; what is here is verified, what was altered is fetched again."""
    from infra.store import open_store
    from tasks.contracts import GlassplateError
    from tasks.fetch import fetch

    def from_s3(bucket: str, key: str, path: Path) -> None:
        open_store(places.load()).download(bucket, key, path)

    shelf, failed = _shelf(), False
    for card in _cards(shelf, ids or []):
        if not ids and (not card.files or shelf.refusal(card)):
            continue
        altered = _weights_state(card, shelf)[0] == "altered"
        try:
            paths = fetch(card, shelf.weights_dir, replace=altered, s3=from_s3)
        except (GlassplateError, StoreError) as error:
            out.print(f"{card.id}: {error}", style="red", markup=False, soft_wrap=True)
            failed = True
            continue
        places_of = ", ".join(str(path) for path in paths) or "needs no weights"
        out.print(f"{card.id}: {places_of}", markup=False, soft_wrap=True)
    raise typer.Exit(1 if failed else 0)


@models_app.command("verify")
def models_verify() -> None:
    """Compare every file of weights on this machine with its pinned sha256; exit status 1 when one was altered."""
    shelf, altered = _shelf(), False
    for card in shelf.cards:
        state, why = _weights_state(card, shelf)
        if state == "none":
            continue
        words = {"here": "as pinned", "missing": "not fetched", "altered": why}[state]
        colour = {"here": "green", "missing": "", "altered": "red"}[state]
        out.print(f"{card.id}: {words}", style=colour, markup=False, soft_wrap=True)
        altered |= state == "altered"
    raise typer.Exit(1 if altered else 0)


if __name__ == "__main__":
    app()
