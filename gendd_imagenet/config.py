"""The flags and defaults for photographs. The scripts of sh/ hold the paper's ImageNet protocol."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from gendd.config import Config, Data, Optimizer, Run
from gendd.core.errors import InvalidSetting, naming
from gendd.core.ranges import Amount, CountOrNone, PixelCount, Range, Share
from gendd.methods.base import FEATURES_ALONE
from gendd_imagenet.hub_images import is_hub
from gendd_imagenet.reinforced import Reinforced, is_reinforced
from gendd_imagenet.shards import expand, is_shards, runs_command

CroppedShare = Annotated[float, Range(0, 1, above=True, remedy="1 looks at the whole shorter side")]


@dataclass(frozen=True)
class Photographs(Data):
    """The images and their labels."""

    dataset: str = "imagenet"
    """Data set: imagenet, a folder with train/<class>/ and val/<class>/, a folder of images, hfds/OWNER/NAME
    [:CONFIGURATION], or WebDataset shards. Shards are a folder, a file or brace pattern (.tar, .tar.gz, .tgz, .tar.bz2,
    .tar.xz), pipe:, http(s)://, hf://, s3://, gs:// or az://."""
    images: str | None = None
    """Images to learn from without labels or an evaluation set: a folder, shards, or hfds/OWNER/NAME. Replaces
    --dataset. Without --holdout, 2 % are held out: at least 50 images or a tenth, at most 1,000. On these the student's
    features are compared with the teacher's."""
    train_list: str | None = None
    """Training images as a file of "path label" lines, relative to the data set's folder (ImageNet-LT)."""
    eval_dataset: str | None = None
    """Data set to evaluate on: a folder with val/<class>/, imagenet, or hfds/OWNER/NAME. --dataset if not given."""
    eval_list: str | None = None
    """Evaluation images as a file of "path label" lines, relative to the evaluated folder (ImageNet-LT). Or ReaL's
    real.json, with several labels per image of val/."""
    steps_per_epoch: CountOrNone = 0
    """Steps per epoch. 0 is one pass over the images; shards without an index need a number."""

    image_size: PixelCount = 224
    """Image size of the networks, in pixels."""
    crop_scale: tuple[float, float] = (0.6, 1.0)
    """Smallest and largest share of the image's area in a random crop."""
    pretrain_crop_scale: tuple[float, float] = (0.08, 1.0)
    """--crop-scale of stage 1 (the paper: 0.08 1)."""
    hflip: Share = 0.5
    """Probability of a horizontal flip."""
    color_jitter: Amount = 0.0
    """Strength of color jitter: brightness, contrast and saturation. It precedes --auto-augment."""
    auto_augment: str = ""
    """Augmentation policy in timm's notation, such as rand-m7-n2-mstd0.5 (RandAugment)."""
    mixup: Amount = 0.0
    """Alpha of mixup between images; 0 turns it off."""
    cutmix: Amount = 0.0
    """Alpha of cutmix; 0 turns it off. Together with --mixup, each applies to half of the batches."""
    label_smoothing: Share = 0.0
    """Label smoothing: share of a label that is spread over all classes."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Interpolation when images are resized."""
    crop_pct: CroppedShare = 0.875
    """Share of the image's shorter side in the center crop of evaluation."""
    workers: CountOrNone = 8
    """Data loading processes per training process, at most one per core. 0 loads in the training process."""

    choices = (*Data.choices, "images", "train_list", "eval_dataset", "eval_list")

    @property
    def geometry(self) -> dict[str, Any]:
        return {"interpolation": self.interpolation, "crop_pct": self.crop_pct, "crop_mode": "center"}

    @property
    def commands(self) -> tuple[str, ...]:
        return tuple(name for name in ("images", "dataset") if runs_command(getattr(self, name) or ""))

    @property
    def unlabeled_by(self) -> tuple[str, str | bool]:
        return ("images", self.images) if self.images else super().unlabeled_by

    @property
    def evaluates_held_out(self) -> bool:
        """True if held-out training images are evaluated, since no evaluation images are named."""
        return not (self.eval_dataset or self.eval_list) and bool(self.holdout or self.images)

    def evaluated_on(self, named: Self) -> Self:
        """Return the data for an evaluation: `images` is a new place of a run's images, `dataset` replaces them.

        Raises:
            InvalidSetting: the run learned from labeled images, and `images` names unlabeled ones.
        """
        if not self.images:
            if named.images:
                reason = "a run on labeled images cannot be evaluated on unlabeled ones; name a labeled `dataset`"
                raise InvalidSetting("images", named.images, reason)
            return super().evaluated_on(named)
        if named.images and named.dataset == self.dataset:
            return replace(self, dataset=named.images)
        return replace(self, eval_dataset=named.dataset, eval_list=None)

    def pretraining(self) -> Self:
        """Return the images as stage 1 crops them; with other crops, its cached views have a separate folder."""
        cache = self.teacher_cache
        if cache and self.lacks_labels and self.crop_scale != self.pretrain_crop_scale:
            cache = str(Path(cache, "pretrain"))
        return replace(self, crop_scale=self.pretrain_crop_scale, teacher_cache=cache)

    def resolve(self, config: Config) -> Config:
        """Make `images` the data set, without labels and without the teacher's classifier."""
        if not self.images:
            return config
        if self.dataset not in (Photographs.dataset, self.images):
            raise InvalidSetting("dataset", self.dataset, f"`images` {self.images} replaces it; leave one out")
        config = config.changed(dataset=self.images, unlabeled=True, teacher_classifier=False)
        return Reinforced.read(self.images).settle(config, Photographs()) if is_reinforced(self.images) else config

    def check(self, config: Config) -> None:
        super().check(config)
        method = config.method
        if self.images and method.needs_teacher and method.unlabeled and method.needs_classifier(config):
            raise InvalidSetting(
                "images",
                self.images,
                f"its images are unlabeled, but {method.name} learns from the teacher's classifier; {FEATURES_ALONE}",
            )
        if self.images and (epochs := getattr(method, "pretrain_epochs", 0)):
            reason = f"stage 1 learns through the teacher's classifier, for which `images` {self.images} has no classes"
            raise InvalidSetting("pretrain_epochs", epochs, f"{reason}; set it to 0")
        for name, dataset in (("train_list", self.dataset), ("eval_list", self.eval_dataset or self.dataset)):
            if getattr(self, name) and (self.images or is_hub(dataset) or is_shards(dataset)):
                reason = f"lists labeled files, which {dataset} does not have; leave it out"
                raise InvalidSetting(name, getattr(self, name), reason)
        if is_shards(self.dataset):
            with naming("images" if self.images else "dataset"):
                expand(self.dataset)
            reinforced = is_reinforced(self.dataset)
            if reinforced and not self.images:
                raise InvalidSetting("dataset", self.dataset, "its images have no labels; name it as `images`")
            if reinforced:
                Reinforced.read(self.dataset).check(config)
            elif not self.eval_dataset:
                wanted = "any other images" if self.images else "a folder with val/<class>/"
                raise InvalidSetting(
                    "eval_dataset", None, f"shards contain neither classes nor a test split; name {wanted}"
                )
            if self.holdout:
                raise InvalidSetting("holdout", self.holdout, "shards cannot be split; set it to 0")
            if self.teacher_cache:
                raise InvalidSetting(
                    "teacher_cache",
                    self.teacher_cache,
                    "does not work with shards, whose images do not have fixed numbers; "
                    "leave it out, or name a folder of images as `dataset`",
                )
        for name in ("eval_dataset", "eval_list"):
            if self.holdout and getattr(self, name):
                reason = f"`holdout` {self.holdout} evaluates on held-out training images instead; leave one out"
                raise InvalidSetting(name, getattr(self, name), reason)
        for name in ("mixup", "cutmix"):
            if self.teacher_cache and getattr(self, name):
                raise InvalidSetting(
                    name,
                    getattr(self, name),
                    "mixes the images of each batch anew, so their features cannot come from a "
                    "`teacher_cache`; set it to 0 (`feature_mixup` still works) or leave the cache out",
                )
        for name in ("mixup", "cutmix", "label_smoothing"):
            if self.label_fraction < 1 and getattr(self, name):
                raise InvalidSetting(
                    name,
                    getattr(self, name),
                    f"needs the labels of all images, but `label_fraction` "
                    f"{self.label_fraction} removes some; leave one out",
                )
        if self.unlabeled and self.label_smoothing:
            reason = "smooths labels, but this training does not read any; leave it out"
            raise InvalidSetting("label_smoothing", self.label_smoothing, reason)
        self.check_crops()

    def check_crops(self) -> None:
        """Raise UserError for shares that no crop can have."""
        for name in ("crop_scale", "pretrain_crop_scale"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 1:
                raise InvalidSetting(name, f"{low:g} {high:g}", "must be two shares from 0 to 1, the smaller first")


OPTIMIZER = Optimizer(epochs=100, batch_size=512, lr=2e-3, weight_decay=2e-2, beta2_start=0.96, schedule="cosine")
RUN = Run(eval_images=5000)
