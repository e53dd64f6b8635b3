"""Make docs/teachers.md, the list of foundation networks of timm that can be teachers, from timm's configurations.

python docs/make/teachers.py
"""

import re
from pathlib import Path

import gendd  # noqa: F401  It makes timm importable.

import timm  # isort: skip
import torch

from gendd.distillation.teacher_feature import projection_width
from gendd.networks.cost import parameter_count
from gendd.networks.features import feature_width

PAGE = Path(__file__).parents[1] / "teachers.md"
# Title of a family, how it was trained, and its names in timm: one image size and one set of weights per network.
FAMILIES = [
    (
        "DINOv3",
        "Self-distillation of images",
        r"(vit_\w+_dinov3\.lvd1689m|convnext_\w+\.dinov3_lvd1689m)",
    ),
    ("DINOv2", "Self-distillation of images, with register tokens", r"vit_\w+_reg4_dinov2\.lvd142m"),
    ("Perception Encoder", "Images and captions; spatial: tuned for maps", r"vit_pe_(core|spatial)_\w+\.fb"),
    (
        "SigLIP 2",
        "Images and captions, with a pairwise loss",
        r"vit_(base_patch16_siglip_224|so400m_patch14_siglip_224|(large|giantopt)_patch16_siglip_256)\.v2_webli",
    ),
    ("TIPSv2", "Images and captions, with masked images", r"vit_\w+_tipsv2\.webli"),
    ("C-RADIO", "Several teachers at once", r"vit_\w+_radio_v[34]\.c_radio"),
    ("EUPE", "Several teachers at once", r"vit_\w+\.eupe_lvd1689m"),
    ("AIMv2", "Prediction of patches and captions", r"aimv2_\w+_224\.apple_pt"),
    (
        "CLIP",
        "Images and captions",
        r"(vit_(base_patch16|large_patch14)_clip_224\.(openai|laion2b)|vit_(huge|giant|gigantic)_\w+_clip_224\.laion2b"
        r"|vit_huge_patch14_clip_224\.(dfn5b|metaclip2_worldwide)|eva02_\w+_clip_224\.(merged2b|laion2b)"
        r"|fastvit_mci\d\.apple_mclip2_dfndr2b|vitamin_(small|base|large)_224\.datacomp1b_clip)",
    ),
    (
        "Masked images",
        "MAE, EVA-02, Hiera and ConvNeXt V2: prediction of what is masked",
        r"(vit_\w+\.mae|eva02_\w+\.mim_in22k|hiera_(base|large|huge)_224\.mae|convnextv2_(base|large|huge)\.fcmae)",
    ),
    ("SAM", "Segmentation masks", r"samvit_\w+\.sa1b"),
]
HEAD = """# Which teacher

`python docs/make/teachers.py` makes this page from the configurations of timm {version}. It lists
foundation networks, trained without classes or with captions, with one image size and one set of
weights each. Any other `timm/<model>` can be a teacher too. Run a large one only once: in a
[cache](cache.md), or by [reinforce](reinforce.md).

- **width**: numbers of the feature that `--teacher-feature auto` selects. *projection* is the space
  shared with captions; *pooled* is the input of a classifier.
- **image**: side in pixels at which the network was trained. Give it as `--teacher-image-size`; the
  student's size is used otherwise.
- **license**: the license of the weights, by timm's identifier. It may restrict the use of a
  student. A run records it in `environment.json` and in the student's `config.json`.
"""
TABLE = "| `--teacher` | million parameters | width | feature | image | license |\n|---|---|---|---|---|---|"


def members(pattern: str) -> list[str]:
    """Return the names of published weights that fully match a pattern, by timm's order of networks."""
    published = (timm.models.get_arch_pretrained_cfgs(network) for network in timm.list_models())
    names = [name for cfgs in published for name, cfg in cfgs.items() if cfg.hf_hub_id]
    return [name for name in names if re.fullmatch(pattern, name)]


def row(name: str) -> tuple[int, str]:
    """Return the parameters of a network, and its row of the table."""
    with torch.device("meta"):
        network = timm.create_model(name)
    cfg = network.pretrained_cfg
    projection = projection_width(cfg)
    feature = "projection" if projection else "pooled"
    parameters = parameter_count(network)
    cells = (
        *(f"`timm/{name}`", f"{parameters / 1e6:,.0f}", projection or feature_width(network)),
        *(feature, cfg["input_size"][-1], cfg.get("license") or "unknown"),
    )
    return parameters, f"| {' | '.join(map(str, cells))} |"


def page() -> str:
    sections = [HEAD.format(version=timm.__version__)]
    for title, training, pattern in FAMILIES:
        rows = [text for _, text in sorted(map(row, members(pattern)))]
        sections.append("\n".join([f"## {title}\n\n{training}.\n\n{TABLE}", *rows, ""]))
    return "\n".join(sections)


if __name__ == "__main__":
    PAGE.write_text(page())
