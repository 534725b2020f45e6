"""The registry of model families: the only place that switches on a family's name.

A family is seven parts, each named here as `module:attribute` and imported when first asked for, so that
looking a family up costs nothing and the runtime never pulls in torch.
"""

import difflib
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embernet.errors import BundleError, InputError
from embernet.json_file import read_json_object

if TYPE_CHECKING:
    from embernet.runtime.bundle import Bundle


@dataclass(frozen=True)
class Family:
    """Where the parts of one model family live.

    config: frozen dataclass with `to_dict`, `from_dict` and the class attribute `presets`.
    model: torch module, constructed from a config; `initial_value` draws one tensor of a new model.
    checkpoint: reader of every published form of the family's checkpoints.
    parameters: exact parameter counts of a configuration.
    graphs: builder of the family's ONNX graphs.
    shape: sizes, work and memory of a bundle, from its manifest alone.
    pipeline: drives those graphs in the runtime.
    """

    name: str
    config: str
    model: str
    checkpoint: str
    parameters: str
    graphs: str
    shape: str
    pipeline: str

    def part(self, part: str) -> Any:
        """Import and return one of the parts above."""
        module, attribute = getattr(self, part).split(":")
        return getattr(importlib.import_module(module), attribute)


_FAMILIES = {
    family.name: family
    for family in [
        Family(
            name="embernet",
            config="embernet.models.embernet.config:EmberNetConfig",
            model="embernet.models.embernet.model:EmberNet",
            checkpoint="embernet.models.embernet.checkpoint:read_checkpoint",
            parameters="embernet.models.embernet.parameters:count_parameters",
            graphs="embernet.export.graphs.embernet:build_graphs",
            shape="embernet.runtime.pipelines.embernet_shape:EmberNetShape",
            pipeline="embernet.runtime.pipelines.embernet:EmberNetPipeline",
        ),
    ]
}


def family_names() -> list[str]:
    """Names of all registered families."""
    return sorted(_FAMILIES)


def find_preset(preset: str) -> tuple[Family, Any]:
    """The family and the configuration of a preset, or of a `config.json` of ours; InputError if there is none."""
    if preset.endswith(".json"):
        values = read_json_object(Path(preset))
        family = get_family(str(values.get("family")))
        return family, family.part("config").from_dict(values, preset)
    known = []
    for name in family_names():
        config = get_family(name).part("config")
        if preset in config.presets():
            return get_family(name), config.preset(preset)
        known += config.presets()
    raise InputError(f"unknown preset {preset!r} (known: {', '.join(known)})")


def get_family(name: str) -> Family:
    """Return the family called `name`; InputError with the nearest names if there is none."""
    if name in _FAMILIES:
        return _FAMILIES[name]
    close = difflib.get_close_matches(name, _FAMILIES, n=1)
    known = ", ".join(family_names())
    raise InputError(
        f"unknown model family {name!r} (known: {known})",
        hint=f"did you mean {close[0]!r}?" if close else None,
    )


def bundle_family(bundle: "Bundle") -> Family:
    """The family of a bundle; BundleError if only a later version knows it."""
    try:
        return get_family(bundle.manifest.family)
    except InputError as error:
        raise BundleError(f"{bundle.path}: {error}", hint="pip install --upgrade embernet") from None
