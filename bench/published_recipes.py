"""The published values of every recipe, by the names of the flags. Values that no source states are left out."""

FP32 = {"precision": "fp32"}
ADAMW = {"optimizer": "adamw", "beta1": 0.9, "beta2_end": 0.999, **FP32}
HEAD = {"token_dim": 64, "width": 1024, "depth": 3, "trunk_depth": 0, "condition_dropout": 0.2}
OBJECTIVE = {"prediction": "noise", "noise_path": "cosine", "timestep_density": "uniform", "loss_weighting": "none"}
GENDD = {**ADAMW, **HEAD, **OBJECTIVE, "method": "gendd", "draw_scheme": "independent", "decayed": "all but the head"}
GENDD |= {"sampler": "ancestral", "num_samples": 5, "guidance": 2.0}
PRETRAIN = {**ADAMW, "method": "pretrain", "beta2_start": 0.999, "schedule": "cosine", "decayed": "all"}
SGD = {"optimizer": "sgd", "momentum": 0.9, "decayed": "all", **FP32}

SMALL = {"image_size": 32, "crop_padding": 4, "hflip": 0.5, "batch_size": 64}
STEPS_DOWN = {"epochs": 240, "schedule": "step", "milestones": (150, 180, 210)}
CIFAR_1 = {**PRETRAIN, **SMALL, "epochs": 50, "lr": 3e-3, "weight_decay": 5e-2, "min_lr": 0}
CIFAR_2 = {**GENDD, **SMALL, **STEPS_DOWN, "lr": 1e-3, "weight_decay": 5e-2, "warmup_epochs": 50, "beta2_start": 0.95}
CIFAR_2 |= {"repeats": 30, "sampling_steps": 100, "feature_mixup": 1, "pretrain_best": False}
CIFAR_SGD = {**SGD, **SMALL, **STEPS_DOWN, "lr": 0.05, "weight_decay": 5e-4}
# Students with this learning rate in every method, except in stage 1 of GenDD.
SLOWER = {"MobileNetV2", "ShuffleV1", "ShuffleV2"}
SLOW = {"lr": 0.01}
CONTRACTIONS = {
    "resnet110 resnet32": 0.9,
    "resnet56 resnet20": 0.9,
    "vgg13 resnet20": 0.9,
    "resnet32x4 resnet8x4": 0.7,
    "wrn_40_2 resnet8x4": 0.7,
    "vgg13 vgg8": 0.7,
    "wrn_40_2 wrn_16_2": 0.8,
    "wrn_40_2 wrn_40_1": 0.8,
}
WITHOUT_RECIPE = (
    *("resnet32x4 ShuffleV1", "resnet32x4 ShuffleV2", "wrn_40_2 ShuffleV1", "vgg13 MobileNetV2"),
    *("resnet32x4 vgg8", "resnet32x4 wrn_16_2"),
)
KD, DKD = {"temperature": 4, "label_share": 0.1}, {"temperature": 4, "alpha": 1, "distill_warmup_epochs": 20}
IKL = {"temperature": 4, "alpha": 1}
CIFAR_METHODS = {
    "kd resnet56 resnet20": KD,
    "dkd resnet32x4 resnet8x4": {**DKD, "beta": 8},
    "dkd resnet56 resnet20": DKD,
    "ikl resnet110 resnet32": {**IKL, "beta": 12},
    "ikl resnet56 resnet20": {**IKL, "beta": 4},
    "ikl resnet32x4 resnet8x4": {**IKL, "beta": 8},
    "ikl resnet32x4 ShuffleV1": {**IKL, "beta": 8},
    "ikl resnet32x4 ShuffleV2": {**IKL, "alpha": 3, "beta": 12},
    "ikl ResNet50 MobileNetV2": {**IKL, "beta": 12},
}

