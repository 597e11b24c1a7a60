"""Measures variants in turns, with a clock that waits for the device."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import TypeVar

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

Result = TypeVar("Result")


def take_turns(
    names: Sequence[str], rounds: int, measure: Callable[[str], Result]
) -> dict[str, list[Result]]:
    """Measure each variant once in each round, so that other load affects all of them alike.

    Returns:
        The results of `measure` for each name, round by round.
    """
    results: dict[str, list[Result]] = {name: [] for name in names}
    turns = [name for _ in range(rounds) for name in names]
    console = Console(stderr=True)
    hidden = not console.is_terminal
    for name in track(turns, "measuring", console=console, transient=True, disable=hidden):
        results[name].append(measure(name))
    return results


def chosen(
    variants: Iterable[str], requested: Sequence[str], left_out: Iterable[str] = ()
) -> list[str]:
    """The variants to measure.

    Args:
        variants: All variants.
        requested: Those that the user asks for, if any.
        left_out: Those that are measured only on request.

    Raises:
        ValueError: A requested variant does not exist.
    """
    known, skipped = list(variants), set(left_out)
    for name in requested:
        if name not in known:
            raise ValueError(f"--variants {name}: choose from {', '.join(known)}")
    return list(requested) or [name for name in known if name not in skipped]


def device_of(name: str | None) -> torch.device:
    """The device to measure on; for None a GPU if there is one, otherwise the CPU.

    It also turns TF32 off, so that float32 means float32.

    Raises:
        ValueError: There is no such device.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    if name.partition(":")[0] not in ("cpu", "cuda"):
        raise ValueError(f"--device {name}: benchmarks run on cpu or cuda")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {name}: there is no GPU here; choose --device cpu")
    torch.backends.cudnn.allow_tf32 = False
    return device


def step_seconds(step: Callable[[], object], steps: int, device: torch.device) -> list[float]:
    """Measure the seconds of each of `steps` consecutive calls.

    On CUDA, events between the calls give the GPU's own time. The host runs ahead as it does in a
    training, and counts only where the GPU waits for it.
    """
    if device.type != "cuda":
        moments = [time.perf_counter()]
        for _ in range(steps):
            step()
            moments.append(time.perf_counter())
        return [after - before for before, after in pairwise(moments)]
    with torch.cuda.device(device):  # events are recorded on the current device
        events = [torch.cuda.Event(enable_timing=True) for _ in range(steps + 1)]
        torch.cuda.synchronize()
        events[0].record()
        for event in events[1:]:
            step()
            event.record()
        torch.cuda.synchronize()
    return [before.elapsed_time(after) / 1e3 for before, after in pairwise(events)]


def recorded(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Record a call as a CUDA graph: its kernels start together, with the same memory each time.

    Args:
        call: Touches the same tensors in each call. It is called three times first, on a stream of
            its own as CUDA requires, to allocate what is allocated once.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay
