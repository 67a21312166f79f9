"""The training loop: one for every recipe, on two CPU cores or one GPU, killed and resumed with the same curve.

``python -m models.training.loop RECIPE --data DIR --minutes M --out DIR`` leaves in ``out``:

- ``log.jsonl``: one object a line, ``event`` = begin, step, measure, end;
- ``best.safetensors`` and ``best.json``: the averaged weights that measured best, at half precision, and their card;
- ``sheet-STEP.png`` with each measurement: held-out samples, truth and result side by side;
- ``checkpoint-STEP/`` and ``checkpoint.json``: everything needed to go on, in files of at most 16 MiB.

The same command again goes on from the checkpoint; what the log said after it is cut off, because it is said again.
Step ``s`` sees the samples ``s * batch`` and on, each drawn from its own number, so a resumed run sees what it would
have seen. The learning rate rises, stays, and falls to zero over the last part of the steps or of the time, whichever
ends first; the step at which it began to fall is part of the checkpoint.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from models.network import device_class, fitting_dtype
from models.training import data, losses
from models.training.data import Arrays, Samples, Stock
from models.training.recipes import RECIPES, Recipe
from models.weights import WeightsError, file_sha256, load_strictly, read_state, write_state

log = logging.getLogger(__name__)

PART_BYTES = 16 * 2**20
SHEET_ROWS = 12
LOG_STEPS = 10
PREFETCH = 4


class TrainingError(Exception):
    """A run cannot begin or go on; says what was expected and what was found."""


@dataclass(eq=False)
class State:
    """Everything that changes while a network learns; ``saved`` and ``restore`` are the whole checkpoint."""

    recipe: Recipe
    net: nn.Module
    average: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    critic: nn.Module | None = None
    critic_optimizer: torch.optim.Optimizer | None = None
    step: int = 0
    seconds: float = 0.0
    falls_from: int | None = None  # the step at which the learning rate began to fall
    best: float = -np.inf
    sums: dict[str, float] = field(default_factory=dict)  # since the last line of the log

    def _parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = {"net": self.net, "average": self.average, "optimizer": self.optimizer}
        parts |= {"scaler": self.scaler}
        if self.critic is not None:
            parts |= {"critic": self.critic, "critic_optimizer": self.critic_optimizer}
        return parts

    def saved(self) -> dict[str, Any]:
        """Plain values and tensors only."""
        plain = {"step": self.step, "seconds": self.seconds, "falls_from": self.falls_from, "best": self.best}
        states = {name: part.state_dict() for name, part in self._parts().items()}
        return {**plain, "sums": dict(self.sums), "recipe": self.recipe.digest(), **states}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Takes over a checkpoint; raises TrainingError when it is of another recipe."""
        if saved["recipe"] != self.recipe.digest():
            found = f"one of recipe {saved['recipe']}"
            raise TrainingError(f"checkpoint: expected one of recipe {self.recipe.digest()}, found {found}")
        for name, part in self._parts().items():
            part.load_state_dict(saved[name])
        self.step, self.seconds, self.falls_from = saved["step"], saved["seconds"], saved["falls_from"]
        self.best, self.sums = saved["best"], dict(saved["sums"])

    def last_step(self) -> int:
        """Where the run ends: after the recipe's steps, or when the falling learning rate reaches zero."""
        if self.falls_from is None:
            return self.recipe.steps
        share = self.recipe.falling_share
        return min(self.recipe.steps, self.falls_from + max(1, round(self.falls_from * share / (1 - share))))

    def rate(self) -> float:
        """The learning rate's share at this step: rising, 1, falling."""
        rising = min(1.0, (self.step + 1) / max(self.recipe.warmup_steps, 1))
        if self.falls_from is None:
            return rising
        return min(rising, (self.last_step() - self.step) / max(self.last_step() - self.falls_from, 1))


