"""Models of torchvision and timm by name. Either library is imported only when such a model is built.

Weights are always freshly drawn and nothing is fetched. To start from published weights, give a file as the
model config's ``weights``.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from torch import nn

from compressbench.errors import UserError, nearest
from compressbench.models.fit import image_shape


def torchvision_model(model_name: str, shape: Sequence[int], classes: int, **options: Any) -> nn.Module:
    """Any classification model of torchvision, with ``classes`` logits, for the image's channels.

    ``vit_*`` and ``maxvit*`` are built for the image's own size. For other than 3 channels the first
    convolution is redrawn, normal with the spread of the original's draw.

    Args:
        model_name: as in ``torchvision.models.list_models``, e.g. ``mobilenet_v3_small``.
        shape: (channels, height, width) of an image.
        classes: number of logits.
        options: passed on to the model's own builder.

    Raises:
        UserError: torchvision is not installed, has no such model, or the model can't be built like this.
    """
    channels, height, width = image_shape(shape, classes, f"torchvision {model_name}")
    _refuse_weights(options, f"torchvision {model_name}")
    models = _library("torchvision.models")
    names = models.list_models(module=models)
    if model_name not in names:
        raise UserError(f"torchvision has no model {model_name!r}; {nearest(str(model_name), names)}")
    sized: dict[str, dict[str, Any]] = {
        "vit": {"image_size": height},
        "maxvit": {"input_size": (height, width)},
    }
    own = sized.get(model_name.split("_")[0], {})
    if "image_size" in own and height != width and "image_size" not in options:
        raise UserError(f"torchvision {model_name} needs square images; got {height}x{width}")
    try:
        module = models.get_model(model_name, weights=None, num_classes=classes, **{**own, **options})
    except (RuntimeError, ValueError, TypeError, AssertionError, ZeroDivisionError) as error:
        raise UserError(f"torchvision {model_name} can't be built for {height}x{width}: {error}") from error
    return module if channels == 3 else with_channels(module, channels)


def timm_model(model_name: str, shape: Sequence[int], classes: int, **options: Any) -> nn.Module:
    """Any model of timm, with ``classes`` logits, for the image's channels.

    Models that timm marks as made for one size of image are built for this one.

    Args:
        model_name: as in ``timm.list_models``, e.g. ``resnet10t``: an architecture, no tag of weights.
        shape: (channels, height, width) of an image.
        classes: number of logits.
        options: passed on to ``timm.create_model``.

    Raises:
        UserError: timm is not installed, has no such model, or the model can't be built like this.
    """
    channels, height, width = image_shape(shape, classes, f"timm {model_name}")
    _refuse_weights(options, f"timm {model_name}")
    timm = _library("timm")
    names = timm.list_models()
    if model_name not in names:
        raise UserError(f"timm has no model {model_name!r}; {nearest(str(model_name), names)}")
    known = timm.get_pretrained_cfg(model_name)
    sized = {"img_size": (height, width)} if known is not None and known.fixed_input_size else {}
    settings = {"num_classes": classes, "in_chans": channels, **sized, **options}
    try:
        return timm.create_model(model_name, pretrained=False, **settings)
    except (RuntimeError, ValueError, TypeError, AssertionError, ZeroDivisionError) as error:
        raise UserError(f"timm {model_name} can't be built for {height}x{width}: {error}") from error


def with_channels(module: nn.Module, channels: int) -> nn.Module:
    """The same module, its first convolution redrawn for ``channels`` channels with the same spread.

    Raises:
        UserError: the module has no plain 2-d convolution.
    """
    for name, part in module.named_modules():
        if isinstance(part, nn.Conv2d) and part.groups == 1:
            new = nn.Conv2d(
                channels,
                part.out_channels,
                part.kernel_size,  # type: ignore[arg-type]
                stride=part.stride,  # type: ignore[arg-type]
                padding=part.padding,  # type: ignore[arg-type]
                dilation=part.dilation,  # type: ignore[arg-type]
                bias=part.bias is not None,
                padding_mode=part.padding_mode,
            )
            nn.init.normal_(new.weight)
            new.weight.data.mul_(part.weight.detach().std())
            if part.bias is not None and new.bias is not None:
                new.bias.data.copy_(part.bias.data)
            module.set_submodule(name, new)
            return module
    raise UserError(f"{type(module).__name__} has no convolution that could take {channels} channels")


def _refuse_weights(options: Mapping[str, Any], who: str) -> None:
    for name in ("weights", "weights_backbone", "pretrained", "checkpoint_path"):
        if options.get(name):
            raise UserError(f"{who}: {name} is not taken here; give a file of weights as model.weights")


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        family = name.split(".")[0]
        hint = f"install it with: pip install 'compressbench[{family}]'"
        raise UserError(f"can't import {family}: {error}; {hint}") from error
