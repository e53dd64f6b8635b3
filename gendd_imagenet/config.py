"""The flags of this tree, with its own defaults. The paper's ImageNet protocol stands in the scripts of sh/."""

from dataclasses import dataclass
from typing import Annotated, Literal

from gendd.config import Config, Data, Optimizer, Run
from gendd.errors import UserError
from gendd.methods.base import FEATURES_ALONE
from gendd.ranges import Amount, CountOrNone, PixelCount, Range, Share
from gendd_imagenet.hub_images import is_hub
from gendd_imagenet.shards import is_shards

CroppedShare = Annotated[float, Range(0, 1, above=True, remedy="1 looks at the whole shorter side")]


@dataclass(frozen=True)
class Photographs(Data):
    """The images and their labels."""

    dataset: str = "imagenet"
    """imagenet, a folder with train/<class>/ and val/<class>/, any folder of images, shards: a folder of them,
    a file or brace pattern (.tar, .tar.gz, .tgz, .tar.bz2, .tar.xz), pipe: or http; or hfds/OWNER/NAME, with
    :CONFIGURATION behind it where it has several."""
    images: str | None = None
    """Folder of any images, shards, or hfds/OWNER/NAME, in place of a data set: they are learned from without a label,
    a class or an evaluation set. A share is held out (`holdout`; if not given 2 %, but at least 50 images or a tenth,
    and at most 1,000), on which the features are compared with the teacher's."""
    train_list: str | None = None
    """File of "path label" lines, paths below the data set's folder, in place of its train/ (ImageNet-LT)."""
    eval_dataset: str | None = None
    """Folder with val/<class>/ to evaluate on, imagenet, or hfds/OWNER/NAME; the data set itself if not given."""
    eval_list: str | None = None
    """File of "path label" lines, paths below the evaluated folder, in place of its val/ (ImageNet-LT); or ReaL's
    real.json, several labels an image of its val/."""
    steps_per_epoch: CountOrNone = 0
    """Steps of an epoch; 0: one pass over the images. Shards need it."""

    image_size: PixelCount = 224
    """Side of the images that the networks see."""
    crop_scale: tuple[float, float] = (0.6, 1.0)
    """Share of an image's area that a random crop covers, least and greatest."""
    hflip: Share = 0.5
    """Probability of a horizontal flip."""
    color_jitter: Amount = 0.0
    """Strength of color jitter (brightness, contrast, saturation); with --auto-augment too, it comes first."""
    auto_augment: str = ""
    """timm's name of an augmentation policy, such as rand-m7-n2-mstd0.5 (RandAugment)."""
    mixup: Amount = 0.0
    """alpha of mixup between images."""
    cutmix: Amount = 0.0
    """alpha of cutmix; with --mixup too, each takes half of the batches."""
    label_smoothing: Share = 0.0
    """Share of a label that is spread over all classes."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How images are resized."""
    crop_pct: CroppedShare = 0.875
    """Share of the image's shorter side that evaluation looks at, in its center."""
    workers: CountOrNone = 8
    """Processes that decode images, for each training process, at most one a core; 0: the training process itself."""

    choices = (*Data.choices, "images", "train_list", "eval_dataset", "eval_list")

    @property
    def unlabeled_flag(self) -> str:
        return f"--images {self.images}" if self.images else super().unlabeled_flag

    def resolve(self, config: Config) -> Config:
        """With `images`: it is the data set, no label is read, and the teacher classifies nothing."""
        if not self.images:
            return config
        if self.dataset not in (Photographs.dataset, self.images):
            raise UserError(f"--dataset {self.dataset}: --images {self.images} stands in its place; leave one out")
        return config.changed(dataset=self.images, unlabeled=True, teacher_classifier=False)

    def check(self, config: Config) -> None:
        super().check(config)
        method = config.method
        if self.images and method.needs_teacher and method.unlabeled and method.needs_classifier(config):
            raise UserError(
                f"--images {self.images}: has no classes for a teacher's classifier, from which {method.name} "
                f"learns; {FEATURES_ALONE}"
            )
        if self.eval_list and self.holdout:
            raise UserError(
                f"--eval-list {self.eval_list}: --holdout {self.holdout} evaluates on held-out training images "
                "instead; leave one out"
            )
        for name, dataset in (("train_list", self.dataset), ("eval_list", self.eval_dataset or self.dataset)):
            if getattr(self, name) and is_hub(dataset):
                raise UserError(
                    f"--{name.replace('_', '-')} {getattr(self, name)}: {dataset} has no files to list; leave it out"
                )
        if is_shards(self.dataset):
            if not self.eval_dataset:
                wanted = "any other images" if self.images else "a folder with val/<class>/"
                raise UserError(f"--eval-dataset is missing: shards have no classes and no part apart; name {wanted}")
            if not self.steps_per_epoch:
                raise UserError(
                    "--steps-per-epoch is missing: nobody counted the images of the shards; give a number, such as "
                    "images / --batch-size (--check-data counts them)"
                )
            if self.holdout:
                raise UserError(f"--holdout {self.holdout}: shards cannot be split; set it to 0")
            if self.teacher_cache:
                raise UserError(
                    f"--teacher-cache {self.teacher_cache}: images of shards have no number to be found again by; "
                    "leave it out, or name a folder of images as --dataset"
                )
        for name in ("mixup", "cutmix"):
            if self.teacher_cache and getattr(self, name):
                raise UserError(
                    f"--{name.replace('_', '-')} {getattr(self, name)}: mixes images anew in each batch, which no "
                    "--teacher-cache can hold; set it to 0 (--feature-mixup stays) or leave the cache out"
                )
        for name in ("mixup", "cutmix", "label_smoothing"):
            if self.label_fraction < 1 and getattr(self, name):
                raise UserError(
                    f"--{name.replace('_', '-')} {getattr(self, name)}: mixes labels, which --label-fraction "
                    f"{self.label_fraction} takes from some of the images; leave one out"
                )
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise UserError(f"--crop-scale {low:g} {high:g}: must be two shares from 0 to 1, the lesser first")


OPTIMIZER = Optimizer(epochs=100, batch_size=512, lr=2e-3, weight_decay=2e-2, beta2_start=0.96, schedule="cosine")
RUN = Run(eval_images=5000)