def train(
    recipe: Recipe,
    shards: Path,
    out: Path,
    *,
    minutes: float,
    device: str = "auto",
    workers: int = 1,
    start: Path | None = None,
    stop_after: int | None = None,
) -> dict[str, float]:
    """Trains ``recipe`` on the shards until its steps or ``minutes`` (of all its runs together) are over.

    ``start``: weights to begin from instead of random ones. ``stop_after``: leave after so many steps as if killed,
    without a last checkpoint. Returns the last measurement. Raises TrainingError, data.TrainingDataError.
    """
    cv2.setNumThreads(0)  # a forked worker inherits OpenCV's threads as dead ones, and would wait for them for ever
    out.mkdir(parents=True, exist_ok=True)
    found = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = torch.device(found if device == "auto" else device)
    dtype = fitting_dtype(chosen)
    free = recipe.free_data_only
    stock = data.open_stock(shards, recipe.sets, "train", free_data_only=free)
    fixed = _fixed_samples(recipe, data.open_stock(shards, recipe.sets, "held_out", free_data_only=free))
    state = _begin(recipe, chosen, dtype, start)
    saved = _read_checkpoint(out)
    if saved is not None:
        state.restore(saved)
    journal = Journal(out / "log.jsonl", state.step if saved is not None else None)
    where = {"hardware": device_class(chosen), "dtype": str(dtype), "pictures": len(stock.pictures)}
    of = {"step": state.step, "recipe": recipe.name, "digest": recipe.digest(), "held_out": len(fixed)}
    journal.write("begin", {**of, **where, "parameters": sum(p.numel() for p in state.net.parameters())})
    facts = {"trained_on": recipe.sets, "data_terms": _strictest(stock), **where}
    measured: dict[str, float] = {}
    begun = mark = time.perf_counter()
    already = checked = logged = state.seconds
    waited = 0.0
    for batch in _loader(recipe, stock, state.step, workers, chosen):
        waited += time.perf_counter() - mark
        if state.falls_from is None and _time_to_fall(state, minutes):
            state.falls_from = state.step
        terms = _step(state, _moved(batch, chosen), chosen, dtype)
        state.step += 1
        state.seconds = already + time.perf_counter() - begun
        for name, value in terms.items():
            state.sums[name] = state.sums.get(name, 0.0) + value
        if state.step % LOG_STEPS == 0:
            passed = state.seconds - logged
            means = {name: round(value / LOG_STEPS, 6) for name, value in state.sums.items()}
            times = {"step_s": round(passed / LOG_STEPS, 4), "loader_share": round(waited / max(passed, 1e-9), 3)}
            journal.write("step", {"step": state.step, "rate": round(state.rate(), 4), **means, **times})
            state.sums, waited, logged = {}, 0.0, state.seconds
        over = state.step >= state.last_step() or state.seconds >= 60 * minutes
        if stop_after is not None and state.step >= stop_after:
            return measured
        if over or state.seconds - checked >= 60 * recipe.measure_minutes:
            measured = _measure(state, fixed, chosen, dtype, out, facts)
            journal.write("measure", {"step": state.step, "best": state.best, **measured})
            state.seconds = checked = logged = already + time.perf_counter() - begun
            _write_checkpoint(out, state)
        if over:
            break
        mark = time.perf_counter()
    journal.write("end", {"step": state.step, "minutes": round(state.seconds / 60, 2), "best": state.best})
    return measured


def _begin(recipe: Recipe, device: torch.device, dtype: torch.dtype, start: Path | None) -> State:
    torch.manual_seed(recipe.seed)
    net = recipe.build()
    if start is not None:
        learning = [p for p in net.parameters() if p.requires_grad]
        load_strictly(net, read_state(start), str(start)).train()
        for parameter in learning:
            parameter.requires_grad_(True)
    net = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(net).eval().requires_grad_(False)
    optimizer = _optimizer(net, recipe.learning_rate, recipe)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
    state = State(recipe, net, average, optimizer, scaler)
    if recipe.adversarial is not None:
        critic = recipe.adversarial.build().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        state.critic = critic
        state.critic_optimizer = _optimizer(critic, recipe.adversarial.learning_rate, recipe)
    return state


