"""The settings of a run besides those of the network, the data and the Trainer."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class RunOptions:
    """Settings of the run.

    Args:
        checkpoint_minutes: minutes between checkpoints in the middle of an epoch, the most a crash
            can cost
        timeout_minutes: minutes that ranks wait for one that is stuck, before all of them end
        max_skipped_steps: steps in a row that are skipped if their loss or gradients are not
            finite; at 0, the first such loss ends the training
        evidence_images: number of validation images whose evidence is drawn after each epoch
        wandb_artifacts: upload the best and the last checkpoint to W&B when the training ends
        aggregations: for validate: other ways to aggregate the evidence, such as
            [median, clamp:0, masked:6]
    """

    checkpoint_minutes: float = 30.0
    timeout_minutes: float = 10.0
    max_skipped_steps: int = 0
    evidence_images: int = 12
    wandb_artifacts: bool = False
    aggregations: list[str] = field(default_factory=list)
