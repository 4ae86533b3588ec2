"""Writes library-keys.json: the keys of configs, with their types, as the libraries declare them.

    pip download --no-deps -d wheels diffusers transformers 'transformers==4.*' open_clip_torch
    (unzip diffusers, transformers 5 and open_clip into NEW, transformers 4 into OLD)
    python library-keys.py NEW OLD > library-keys.json

Reads source, imports nothing of it.
"""

import ast
import json
import re
import sys
from pathlib import Path

NEW, OLD = Path(sys.argv[1]), Path(sys.argv[2])
SCHEDULERS = [
    "ddim", "ddim_parallel", "ddpm", "ddpm_parallel", "deis_multistep", "dpmsolver_multistep",
    "dpmsolver_sde", "dpmsolver_singlestep", "euler_ancestral_discrete", "euler_discrete",
    "heun_discrete", "k_dpm_2_ancestral_discrete", "k_dpm_2_discrete", "lcm", "lms_discrete",
    "pndm", "sasolver", "tcd", "unipc_multistep",
]


def class_of(path, name):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef) and (name is None or node.name == name):
            if name or node.name.endswith("Scheduler"):
                return node
    raise KeyError((path, name))


def text(node):
    return "" if node is None else ast.unparse(node).replace('"', "'")


def arguments(node, method="__init__"):
    """Of a method: names and annotations, and what it pops from kwargs."""
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == method:
            every = item.args.args + item.args.kwonlyargs
            found = {a.arg: text(a.annotation) for a in every if a.arg != "self"}
            for key in re.findall(r"kwargs\.(?:pop|get|setdefault)\('(\w+)'", text(item)):
                found.setdefault(key, "")
            return found
    return {}


def fields(node):
    return {
        item.target.id: text(item.annotation)
        for item in node.body
        if isinstance(item, ast.AnnAssign)
        and isinstance(item.target, ast.Name)
        and "ClassVar" not in text(item.annotation)
    }


def generation():
    """Of transformers 4, which let a model's config say how text is generated."""
    source = (OLD / "transformers/configuration_utils.py").read_text()
    body = source[source.index("def _get_global_generation_defaults"):]
    body = body[body.index("return {"): body.index("}")]
    return {key: "" for key in re.findall(r'"(\w+)":', body)}


def version(root, package):
    metadata = next(root.glob(f"{package}-*.dist-info"))
    return metadata.name[len(package) + 1: -len(".dist-info")]


def common(root):
    name = "PreTrainedConfig" if root is NEW else "PretrainedConfig"
    node = class_of(root / "transformers/configuration_utils.py", name)
    return {**arguments(node), **(
        {**fields(node), **arguments(node, "__post_init__")} if root is NEW else {})}


def clip(name):
    path = "transformers/models/clip/configuration_clip.py"
    new, old = class_of(NEW / path, name), class_of(OLD / path, name)
    mine = {**arguments(old), **arguments(new, "__post_init__"), **fields(new)}
    return {key: kind for key, kind in {**common(OLD), **common(NEW), **generation(), **mine}.items()
            if not key.startswith("_") and key != "kwargs"}


def tokenizer():
    base = class_of(NEW / "transformers/tokenization_utils_base.py", "PreTrainedTokenizerBase")
    attributes = next(ast.literal_eval(item.value) for item in base.body
                      if isinstance(item, ast.Assign) and
                      item.targets[0].id == "SPECIAL_TOKENS_ATTRIBUTES")
    files = "transformers/models/clip/tokenization_clip.py"
    backend = class_of(NEW / "transformers/tokenization_utils_tokenizers.py", "TokenizersBackend")
    found = {**arguments(class_of(OLD / files, "CLIPTokenizer")), **arguments(base),
             **arguments(backend), **{key: "" for key in [*attributes, "extra_special_tokens"]},
             **arguments(class_of(NEW / files, "CLIPTokenizer"))}
    return {key: kind for key, kind in found.items() if not key.startswith("_")}


def image_processor():
    path = "transformers/models/clip/image_processing_clip.py"
    old = arguments(class_of(OLD / path, "CLIPImageProcessor"))
    new = fields(class_of(NEW / "transformers/processing_utils.py", "ImagesKwargs"))
    return {**old, "use_square_size": "bool", **new}


def diffusers(path, name=None):
    node = class_of(NEW / "diffusers" / path, name)
    return node.name, arguments(node)


def open_clip():
    model, transform = NEW / "open_clip/model.py", NEW / "open_clip/transform.py"
    custom = arguments(class_of(model, "CustomTextCLIP"))
    return {
        "open_clip.CLIP": {**custom, **arguments(class_of(model, "CLIP")), "custom_text": ""},
        "open_clip.CLIPVisionCfg": fields(class_of(model, "CLIPVisionCfg")),
        "open_clip.CLIPTextCfg": fields(class_of(model, "CLIPTextCfg")),
        "open_clip.PreprocessCfg": fields(class_of(transform, "PreprocessCfg")),
    }


pipelines = "pipelines/stable_diffusion"
classes = dict(
    [
        diffusers("models/unets/unet_2d_condition.py", "UNet2DConditionModel"),
        diffusers("models/autoencoders/autoencoder_kl.py", "AutoencoderKL"),
        diffusers(f"{pipelines}/pipeline_stable_diffusion.py", "StableDiffusionPipeline"),
        diffusers(f"{pipelines}_xl/pipeline_stable_diffusion_xl.py", "StableDiffusionXLPipeline"),
    ]
    + [diffusers(f"schedulers/scheduling_{name}.py") for name in SCHEDULERS]
)
classes.update({name: clip(name) for name in ("CLIPTextConfig", "CLIPVisionConfig", "CLIPConfig")})
classes["CLIPTokenizer"] = tokenizer()
classes["CLIPImageProcessor"] = image_processor()
classes.update(open_clip())
libraries = {
    "diffusers": version(NEW, "diffusers"),
    "transformers": version(NEW, "transformers"),
    "transformers (before 5)": version(OLD, "transformers"),
    "open_clip": version(NEW, "open_clip_torch"),
}
print(json.dumps({"libraries": libraries, "classes": classes}, indent=1))
