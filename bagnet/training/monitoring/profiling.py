"""What Lightning's Trainer calls a profiler: none by default, or a trace of a few steps."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any

from pytorch_lightning.profilers import PassThroughProfiler
from torch import profiler

from bagnet.run.ranks import is_first

WAIT, WARM_UP, STEPS = 5, 3, 5
"""Steps that are left out because they prepare things, that warm the profiler up, and that are
recorded."""


def profiler_of(chosen: Any, path: Path | None) -> Any:
    """The Trainer's profiler.

    Args:
        chosen: What the user has chosen, if anything.
        path: Gets a trace of rank 0, if the choice is "pytorch"; None leaves that to Lightning.
    """
    if chosen == "pytorch" and path is not None:
        return Trace(path) if is_first() else Unprofiled()
    return chosen or Unprofiled()


class Unprofiled(PassThroughProfiler):
    """Measures nothing, and quickly: Lightning asks its profiler some seventy times a step."""

    _nothing = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return self._nothing


class Trace(PassThroughProfiler):
    """Records five steps of a training, with what the host, the GPU and Lightning do in them.

    Lightning's `PyTorchProfiler` counts the batches of the first validation as steps, names the
    file after one of its methods, and prints a table of 130 columns.

    Args:
        path: Gets the trace in Chrome's JSON, which https://ui.perfetto.dev opens.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._profile: profiler.profile | None = None

    def setup(self, stage: str, local_rank: int | None = None, log_dir: str | None = None) -> None:
        super().setup(stage, local_rank, log_dir)
        steps = profiler.schedule(wait=WAIT, warmup=WARM_UP, active=STEPS, repeat=1)
        self._profile = profiler.profile(schedule=steps, on_trace_ready=self._write)
        self._profile.start()

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return _Action(action_name, self._profile)

    def teardown(self, stage: str | None) -> None:
        if self._profile is not None:
            recorder, self._profile = self._profile, None
            recorder.stop()
            if recorder.step_num < WAIT + WARM_UP:
                self._tell(f"none, because it begins after {WAIT + WARM_UP} steps")
        super().teardown(stage)

    def _write(self, recorder: profiler.profile) -> None:
        recorder.export_chrome_trace(str(self.path))
        self._tell(f"{self.path} (open it at https://ui.perfetto.dev)")

    @staticmethod
    def _tell(what: str) -> None:
        print(f"{'trace':12} {what}", flush=True)


class _Action(profiler.record_function):
    """Something that Lightning does; the end of a batch is the end of a step."""

    def __init__(self, name: str, recorder: profiler.profile | None) -> None:
        super().__init__(name)
        self._recorder = recorder if name == "run_training_batch" else None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        super().__exit__(kind, value, traceback)
        if self._recorder is not None:
            self._recorder.step()