LARGE = {"image_size": 224, "hflip": 0.5, "sync_bn": False}
NOT_MIXED = {"color_jitter": 0, "auto_augment": "", "mixup": 0, "cutmix": 0, "label_smoothing": 0}
A2 = {"color_jitter": 0.4, "auto_augment": "rand-m7-n2-mstd0.5", "mixup": 0.1, "cutmix": 1, "label_smoothing": 0}
A1 = {**A2, "mixup": 0.2, "label_smoothing": 0.1}
COSINE = {"schedule": "cosine", "min_lr": 1e-6, "lr": 2e-3}
IMAGENET_1 = {**PRETRAIN, **LARGE, **COSINE, "epochs": 20, "batch_size": 512, "warmup_epochs": 0}
IMAGENET_1 |= {"crop_scale": (0.08, 1)}
LARGE_2 = {**GENDD, **LARGE, **COSINE, "beta2_start": 0.96, "repeats": 10, "sampling_steps": 64, "crop_scale": (0.6, 1)}
IMAGENET_2 = {**LARGE_2, "batch_size": 512, "contraction": 0.9, "pretrain_best": False}
LT = {**LARGE_2, **NOT_MIXED, "batch_size": 256, "epochs": 100, "warmup_epochs": 20, "weight_decay": 2e-1}
LT |= {"teacher": "resnext101_32x4d", "contraction": 0, "feature_mixup": 1}
CC3M = {**LARGE, **NOT_MIXED, "epochs": 100, "steps_per_epoch": 5500, "batch_size": 512, "crop_scale": (0.6, 1)}
CC3M |= {"unlabeled": True}
CC3M_2 = {**LARGE_2, **CC3M, "warmup_epochs": 20, "weight_decay": 2e-2, "contraction": 0, "feature_mixup": 1}


def of_pair(teacher: str, student: str, epochs: int, warmup: int, decay: float, mixup: int, augmentation: dict) -> list:
    """Return both stages of a pair on ImageNet."""
    shared = {"teacher": teacher, "student": student, "weight_decay": decay, **augmentation}
    second = {**IMAGENET_2, **shared, "epochs": epochs, "warmup_epochs": warmup, "feature_mixup": mixup}
    return [{**IMAGENET_1, **shared}, second | ({} if augmentation is NOT_MIXED else {"interpolation": "bilinear"})]


LARGE_SCRIPTS = {
    "imagenet_resnet34_resnet18_gendd": of_pair("resnet34", "resnet18", 100, 10, 2e-2, 1, NOT_MIXED),
    "imagenet_resnet50_mobilenetv1_gendd": of_pair("resnet50", "mobilenetv1", 100, 20, 2e-2, 1, NOT_MIXED),
    "imagenet_beitv2b_resnet50_a2_gendd": of_pair("beitv2_base", "resnet50", 300, 20, 2e-2, 0, A2),
    "imagenet_beitv2b_resnet50_a1_gendd": of_pair("beitv2_base", "resnet50", 600, 20, 1e-2, 0, A1),
    "imagenet_beitv2l_resnet50_a2_gendd": of_pair("beitv2_large", "resnet50", 300, 20, 2e-2, 0, A2),
    "imagenet_beitv2l_resnet50_a1_gendd": of_pair("beitv2_large", "resnet50", 600, 20, 1e-2, 0, A1),
    "imagenetlt_resnext101_resnet50_gendd": [{**LT, "student": "resnet50"}],
    "imagenetlt_resnext101_resnet18_gendd": [{**LT, "student": "resnet18"}],
    "cc3m_resnet34_resnet18_gendd": [{**CC3M_2, "teacher": "resnet34", "student": "resnet18"}],
    "cc3m_resnet50_mobilenetv1_gendd": [{**CC3M_2, "teacher": "resnet50", "student": "mobilenetv1"}],
    "imagenetlt_resnext101_teacher": [
        {**SGD, **LARGE, **NOT_MIXED, "method": "classification", "student": "resnext101_32x4d", "epochs": 100,
         "batch_size": 256, "lr": 0.1, "weight_decay": 5e-4, "schedule": "cosine", "min_lr": 0, "warmup_epochs": 10,
         "crop_scale": (0.08, 1)}
    ],
    "cc3m_resnet50_mobilenetv1_kl": [
        {**SGD, **CC3M, "method": "kl", "temperature": 1, "teacher": "resnet50", "student": "mobilenetv1", "lr": 0.2,
         "weight_decay": 1e-4, "schedule": "cosine", "min_lr": 1e-6, "warmup_epochs": 10}
    ],
}  # fmt: skip