def _optimizer(net: nn.Module, rate: float, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW; weight decay on matrices and filters only."""
    filters = [p for p in net.parameters() if p.ndim > 1]
    vectors = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": filters, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=recipe.betas)


def _loader(recipe: Recipe, stock: Stock, step: int, workers: int, device: torch.device) -> DataLoader[Arrays]:
    samples = Samples(stock, recipe.sampler, recipe.seed, step * recipe.batch, (recipe.steps - step) * recipe.batch)
    return DataLoader(
        samples,
        recipe.batch,
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        pin_memory=device.type == "cuda",
        worker_init_fn=_calm if workers else None,
        drop_last=True,
    )


def _calm(_: int) -> None:
    """A worker is one process among several: its libraries must not start threads of their own."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def _moved(batch: Mapping[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    layouts = {name: torch.channels_last if value.ndim == 4 else torch.preserve_format for name, value in batch.items()}
    return {name: value.to(device, non_blocking=True, memory_format=layouts[name]) for name, value in batch.items()}


def _time_to_fall(state: State, minutes: float) -> bool:
    share = 1 - state.recipe.falling_share
    return state.step >= round(state.recipe.steps * share) or state.seconds >= 60 * minutes * share


def _step(state: State, batch: dict[str, torch.Tensor], device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """One step of the generator, one of the critic where there is one, one of the average; returns the terms."""
    recipe, adversarial, critic = state.recipe, state.recipe.adversarial, state.critic
    cast = torch.autocast(device.type, dtype, enabled=dtype is not torch.float32)
    judged = adversarial is not None and critic is not None and state.step >= adversarial.from_step
    with cast:
        output = state.net(batch["input"])
    terms = recipe.loss(output, batch)
    if judged and adversarial is not None and critic is not None:
        critic.requires_grad_(False)
        with cast:
            scores = critic(adversarial.see(output, batch))
        terms["adversarial"] = adversarial.weight * losses.generator_hinge(scores)
    total = torch.stack(list(terms.values())).sum()
    _descend(state, state.net, state.optimizer, total, recipe.learning_rate)
    if judged and adversarial is not None and critic is not None and state.critic_optimizer is not None:
        critic.requires_grad_(True)
        with cast:
            made = critic(adversarial.see(output.detach(), batch))
            seen = adversarial.see(batch["target"], batch)
            sloped = adversarial.r1 > 0 and state.step % adversarial.r1_every == 0
            real = critic(seen.requires_grad_(sloped))
        terms["critic"] = losses.critic_hinge(real, made)
        if sloped:
            weight = adversarial.r1 / 2 * adversarial.r1_every
            terms["critic"] = terms["critic"] + weight * losses.slope_penalty(real, seen)
        _descend(state, critic, state.critic_optimizer, terms["critic"], adversarial.learning_rate)
    state.scaler.update()
    _follow(state)
    return {name: float(value.detach()) for name, value in terms.items()}


def _descend(state: State, net: nn.Module, optimizer: torch.optim.Optimizer, loss: torch.Tensor, rate: float) -> None:
    """Backward, clip, step. Raises TrainingError when the loss is not a number any more."""
    if not bool(torch.isfinite(loss)):
        found = f"{float(loss)} at step {state.step}"
        raise TrainingError(f"recipe {state.recipe.name}: expected a finite loss, found {found}")
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(state.scaler.scale(loss))
    state.scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(net.parameters(), state.recipe.clip_norm)
    for group in optimizer.param_groups:
        group["lr"] = rate * state.rate()
    state.scaler.step(optimizer)


def _follow(state: State) -> None:
    """The averaged weights follow the learning ones, quickly at first."""
    decay = min(state.recipe.average_decay, (1 + state.step) / (10 + state.step))
    with torch.no_grad():
        learning = state.net.state_dict()
        for name, value in state.average.state_dict().items():
            if value.is_floating_point():
                value.lerp_(learning[name], 1 - decay)
            else:
                value.copy_(learning[name])


def _fixed_samples(recipe: Recipe, stock: Stock) -> list[Arrays]:
    samples = data.held_out(stock, recipe.sampler, recipe.seed, recipe.held_out)
    return [samples[i] for i in range(len(samples))]


def _measure(
    state: State, fixed: Sequence[Arrays], device: torch.device, dtype: torch.dtype, out: Path, facts: Mapping[str, Any]
) -> dict[str, float]:
    """Measures the averaged weights on the held-out samples, writes the sheet, keeps the weights if they are best."""
    pairs = []
    with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
        for sample in fixed:
            given = torch.from_numpy(sample["input"])[None].to(device, memory_format=torch.channels_last)
            pairs.append((state.average(given)[0].float().cpu().numpy(), sample))
    measured = {name: round(value, 5) for name, value in state.recipe.measure(pairs).items()}
    rows = [np.concatenate(state.recipe.panels(output, sample), 1) for output, sample in pairs[:SHEET_ROWS]]
    sheet = (np.concatenate(rows, 0) * 255).round().astype(np.uint8)
    cv2.imwrite(str(out / f"sheet-{state.step:06d}.png"), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    if measured[state.recipe.best] > state.best:
        state.best = measured[state.recipe.best]
        weights = out / "best.safetensors"
        write_state({k: halved(v) for k, v in state.average.state_dict().items()}, weights)
        card = {"recipe": state.recipe.name, "digest": state.recipe.digest(), "steps": state.step, "measures": measured}
        card |= {"sha256": file_sha256(weights), "size_bytes": weights.stat().st_size}
        card |= {"licence": "Apache-2.0", "date": datetime.now(UTC).date().isoformat(), **facts}
        _write_json(out / "best.json", card)
    return measured


def halved(tensor: torch.Tensor) -> torch.Tensor:
    """Filters at half precision; vectors (biases, norms) are few and stay as they are."""
    return tensor.detach().cpu().half() if tensor.is_floating_point() and tensor.ndim > 1 else tensor.detach().cpu()


def _strictest(stock: Stock) -> str:
    found = {entry.terms for entry in stock.pictures.entries}
    return next(terms for terms in ("unknown", "research-only", "free") if terms in found)


def _write_checkpoint(out: Path, state: State) -> None:
    """A new folder of parts first, then the pointer to it, then the old ones away: a kill does no harm."""
    buffer = io.BytesIO()
    torch.save(state.saved(), buffer)
    content = buffer.getbuffer()
    folder = out / f"checkpoint-{state.step:07d}"
    folder.mkdir(exist_ok=True)
    parts = [f"{folder.name}/part-{i:03d}" for i in range(-(-len(content) // PART_BYTES))]
    for i, part in enumerate(parts):
        (out / part).write_bytes(content[i * PART_BYTES : (i + 1) * PART_BYTES])
    _write_json(out / "checkpoint.json", {"step": state.step, "bytes": len(content), "parts": parts})
    for old in out.glob("checkpoint-*"):
        if old != folder:
            shutil.rmtree(old)


def _read_checkpoint(out: Path) -> dict[str, Any] | None:
    pointer = out / "checkpoint.json"
    if not pointer.is_file():
        return None
    said = json.loads(pointer.read_text())
    content = b"".join((out / part).read_bytes() for part in said["parts"])
    if len(content) != said["bytes"]:
        raise TrainingError(f"{pointer}: expected {said['bytes']} bytes of parts, found {len(content)}")
    loaded: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return loaded


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(part, path)  # noqa: PTH105  (Path.replace is the same; this says what matters: it is atomic)


class Journal:
    """``log.jsonl``; begun anew, or cut off after ``keep_to_step`` when a run goes on."""

    def __init__(self, path: Path, keep_to_step: int | None) -> None:
        self.path = path
        lines = path.read_text().splitlines() if keep_to_step is not None and path.is_file() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= (keep_to_step or 0)]
        path.write_text("".join(f"{line}\n" for line in kept))

    def write(self, event: str, facts: Mapping[str, Any]) -> None:
        """Appends one line."""
        line = json.dumps({"event": event, **facts})
        with self.path.open("a") as file:
            file.write(line + "\n")
        log.info("%s", line)


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module."""
    first = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m models.training.loop", description=first)
    parser.add_argument("recipe", choices=sorted(RECIPES))
    parser.add_argument("--data", type=Path, required=True, help="folder of shards")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True, help="time for this run and the ones it resumes")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw samples")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads of the network")
    parser.add_argument("--start", type=Path, default=None, help="weights to begin from")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    try:
        train(
            RECIPES[chosen.recipe],
            chosen.data,
            chosen.out,
            minutes=chosen.minutes,
            device=chosen.device,
            workers=chosen.workers,
            start=chosen.start,
        )
    except (TrainingError, data.TrainingDataError, WeightsError) as error:
        log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
