"""ImageNet, or any set of labelled images in the same shards, as a LightningDataModule."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Literal

import torch
from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities import rank_zero_only

from datamodules.decoding.region import why_not
from datamodules.decoding.transforms import EvalTransform, TrainTransform
from datamodules.loading.batches import Batches
from datamodules.loading.loader import EvalLoader, TrainLoader
from datamodules.loading.workers import worker_context
from datamodules.mixing import clustering_warning
from datamodules.plan import TrainPlan, rank_batch
from datamodules.remote.cache import ShardCache
from datamodules.remote.packed import cached_bytes, check_cache, default_cache_dir, load_remote
from datamodules.remote.urls import is_remote, local_path
from datamodules.shards.manifest import Manifest

log = logging.getLogger("datamodules")


class ImageNetDataModule(LightningDataModule):
    """Images and labels from packed shards, for any number of devices and nodes.

    A batch is `(images, labels, sample_ids)`. Images are uint8 (B, 3, H, W) RGB; labels and sample
    ids are int64 (B,). The content of global batch t of an epoch depends on the data, `seed`,
    `batch_size`, `streams` and `window`, and on nothing else.

    Args:
        root: Folder of packed data, with `train/` and `val/` (`python -m datamodules.pack` makes
            it); a path, or a URL such as https://, s3:// or gs://.
        batch_size: Images in a training batch over all devices and nodes. The ranks share it
            equally.
        workers: Processes that read and decode, for each device; 0 reads in the training process.
        image_size: Side of the images the network sees, in pixels.
        resize_size: Shorter side of a validation image before its centre is cropped, in pixels.
        seed: Of the order of the samples and of their augmentation.
        min_scale: Smallest area of a random training crop, as a share of the image.
        window: Shuffle window, in shards. More mixes better and reads from more places at once; all
            shards or more is a true random permutation.
        streams: Streams a training epoch is cut into. Where the devices divide it and it divides
            the batch, each device reads its own shards only; the order of the samples is the same
            in any case.
        max_unreadable: Largest share of the samples that may be unreadable before the run stops.
            Each is named in the log, its place is filled, and the loss does not see it.
        audit_dir: Folder in which every device notes the sample ids of each training step, for
            `python -m datamodules.audit`.
        cache_dir: Folder for copies of all shards, best on a disk of the node's own; also of those
            on a file system that nodes share, which is then read once a node. By default only
            remote shards are copied, into a folder of the user's in the temporary one ($TMPDIR).
        cache_gib: The most that those copies may take, in GiB, for all processes of a node.
        allow_pipe: Whether to run the commands that a manifest of yours names as sources
            (`pipe:...`). One from elsewhere could name any command.
        decode: Where JPEGs are decoded. With "cpu" the workers do it, to the same pixels on every
            machine. With "cuda" each GPU decodes its own with nvJPEG: the workers only read and
            check, so they need few cores, but the pixels are nvJPEG's own, so train and validate
            with the same. The samples, crops and flips are the same. "auto" is "cpu", as nobody
            has measured yet what "cuda" gains or costs in speed and accuracy.
    """

    def __init__(
        self,
        root: str,
        batch_size: int = 256,
        workers: int = 4,
        image_size: int = 224,
        resize_size: int = 256,
        seed: int = 0,
        min_scale: float = 0.08,
        window: int = 2,
        streams: int = 64,
        max_unreadable: float = 0.001,
        audit_dir: str | None = None,
        cache_dir: str | None = None,
        cache_gib: float = 64.0,
        allow_pipe: bool = False,
        decode: Literal["auto", "cpu", "cuda"] = "auto",
    ) -> None:
        super().__init__()
        for name, value in {"batch_size": batch_size, "window": window, "streams": streams}.items():
            if value < 1:
                raise ValueError(f"{name} is {value}, but it must be at least 1")
        if not 0 <= max_unreadable <= 1:
            raise ValueError(f"max_unreadable is {max_unreadable}, but it is a share, from 0 to 1")
        if decode not in ("auto", "cpu", "cuda"):
            raise ValueError(f"decode is {decode!r}, but it must be auto, cpu or cuda")
        self.root = root.rstrip("/") if is_remote(root) else local_path(root)
        self.batch_size = batch_size
        self.workers = workers
        self.seed = seed
        self.window = window
        self.streams = streams
        self.max_unreadable = max_unreadable
        self.audit_dir = None if audit_dir is None else Path(audit_dir)
        folder = default_cache_dir() if cache_dir is None else Path(cache_dir)
        self.cache = ShardCache(folder, int(cache_gib * 2**30), local=cache_dir is not None)
        self.allow_pipe = allow_pipe
        self.decode = decode
        self._train_transform = TrainTransform(image_size, min_scale)
        self._eval_transform = EvalTransform(image_size, resize_size)
        self._manifests: dict[str, Manifest] = {}
        self._loaders: list[TrainLoader | EvalLoader] = []
        self._session = 0
        if workers:
            worker_context()  # its imports take seconds; meanwhile the network is built

    @property
    def train_manifest(self) -> Manifest:
        """What the training shards hold."""
        return self._manifest("train")

    @property
    def val_manifest(self) -> Manifest:
        """What the validation shards hold."""
        return self._manifest("val")

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

    def setup(self, stage: str) -> None:
        """Find what is wrong with the data before anything is trained.

        Raises:
            ValueError: missing or damaged data, classes that differ between training and
                validation, a batch size that the ranks do not divide, or decoding on a GPU
                without one.
        """
        val = self.val_manifest
        if self._decoding_device is None:
            self._tell_of_slow_decoding()
        if stage == "fit":
            if self.train_manifest.classes != val.classes:
                raise ValueError(
                    f"the {self.train_manifest.num_classes} training classes and the "
                    f"{val.num_classes} validation classes in {self.root} are not the same, so "
                    "their labels do not match; pack both splits again, from the same class list"
                )
            self.check_world_size(self._rank_and_world_size[1])
            if self.trainer is not None:
                # The same on all ranks, and later than that of an earlier start.
                self._session = self.trainer.strategy.broadcast(time.time_ns())
            self._warn_of_clustering()
            nodes = self.trainer.num_nodes if self.trainer else 1
            streams = self.streams // nodes if self._streams_are_shared else self.streams
            check_cache(self.train_manifest, self.cache, streams, self.window)

    def check_world_size(self, world_size: int) -> None:
        """Make sure that the ranks can share a batch; asked before there are any, the answer comes once.

        Raises:
            ValueError: they do not divide it.
        """
        rank_batch(self.batch_size, world_size)

    @rank_zero_only
    def _tell_of_slow_decoding(self) -> None:
        reason = why_not()  # compiles the decoder, so that the workers find it
        if reason is not None:
            log.warning(
                "images are decoded whole, which takes longer than decoding what is seen of them: %s",
                reason,
            )

    @rank_zero_only
    def _warn_of_clustering(self) -> None:
        manifest = self.train_manifest
        plan = TrainPlan(
            manifest.counts,
            seed=self.seed,
            epoch=0,
            global_batch=self.batch_size,
            streams=self.streams,
            window=self.window,
        )
        warning = clustering_warning(manifest, plan) if len(plan) else None
        if warning is not None:
            log.warning(warning)

    def train_dataloader(self) -> TrainLoader:
        """The training batches of this rank: resumable, `len()` is that of the whole epoch."""
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
            pin_memory=self._pin_memory,
            device=self._decoding_device,
            audit_dir=self.audit_dir,
            session=self._session,
        )
        self._loaders.append(loader)
        return loader

    def val_dataloader(self) -> EvalLoader:
        """The validation batches of this rank: every sample once over all ranks."""
        rank, world_size = self._rank_and_world_size
        loader = EvalLoader(
            self.batches("val"),
            -(-self.batch_size // world_size),
            rank=rank,
            world_size=world_size,
            workers=self.workers,
            pin_memory=self._pin_memory,
            device=self._decoding_device,
        )
        self._loaders.append(loader)
        return loader

    def test_dataloader(self) -> EvalLoader:
        """The validation batches: the test set of ImageNet has no public labels."""
        return self.val_dataloader()

    def batches(self, split: str) -> Batches:
        """Reads batches of "train" or "val" by (epoch, sample ids), for those who choose them themselves."""
        manifest = self._manifest(split)
        transform = self._train_transform if split == "train" else self._eval_transform
        cache = self.cache if cached_bytes(manifest, self.cache) else None
        return Batches(manifest, transform, self.seed, cache)

    def teardown(self, stage: str) -> None:
        """Stop the workers."""
        self._close()

    def on_exception(self, exception: BaseException) -> None:
        """Stop the workers: Lightning tears no data module down after an error."""
        self._close()

    def _close(self) -> None:
        while self._loaders:
            self._loaders.pop().close()

    def _manifest(self, split: str) -> Manifest:
        if split not in self._manifests:
            self._manifests[split] = self._load(split)
        return self._manifests[split]

    def _load(self, split: str) -> Manifest:
        if is_remote(self.root):
            return load_remote(f"{self.root}/{split}", self.cache)
        root = Path(self.root)
        if not (root / split).is_dir():
            problem = "has no folder " + split if root.is_dir() else "does not exist"
            raise ValueError(
                f"the data folder {root} {problem}; pack your images into it (see "
                "`python -m datamodules.pack --help`), or try the generated data of `make demo`"
            )
        return Manifest.load(root / split, allow_pipe=self.allow_pipe)

    # Lightning launches processes in many ways, and not all of them set RANK and WORLD_SIZE; the
    # trainer always knows.

    @property
    def _rank_and_world_size(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    @property
    def _streams_are_shared(self) -> bool:
        """Whether each rank reads streams of its own: see `TrainPlan`."""
        _, world_size = self._rank_and_world_size
        return self.streams % world_size == 0 and self.batch_size % self.streams == 0

    @property
    def _accumulate(self) -> int:
        return self.trainer.accumulate_grad_batches if self.trainer else 1

    @property
    def _decoding_device(self) -> torch.device | None:
        """What decodes plain JPEGs, if not the workers."""
        if self.decode != "cuda":
            return None
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cuda")
        if device.type != "cuda" or not torch.cuda.is_available():
            where = "this machine has none" if device.type == "cuda" else f"this run is on {device}"
            raise ValueError(
                f"decode is cuda, which takes an NVIDIA GPU, but {where}; leave out --data.decode, "
                "or train on a GPU"
            )
        return device

    @property
    def _pin_memory(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
