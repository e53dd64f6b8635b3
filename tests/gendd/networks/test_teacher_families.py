"""Default features of all families of timm, transformers and open_clip, small and with random weights."""

import json
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import timm
import torch
from lines import refuses
from torch import nn

from gendd.distillation.teacher import FrozenTeacher
from gendd.distillation.teacher_feature import check_repeats, describe, projection_width, take, usual, width_of
from gendd.networks.external import create_foundation


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def student_like(network: nn.Module) -> SimpleNamespace:
    """Return a student whose normalization is the teacher's."""
    return SimpleNamespace(pretrained_cfg=network.pretrained_cfg)


# transformers: settings that make each model type small. None: the defaults.
VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
SMALL_VIT = {**VIT, "image_size": 32, "patch_size": 8}
DEPTHS = {"depths": [1, 1, 1, 1]}
SWIN = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4, "image_size": 32}
PYRAMID = {"hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 2]}
# Type: settings.
POOLED = {
    "beit": SMALL_VIT,
    "bit": {"embedding_size": 32, "hidden_sizes": [32, 64], "depths": [1, 1], "num_groups": 8},
    "convnext": {"hidden_sizes": [8, 8, 16, 16], **DEPTHS},
    "convnextv2": {"hidden_sizes": [8, 8, 16, 16], **DEPTHS},
    "deit": SMALL_VIT,
    "dinov2": SMALL_VIT,
    "dinov2_with_registers": {**SMALL_VIT, "num_register_tokens": 3},
    "dinov3_convnext": {"hidden_sizes": [8, 8, 16, 16], **DEPTHS},
    "dinov3_vit": {**SMALL_VIT, "num_register_tokens": 3},
    "dpt": {**SMALL_VIT, "backbone_out_indices": [0, 1, 1, 1], "is_hybrid": False},
    "efficientnet": {"width_coefficient": 0.25, "depth_coefficient": 0.25, "image_size": 64, "hidden_dim": 320},
    "focalnet": {"embed_dim": 8, "depths": [1, 1], "focal_levels": [2, 2], "focal_windows": [3, 3], "image_size": 32},
    "hiera": {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "image_size": [224, 224]},
    "levit": {
        "hidden_sizes": [16, 16, 32],
        "num_attention_heads": [1, 1, 2],
        "depths": [1, 1, 1],
        "key_dim": [8, 8, 8],
    },
    "mlcd_vision_model": SMALL_VIT,
    "mobilenet_v1": {"depth_multiplier": 0.25},
    "mobilenet_v2": {"depth_multiplier": 0.25},
    "mobilevit": {"image_size": 64, "hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 16, 16, 32]},
    "mobilevitv2": {"image_size": 256, "width_multiplier": 0.25},
    "pixio": SMALL_VIT,
    "regnet": {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "groups_width": 8},
    "resnet": {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"},
    "siglip_vision_model": SMALL_VIT,
    "swin": SWIN,
    "swinv2": SWIN,
    "timm_wrapper": {"architecture": "test_resnet"},
    "tipsv2_vision_model": SMALL_VIT,
    "vit": SMALL_VIT,
    "yolos": {**VIT, "image_size": [32, 32], "patch_size": 8, "num_detection_tokens": 20},
    "aimv2_vision_model": SMALL_VIT,
    "clip_vision_model": SMALL_VIT,
}
CLASS_TOKEN = {
    "data2vec-vision": SMALL_VIT,
    "pvt": {**PYRAMID, "image_size": 64},
    "vit_msn": SMALL_VIT,
}
MEAN = {
    "glpn": PYRAMID,
    "ijepa": SMALL_VIT,
    "poolformer": {"hidden_sizes": [8, 8, 16, 16], **DEPTHS},
    "pvt_v2": {**PYRAMID, "image_size": 64},
    "segformer": PYRAMID,
    "swiftformer": {"embed_dims": [8, 16, 16, 32], **DEPTHS},
    "vitdet": {**SMALL_VIT, "pretrain_image_size": 32},
}
# Random masks, queries, palette numbers, videos, other tasks, and models with parts that are downloaded or missing.
NOT_TEACHERS = {
    "vit_mae", "conditional_detr", "dab-detr", "deformable_detr", "detr", "table-transformer", "imagegpt",
    "timesformer", "videomae", "videoprism_vision_model", "vivit", "depth_pro", "swin2sr", "cohere2_vision", "llama4",
    "mllama", "mlcd", "timm_backbone", "dinat",
}  # fmt: skip


def small_transformers(folder, kind: str, settings: dict, classifier: bool = False):
    library = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    config = library.CONFIG_MAPPING[kind](**settings)
    model = (library.AutoModelForImageClassification if classifier else library.AutoModel).from_config(config)
    model.save_pretrained(folder)
    return create_foundation(f"transformers:{folder}")


@torch.no_grad()
def assert_teaches(network: nn.Module, expected: Callable):
    """Assert that the default feature is the expected one, equal in each pass, in float32 and in bf16."""
    side = network.pretrained_cfg["input_size"][-1]
    images = torch.randn(2, 3, side, side)
    kind = usual(network)
    wanted = expected(images)
    torch.testing.assert_close(take(network, images, kind), wanted, rtol=1e-4, atol=1e-5)
    assert width_of(network, kind, side) == wanted.shape[1]
    if not torch.equal(wanted[0], wanted[1]):  # Some small random networks return the same feature for all images.
        check_repeats("a", network, kind, side)
    width = width_of(network, kind, side)
    teacher = FrozenTeacher(network, student_like(network), torch.device("cpu"), "bf16", kind=kind, width=width)
    assert teacher.features_of(images).isfinite().all()


@pytest.mark.parametrize("kind", POOLED)
def test_transformers_model_gives_its_pooler_output(kind, tmp_path):
    network = small_transformers(tmp_path, kind, POOLED[kind])
    assert describe(network, usual(network)) == "pooled (pooler_output)"
    assert_teaches(network, lambda images: network.network(images).pooler_output.flatten(1))


@pytest.mark.parametrize("kind", CLASS_TOKEN)
def test_transformers_model_without_pooler_gives_class_token(kind, tmp_path):
    network = small_transformers(tmp_path, kind, CLASS_TOKEN[kind])
    assert describe(network, usual(network)) == "pooled (class token)"
    assert_teaches(network, lambda images: network.network(images).last_hidden_state[:, 0])


@pytest.mark.parametrize("kind", MEAN)
def test_transformers_model_without_class_token_gives_mean(kind, tmp_path):
    network = small_transformers(tmp_path, kind, MEAN[kind])
    assert describe(network, usual(network)) == "pooled (mean over all places)"

    def mean(images):
        places = network.network(images).last_hidden_state
        return places.mean((2, 3)) if places.dim() == 4 else places.mean(1)

    assert_teaches(network, mean)


def test_every_vision_model_of_transformers_is_tested():
    auto = pytest.importorskip("transformers.models.auto.modeling_auto", reason="transformers is not installed")
    known = {*POOLED, *CLASS_TOKEN, *MEAN, *NOT_TEACHERS}
    assert not sorted(set(auto.MODEL_FOR_IMAGE_MAPPING_NAMES) - known)


@pytest.mark.parametrize("kind", ["vit", "deit", "beit", "dinov2_with_registers", "swin", "resnet", "clip"])
def test_fine_tuned_classifier_gives_no_untrained_pooler(kind, tmp_path):
    settings = {"vision_config": {**SMALL_VIT}} if kind == "clip" else {**POOLED[kind], "num_labels": 7}
    if kind == "clip":  # The text tower was not saved.
        with refuses("are not among its weights and would stay random"):
            small_transformers(tmp_path, kind, settings, classifier=True)
        return
    if kind == "deit":  # DeiT has two classes of classifiers.
        settings["architectures"] = ["DeiTForImageClassification"]
    network = small_transformers(tmp_path, kind, settings, classifier=True)
    trained = kind not in ("vit", "deit")
    assert describe(network, "pooled") == ("pooled (pooler_output)" if trained else "pooled (class token)")

    def expected(images):
        output = network.network(images)
        return output.pooler_output.flatten(1) if trained else output.last_hidden_state[:, 0]

    assert_teaches(network, expected)


@pytest.mark.parametrize(
    "kind", ["clip", "siglip", "metaclip_2", "chinese_clip", "align", "altclip", "blip", "groupvit"]
)
def test_two_tower_model_gives_its_image_features(kind, tmp_path):
    library = pytest.importorskip("transformers", reason="transformers is not installed")
    text = {**VIT, "vocab_size": 50, "max_position_embeddings": 16, "projection_dim": 24, "project_dim": 24}
    text |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    vision = {**SMALL_VIT, "width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 320}
    vision |= {"depths": [1, 1, 1], "num_group_tokens": [4, 2, 0], "num_output_groups": [4, 2, 0]}
    if kind == "align":
        vision |= {"image_size": 64}
    if kind == "groupvit":
        vision["num_hidden_layers"] = 3
    known = {}
    config = library.CONFIG_MAPPING[kind]
    for name, settings in (("text_config", text), ("vision_config", vision)):
        defaults = config.sub_configs[name]().to_dict()
        known[name] = {key: value for key, value in settings.items() if key in defaults}
    known |= {"projection_dim": 24}
    network = small_transformers(tmp_path, kind, known)
    assert describe(network, "pooled") in ("pooled (pooler_output)", "pooled (image features)")

    def expected(images):
        output = network.network.get_image_features(pixel_values=images)
        return output if isinstance(output, torch.Tensor) else output.pooler_output

    assert_teaches(network, expected)


def test_tower_saved_with_its_projection_gives_image_embeds(tmp_path):
    library = pytest.importorskip("transformers", reason="transformers is not installed")
    tower = library.CLIPVisionModelWithProjection(library.CLIPVisionConfig(**SMALL_VIT, projection_dim=16))
    tower.save_pretrained(tmp_path)
    network = create_foundation(f"transformers:{tmp_path}")
    assert (network.num_features, describe(network, "pooled")) == (16, "pooled (image_embeds)")
    assert_teaches(network, lambda images: tower.eval()(images).image_embeds)


def test_model_with_random_masks_is_refused(tmp_path):
    network = small_transformers(tmp_path, "vit_mae", SMALL_VIT)
    with refuses("^mae: two passes over the same images differ"):
        check_repeats("mae", network, usual(network), 32)


def test_detector_is_refused(tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed")
    backbone = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1]}
    settings = {"backbone_config": {**backbone, "out_features": ["stage2"]}, "backbone": None, "d_model": 16}
    settings |= {"use_timm_backbone": False, "use_pretrained_backbone": False, "encoder_layers": 1, "decoder_layers": 1}
    settings |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    with refuses("gives no feature of an image .*encoder_last_hidden_state"):
        small_transformers(tmp_path, "detr", settings)


@pytest.mark.parametrize(
    ("kind", "prefix"), [("deit", 2), ("dinov2_with_registers", 4), ("dinov3_vit", 4), ("pixio", 8), ("ijepa", 0)]
)
def test_patch_mean_skips_class_and_register_tokens(kind, prefix, tmp_path):
    network = small_transformers(tmp_path, kind, {**POOLED, **MEAN}[kind])
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        tokens = network.network(images).last_hidden_state
        assert tokens.shape[1] == prefix + 16
        torch.testing.assert_close(take(network, images, "patch-mean"), tokens[:, prefix:].mean(1))


def test_patch_mean_of_tokens_without_patches_is_refused(tmp_path):
    network = small_transformers(tmp_path, "yolos", POOLED["yolos"])
    with refuses("patch-mean: the network gives no patches; choose pooled"):
        width_of(network, "patch-mean", 32)


# open_clip: one small tower for each kind of configuration.
TEXT = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
TOWER = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16}
TIMM = {"timm_model_name": "test_vit", "image_size": 160}
CAPTIONS = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1, "attn_pooler_heads": 2}
COCA = {"vision_cfg": {**TOWER, "output_tokens": True}, "multimodal_cfg": CAPTIONS, "custom_text": True}
OPEN_CLIP = {
    "transformer": {"vision_cfg": TOWER},
    "resnet": {"vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}},
    "no-pre-norm": {"vision_cfg": {**TOWER, "no_ln_pre": True, "final_ln_after_pool": True, "pool_type": "avg"}},
    "layer-scale": {"vision_cfg": {**TOWER, "ls_init_value": 0.1}},
    "coca": COCA,
    "coca-attention": {**COCA, "vision_cfg": {**COCA["vision_cfg"], "attentional_pool": True, "attn_pooler_heads": 2}},
    "timm-linear": {"vision_cfg": {**TIMM, "timm_pool": "", "timm_proj": "linear"}},
    "timm-mlp": {"vision_cfg": {**TIMM, "timm_pool": "", "timm_proj": "mlp"}},
    "timm-token": {"vision_cfg": {**TIMM, "timm_pool": "token", "timm_proj": None}, "custom_text": True},
    "timm-map": {"vision_cfg": {**TIMM, "timm_pool": "map", "timm_proj": "none"}, "custom_text": True},
    "timm-avg": {"vision_cfg": {**TIMM, "timm_pool": "avg", "timm_proj": None}, "custom_text": True},
}


@pytest.mark.parametrize("kind", OPEN_CLIP)
def test_open_clip_tower_gives_encode_image(kind, tmp_path, monkeypatch):
    library = pytest.importorskip("open_clip", reason="open_clip is not installed")
    torch.manual_seed(0)
    # timm's tower without a projection is as wide as its model.
    config = {"embed_dim": 64 if kind[-3:] in ("ken", "map", "avg") else 16, "text_cfg": TEXT, **OPEN_CLIP[kind]}
    monkeypatch.setitem(library.factory._MODEL_CONFIGS, "toy", config)
    model = library.create_model("toy").eval()
    torch.save(model.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    preprocess = {"mean": [0.5] * 3, "std": [0.25] * 3}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    by_tag = create_foundation(f"open_clip:toy/{tmp_path / 'open_clip_pytorch_model.bin'}")
    in_folder = create_foundation(f"open_clip:local-dir:{tmp_path}")
    assert by_tag.pretrained_cfg["mean"] != (0.5,) * 3 == in_folder.pretrained_cfg["mean"]
    for network in (by_tag, in_folder):
        assert describe(network, usual(network)) == "pooled (image embedding)"
        assert_teaches(network, model.encode_image)


# timm


def published_configurations():
    return [cfg for name in timm.list_models() for cfg in timm.models.get_arch_pretrained_cfgs(name).values()]


def test_timm_projections_differ_from_classifiers():
    """Towers that end in a projection have clip or PE core in their name; fine-tuned ones have _ft_."""
    seen = {True: 0, False: 0}
    for cfg in published_configurations():
        tag = cfg.tag or ""
        tower = "clip" in cfg.architecture + tag or "pe_core" in cfg.architecture or "vitamin" in cfg.architecture
        tower = tower or "_mci" in cfg.architecture
        classifies = cfg.num_classes in (0, 1000, 11821, 21841) or "_in1k" in tag or "_in12k" in tag
        expected = cfg.num_classes if tower and not classifies else 0
        assert projection_width(cfg.to_dict()) == expected, (cfg.architecture, tag, cfg.num_classes)
        seen[bool(expected)] += 1
    assert seen[True] > 100 and seen[False] > 1500


def test_users_classes_are_not_a_projection():
    cfg = timm.models.get_pretrained_cfg("resnet18").to_dict()
    assert projection_width({**cfg, "num_classes": 10}) == 0
    assert projection_width({}) == 0
    tuned = timm.create_model("vit_xsmall_patch16_clip_224", num_classes=10)
    assert usual(tuned) == "pooled"


# timm's towers and transformers with registers: with a projection, fine-tuned as a classifier, or with neither.
TOWERS = {
    "vit_base_patch16_clip_224.openai": 512,
    "vit_base_patch16_clip_224.openai_ft_in1k": 768,
    "vit_pe_core_tiny_patch16_384.fb": 512,
    "vit_base_patch16_siglip_224.webli": 768,
    "vit_small_patch14_reg4_dinov2.lvd142m": 384,
    "vit_small_patch16_dinov3.lvd1689m": 384,
    "resnet50_clip.openai": 1024,
    "resnet50_clip_gap.openai": 2048,
    "convnext_base.clip_laion2b": 640,
    "convnext_base.clip_laion2b_augreg_ft_in12k_in1k": 1024,
    "fastvit_mci0.apple_mclip": 512,
    "eva02_base_patch16_clip_224.merged2b": 512,
    "vitamin_small_224.datacomp1b_clip": 384,
    "mvitv2_base_cls.fb_inw21k": 768,
}


@torch.no_grad()
@pytest.mark.parametrize("name", TOWERS)
def test_timm_tower_gives_its_projection(name):
    with torch.device("meta"):
        network = timm.create_model(name).eval()
        images = torch.zeros(2, *network.pretrained_cfg["input_size"])
        assert take(network, images, usual(network)).shape == (2, TOWERS[name])


@torch.no_grad()
@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_nfnet", "lcnet_035", "deit_tiny_patch16_224"])
def test_pooled_feature_equals_timms_without_classifier(name):
    network = timm.create_model(name).eval()
    images = torch.randn(2, *network.pretrained_cfg["input_size"])
    feature = take(network, images, usual(network))
    network.reset_classifier(0)
    torch.testing.assert_close(feature, network(images))


# Small networks of different timm modules.
FAMILIES = [
    "beit_base_patch16_224", "eca_halonext26ts", "gernet_s", "cait_xxs24_224", "coat_tiny", "convit_tiny",
    "convmixer_768_32", "convnext_atto", "cpubone_nano", "crossvit_tiny_240", "csatv2", "cs3darknet_focus_s",
    "cspnext_tiny", "davit_tiny", "deepseek_vit_412m", "deit_tiny_distilled_patch16_224", "densenet121", "dla34",
    "dpn48b", "edgenext_xx_small", "efficientvit_b0", "efficientvit_m0", "eva02_tiny_patch14_224", "fasternet_t0",
    "fastvit_t8", "focalnet_tiny_srf", "gcvit_xxtiny", "gemma4_vit_167m", "ghostnet_050", "hardcorenas_b",
    "hgnetv2_b0", "hiera_tiny_224", "sam2_hiera_tiny", "hrnet_w18_small", "lcnetv2_small", "lowformer_b0",
    "test_mambaout", "test_coatnet", "poolformer_s12", "gmlp_ti16_224", "lcnet_035", "mobilenetv5_300m",
    "mobilevit_xxs", "mvitv2_tiny", "naflexvit_base_patch16_gap", "nasnetalarge", "nest_tiny", "nextvit_small",
    "test_nfnet", "pnasnet5large", "pvt_v2_b0", "qwen3_vit_88m", "rdnet_tiny", "regnetx_002", "repghostnet_050",
    "res2net50d", "resnest14d", "resnet18", "rexnet_100", "selecsls42", "legacy_seresnet18",
]  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_timm_network_gives_its_classifiers_input(name):
    with torch.device("meta"):
        network = timm.create_model(name).eval()
        images = torch.zeros(2, *network.pretrained_cfg["input_size"])
        kind = usual(network)
        shape = take(network, images, kind).shape
        if kind == "pooled":
            network.reset_classifier(0)
        assert network(images).shape == shape and len(shape) == 2