def small_pair(pair: str) -> list[dict]:
    """Return both stages of a pair on CIFAR-100."""
    teacher, student = pair.split()
    shared = {"teacher": teacher, "student": student}
    rate = SLOW if student in SLOWER else {}
    second = {**CIFAR_2, **shared, **rate, "pretrain_best": pair == "vgg13 resnet20"}
    return [{**CIFAR_1, **shared}, second | ({"contraction": CONTRACTIONS[pair]} if pair in CONTRACTIONS else {})]


def small_method(words: str, own: dict) -> dict:
    """Return the published values of "METHOD TEACHER STUDENT" on CIFAR-100; the teacher may be "none"."""
    method, teacher, student = words.split()
    teacher_flags = {} if teacher == "none" else {"teacher": teacher}
    rate = SLOW if student in SLOWER else {}
    return {**CIFAR_SGD, "method": method, "student": student, **teacher_flags, **rate, **own}


def large_method(words: str, own: dict) -> dict:
    """Return the values of "METHOD TEACHER STUDENT" on ImageNet or ImageNet-LT, with only results published."""
    return {**dict(zip(("method", "teacher", "student"), words.split(), strict=True)), **FP32, **own}


CIFAR, PHOTOGRAPHS = "CIFAR-100, GenDD", "ImageNet, ImageNet-LT and CC3M, GenDD"
CIFAR_OTHERS = "CIFAR-100, teachers and other methods"
OTHERS, BASELINES = "ImageNet-LT, teacher; CC3M, KL", "ImageNet and ImageNet-LT, other methods"
OURS = "Recipes that are not published"
# Section of the page -> command -> published values of each training that the command starts.
PUBLISHED: dict[str, dict[str, list[dict]]] = {
    CIFAR: {
        f"bash sh/train_cifar100_{pair.replace(' ', '_')}_gendd.sh": small_pair(pair)
        for pair in (*CONTRACTIONS, *WITHOUT_RECIPE)
    },
    PHOTOGRAPHS: {
        f"bash sh/train_{name}.sh": trainings for name, trainings in LARGE_SCRIPTS.items() if name.endswith("gendd")
    },
    CIFAR_OTHERS: {
        **{
            f"bash sh/train_cifar100_teacher.sh {name}": [small_method(f"classification none {name}", {})]
            for name in ("resnet56", "ShuffleV1")
        },
        **{
            f"bash sh/train_cifar100_baseline.sh {words}": [small_method(words, own)]
            for words, own in CIFAR_METHODS.items()
        },
    },
    OTHERS: {
        f"bash sh/train_{name}.sh": trainings for name, trainings in LARGE_SCRIPTS.items() if not name.endswith("gendd")
    },
    BASELINES: {
        f"{recipe}bash sh/train_imagenet_baseline.sh {words}": [large_method(words, own)]
        for recipe, words, own in (
            ("", "kd resnet34 resnet18", {}),
            ("", "dkd resnet50 mobilenetv1", {}),
            ("", "kd resnext101_32x4d resnet50", {}),
            ("", "kd beitv2_large resnet50", {**A2, "epochs": 300}),
            ("RECIPE=a1 ", "kd beitv2_large resnet50", {**A1, "epochs": 600}),
        )
    },
    OURS: {
        "bash sh/train_cifar100_resnet56_resnet20_gendd_short.sh": [{}],
        "bash sh/quickstart.sh": [{}] * 5,
    },
}
