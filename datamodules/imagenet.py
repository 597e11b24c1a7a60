"""ImageNet, or any set of labelled images in the same shards, as a LightningDataModule."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pytorch_lightning import LightningDataModule
from pytorch_lightning.callbacks import BatchSizeFinder
from pytorch_lightning.utilities import rank_zero_only
from torch.nn import Module

from datamodules.common.files import user_path
from datamodules.common.ranges import YEAR, require_range
from datamodules.decoding.augmentation import Crop, train_transforms
from datamodules.decoding.region import why_not
from datamodules.decoding.transforms import EvalTransform
from datamodules.loading.batches import Batches
from datamodules.loading.loader import (
    EvalLoader,
    TrainLoader,
    identity_of,
    require_same_order,
    require_step,
)
from datamodules.mixing import clustering_warning
from datamodules.plan import TrainPlan, rank_batch, ranks_own_streams
from datamodules.processes.children import default_workers
from datamodules.processes.forkserver import forkserver_context
from datamodules.remote.cache import ShardCache
from datamodules.remote.dataset import cached_bytes, check_cache, default_cache_dir
from datamodules.shards.manifest import Manifest
from datamodules.splits import Splits

log = logging.getLogger("datamodules")

RANGES = {
    "batch_size": (1,),
    "workers": (0,),
    "image_size": (1,),
    "resize_size": (1,),
    "seed": (0,),
    "min_scale": (0, 1),
    "window": (1,),
    "streams": (1,),
    "max_unreadable": (0, 1),
    "cache_gib": (0, 2**30),
    "patience": (0, YEAR),
}
"""The least and the largest value of settings."""


class ImageNetDataModule(LightningDataModule):
    """Images and labels from packed shards, for any number of devices and nodes.

    A batch is `(images, labels, sample_ids)`: uint8 (B, 3, H, W) RGB, int64 (B,) and int64 (B,).
    The content of global batch t of an epoch depends on the data, `seed`, `batch_size`, `streams`
    and `window`, and on nothing else.

    Args:
        root: Path or URL (https://, s3://, gs://, ...) of packed data, a folder with `train/` and
            `val/` that `python -m datamodules.pack` made.
        batch_size: Images in a training batch over all devices and nodes, which share it equally.
        workers: Number of processes per device that read and decode; 0 reads in the training
            process. By default 4, or the number of CPUs if there are fewer.
        image_size: Side of the images that the network sees, in pixels.
        resize_size: Shorter side of a validation image before its centre is cropped, in pixels.
        seed: Seed for the order of the samples and their augmentation, at least 0.
        crop: How training images are cropped: "random_resized" takes a part of random size and
            shape, "random" a square from the image resized to `resize_size`.
        min_scale: Smallest area of a random resized crop, as a fraction of the image.
        augment: Further transforms of training images, such as
            `torchvision.transforms.v2.TrivialAugmentWide`: each takes and returns uint8 (3, H, W),
            and draws from torch's generator.
        train_sizes: Side of training images from an epoch on, such as {0: 128, 6: 160, 12: 192} for
            progressive resizing; by default image_size in all epochs.
        window: Shuffle window, in shards. A larger one mixes better and reads from more places at
            once; with all shards or more, the order is a true random permutation.
        streams: Number of streams that a training epoch is cut into. If the devices divide it and
            it divides the batch, each device reads only its own shards. The order of the samples
            does not depend on that.
        max_unreadable: Largest fraction of the samples that may be unreadable before the run stops,
            0 to 1. Each one is named in the log, and the loss ignores its place in the batch.
        audit_dir: Folder where every device records the sample ids of each training step, for
            `python -m datamodules.audit`.
        cache_dir: Folder for copies of all shards, best on a disk of the node's own. Shards on a
            file system that nodes share are copied too, and so read once per node. By default only
            remote shards are copied, to a folder in the temporary folder ($TMPDIR).
        cache_gib: Maximum size of these copies, in GiB, for all processes of a node.
        allow_pipe: Whether to run commands that the root or your own manifest names as sources
            (`pipe:...`); settings or a manifest from elsewhere could name any. In train.py, only
            the command line can allow it, not a config.
        patience: Minutes to wait for a batch from a process that reads before the run ends.

    Raises:
        ValueError: A value is out of its range.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from datamodules.demo.generate import generate
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = generate(Path(folder), {"train": 40, "val": 10}, seed=0)
        ...     data = ImageNetDataModule(folder, batch_size=4, workers=0, image_size=64)
        ...     images, labels, sample_ids = next(iter(data.train_dataloader()))
        >>> images.shape, labels.shape, sample_ids.shape
        (torch.Size([4, 3, 64, 64]), torch.Size([4]), torch.Size([4]))
    """

    def __init__(
        self,
        root: str,
        batch_size: int = 256,
        workers: int | None = None,
        image_size: int = 224,
        resize_size: int = 256,
        seed: int = 0,
        crop: Crop = "random_resized",
        min_scale: float = 0.08,
        augment: Sequence[Module] = (),
        train_sizes: Mapping[int, int] | None = None,
        window: int = 2,
        streams: int = 64,
        max_unreadable: float = 0.001,
        audit_dir: str | None = None,
        cache_dir: str | None = None,
        cache_gib: float = 64.0,
        allow_pipe: bool = False,
        patience: float = 30.0,
    ) -> None:
        super().__init__()
        given = locals()
        for name, limits in RANGES.items():
            if given[name] is not None:
                require_range(name, given[name], *limits)
        self.batch_size = batch_size
        self.image_size, self.resize_size = image_size, resize_size
        self.workers = default_workers() if workers is None else workers
        self._patience = 60 * patience
        self.seed = seed
        self.window = window
        self.streams = streams
        self.max_unreadable = max_unreadable
        self.audit_dir = None if audit_dir is None else user_path(audit_dir)
        folder = default_cache_dir() if cache_dir is None else user_path(cache_dir)
        self.cache = ShardCache(folder, int(cache_gib * 2**30), local=cache_dir is not None)
        self._splits = Splits(root, self.cache, allow_pipe)
        self._train_transforms = train_transforms(
            image_size, resize_size, crop, min_scale, augment, train_sizes
        )
        self._eval_transform = EvalTransform(image_size, resize_size)
        self._loaders: list[TrainLoader | EvalLoader] = []
        self._session = 0
        if self.workers:
            forkserver_context()  # its imports take seconds; meanwhile, the network is built

    @property
    def root(self) -> str:
        """Path or URL of the packed data."""
        return self._splits.root

    @property
    def train_manifest(self) -> Manifest:
        """What the training shards hold."""
        return self._splits["train"]

    @property
    def val_manifest(self) -> Manifest:
        """What the validation shards hold."""
        return self._splits["val"]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class ids by label: wnids for ImageNet."""
        return self.val_manifest.classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names for people, by label."""
        return self.val_manifest.class_names

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.val_manifest.num_classes

    @property
    def present(self) -> tuple[int, ...] | None:
        """Labels of the classes that count in evaluations; None for all."""
        return self._splits.present

    @property
    def class_counts(self) -> tuple[int, ...]:
        """Number of training images of each class, by label."""
        return self._splits.class_counts

    def setup(self, stage: str) -> None:
        """Find out what is wrong with the data before anything is trained.

        Raises:
            ValueError: Data is missing or damaged, training and validation have different classes,
                the ranks do not divide the batch size, it is more than there are samples, a
                callback would change it, or the cache is too small.
        """
        _ = self.val_manifest
        self._warn_of_slow_decoding()
        if stage == "fit":
            self._splits.check_classes()
            _, world_size = self._rank_and_world_size
            self.check_world_size(world_size)
            require_step(self.train_manifest, self.batch_size, self._accumulate)
            if self.trainer is not None:
                callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
                if any(isinstance(each, BatchSizeFinder) for each in callbacks):
                    raise ValueError(
                        "BatchSizeFinder: the order of the samples depends on batch_size, so the "
                        "finder cannot change it; try sizes with fast_dev_run of the Trainer"
                    )
                # The same on all ranks, and later than that of any earlier start.
                self._session = self.trainer.strategy.broadcast(time.time_ns())
            self._warn_of_clustering()
            nodes = self.trainer.num_nodes if self.trainer else 1
            shared = ranks_own_streams(self.streams, self.batch_size, world_size)
            streams = self.streams // nodes if shared else self.streams
            check_cache(self.train_manifest, self.cache, streams, self.window)

    def check_world_size(self, world_size: int) -> None:
        """Make sure that the ranks can share a batch. Called before the ranks exist, it fails once.

        Raises:
            ValueError: The ranks do not divide the batch size.
        """
        rank_batch(self.batch_size, world_size)

    @rank_zero_only
    def _warn_of_slow_decoding(self) -> None:
        reason = why_not()  # compiles the decoder, so that the workers find it
        if reason is not None:
            log.warning("images are decoded whole, although only parts are used: %s", reason)

    @rank_zero_only
    def _warn_of_clustering(self) -> None:
        manifest = self.train_manifest
        order = {"seed": self.seed, "streams": self.streams, "window": self.window}
        plan = TrainPlan(manifest.counts, epoch=0, global_batch=self.batch_size, **order)
        warning = clustering_warning(manifest, plan) if len(plan) else None
        if warning is not None:
            log.warning(warning)

    def train_dataloader(self) -> TrainLoader:
        """The training batches of this rank: resumable, with the length of the whole epoch."""
        rank, world_size = self._rank_and_world_size
        loader = TrainLoader(
            self.batches("train"),
            self.batch_size,
            rank=rank,
            world_size=world_size,
            streams=self.streams,
            window=self.window,
            accumulate=self._accumulate,
            workers=self.workers,
            patience=self._patience,
            pin_memory=self._pin_memory,
            audit_dir=self.audit_dir,
            session=self._session,
        )
        self._loaders.append(loader)
        return loader

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints: what decides which samples a batch has."""
        return self._identity

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Make sure that a run is resumed with the same data in the same order.

        Raises:
            ValueError: The checkpoint is from a run with other data, or with another order.
        """
        require_same_order(state_dict, self._identity)

    @property
    def _identity(self) -> dict[str, Any]:
        order = {"seed": self.seed, "global_batch": self.batch_size, "streams": self.streams}
        order |= {"window": self.window, "accumulate": self._accumulate}
        return identity_of(self.train_manifest, order)

    @property
    def _accumulate(self) -> int:
        return self.trainer.accumulate_grad_batches if self.trainer else 1

    def val_dataloader(self) -> EvalLoader:
        """The validation batches of this rank: together, the ranks read every sample once."""
        rank, world_size = self._rank_and_world_size
        loader = EvalLoader(
            self.batches("val"),
            -(-self.batch_size // world_size),
            rank=rank,
            world_size=world_size,
            workers=self.workers,
            patience=self._patience,
            pin_memory=self._pin_memory,
        )
        self._loaders.append(loader)
        return loader

    def test_dataloader(self) -> EvalLoader:
        """The validation batches, because ImageNet's test set has no public labels."""
        return self.val_dataloader()

    def batches(self, split: str) -> Batches:
        """Read batches of "train" or "val" by (epoch, sample ids) of your own choice."""
        manifest = self._splits[split]
        transforms = self._train_transforms if split == "train" else {0: self._eval_transform}
        cache = self.cache if cached_bytes(manifest, self.cache) else None
        if cache is not None:
            cache.make_folder()  # here, because an error in a worker would come late
        return Batches(manifest, transforms, self.seed, cache)

    def teardown(self, stage: str) -> None:
        """Stop the workers."""
        while self._loaders:
            self._loaders.pop().close()

    def on_exception(self, exception: BaseException) -> None:
        """Stop the workers, because Lightning does not call `teardown` after an error."""
        self.teardown("exception")

    # From the trainer, which always knows. Not every launcher sets RANK and WORLD_SIZE.

    @property
    def _rank_and_world_size(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    @property
    def _pin_memory(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
