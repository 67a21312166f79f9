"""``glassplate bench``: what is measured of quality, speed and memory, printed as Markdown with date and machine."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from infra import prefect_server, stack
from infra import settings as places
from infra.processes import StackError
from infra.settings import Settings
from infra.store import open_store

app = typer.Typer(no_args_is_help=True, help="Measures; see docs/quality.md and docs/performance.md.")
Photographs = Annotated[Path, typer.Argument(help="Folder with bench/BSD100, bench/Set14, train/photos, damage, real.")]
out = Console()
said = Console(stderr=True)


@app.command()
def detect(data: Photographs) -> None:
    """Both detectors: clean pictures left alone, film damage found, seconds per megapixel."""
    from models.measure_detect import report

    out.print(report(data), highlight=False)


@app.command()
def quality(
    data: Photographs,
    x4plus_pictures: Annotated[int, typer.Option(help="Pictures for the slow network; minutes each on a CPU.")] = 8,
) -> None:
    """The tables of docs/quality.md: both detectors on the frozen set, and every enhancer beside its baseline."""
    from models import measure_quality
    from models.registry import card
    from models.training import evaluate
    from tasks.fetch import fetch

    settings = places.load()
    weights = {}
    for model_id in ("span-x4", "realesrgan-x4plus"):
        weights[model_id] = fetch(card(model_id), settings.weights_dir or settings.data_dir / "weights")[0]
    out.print(evaluate.report(data), highlight=False, markup=False, soft_wrap=True)
    table = measure_quality.measure(data / "bench", weights, subset=x4plus_pictures)
    out.print(table, highlight=False, markup=False, soft_wrap=True)


@app.command()
def enhance(
    data: Photographs,
    x4plus_pictures: Annotated[int, typer.Option(help="Pictures for Real-ESRGAN; minutes each on a CPU; 0: none.")] = 4,
) -> None:
    """Our enhancement beside OpenCV and Real-ESRGAN on the frozen worn pictures, clean ones, and the whole chain."""
    from models import network
    from models.registry import card
    from models.training import evaluate_enhance
    from tasks.fetch import fetch

    settings, slow = places.load(), None
    if x4plus_pictures:
        chosen = card("realesrgan-x4plus")
        slow = network.load(chosen, fetch(chosen, settings.weights_dir or settings.data_dir / "weights")[0])
    net = evaluate_enhance.loaded(None, "auto")
    tables = evaluate_enhance.report(data, net, slow, subset=x4plus_pictures)
    out.print(tables, highlight=False, markup=False, soft_wrap=True)


@app.command()
def pipeline(
    scans: Annotated[int, typer.Option(min=1, help="Scans each way.")] = 8,
    megapixels: Annotated[float, typer.Option(min=0.1, help="Size of a scan; archives have 20 to 200.")] = 4.0,
    workers: Annotated[int, typer.Option(min=1, help="Workers at once, compared with one; 1 leaves that out.")] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="How often everything is measured; medians are printed.")] = 3,
) -> None:
    """The flow beside a bare loop over the same stage functions, and several workers beside one; own stack, minutes."""
    with _own_stack({"postgres", "s3", "prefect"}) as settings:
        from flows.measure_pipeline import measure

        _begin()
        costs = measure(
            settings, scans=scans, megapixels=megapixels, rounds=rounds, workers=workers, progress=_progress
        )
        _print(str(costs))


@app.command()
def plan(objects: Annotated[int, typer.Option(min=1, help="Objects listed, and scans known.")] = 1_000_000) -> None:
    """A night's planning against a full PostgreSQL (simulated listing), and what an idle night starts; own stack."""
    with _own_stack({"postgres", "s3", "prefect"}) as settings:
        from flows.measure_plan import measure

        _begin()
        _print(str(measure(settings, objects=objects, progress=_progress)))


@app.command()
def memory(
    megapixels: Annotated[float, typer.Option(min=0.1, help="Size of the scan.")] = 200.0,
    enlarged: Annotated[int, typer.Option(min=1, help="1: detail in every pixel, the worst; scans have 2 to 4.")] = 1,
) -> None:
    """Peak memory of restoring one large scan at 8 bits, by stage, in a process of its own; own stack, minutes."""
    with _own_stack({"postgres", "s3"}) as settings:
        from flows.measure_memory import measure

        _begin()
        _print(str(measure(settings, megapixels=megapixels, enlarged=enlarged, progress=_progress)))


def _begin() -> None:
    from flows.machine import described

    _print(described())


def _print(words: str) -> None:
    out.print(words, highlight=False, markup=False, soft_wrap=True)
    out.print()


def _progress(line: str) -> None:
    said.print(line, highlight=False, markup=False)


@contextmanager
def _own_stack(services: AbstractSet[str]) -> Iterator[Settings]:
    """Settings of an empty stack, stopped and deleted afterwards; the archive's own services are never measured on."""
    from db import migrations

    folder = Path(tempfile.mkdtemp(prefix="glassplate-bench-"))
    folder.chmod(0o711)  # as root, PostgreSQL's user must be able to pass through
    ours = Settings(
        data_dir=folder / "stack", database_url=None, s3_endpoint_url=None, s3_access_key_id=None,
        s3_secret_access_key=None, prefect_api_url=None, prefect_api_key=None, prefect_auth_string=None,
    )  # fmt: skip
    running = None
    try:
        with stack.interruptible():
            running = stack.start(ours, _progress, services, usual_ports=False)
            settings = running.settings
            os.environ.update({**settings.environment(), **prefect_server.client_environment(settings)})
            os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "WARNING"  # to the server everything is told as ever
            assert settings.database_url is not None, "its PostgreSQL is up"
            migrations.migrate(settings.database_url.get_secret_value())
            store = open_store(settings)
            for bucket in (settings.masters_bucket, settings.restored_bucket):
                store.ensure_bucket(bucket)
            yield settings
    except StackError as error:
        said.print(str(error), style="red", markup=False)
        raise typer.Exit(1) from error
    finally:
        if running is not None:
            running.stop()
        shutil.rmtree(folder, ignore_errors=True)
