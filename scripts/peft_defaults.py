#!/usr/bin/env python3
"""Writes the defaults of PEFT's configurations, by which `report --quality` fills in keys that a configuration doesn't have.

    scripts/peft_defaults.py > src/report/quality/peft_defaults.json      # with PEFT installed

Defaults that say nothing (null, false, zero, empty) are left out. `nulls` is what a null key means for Llama, of whose family
PEFT publishes results.
"""

import dataclasses
import enum
import json

import peft
from peft.utils import (
    TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING,
    TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING,
)
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING


def plain(value):
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (set, tuple)):
        return sorted(value)
    if dataclasses.is_dataclass(value):
        return {key: plain(of) for key, of in dataclasses.asdict(value).items()}
    return value


def default(field):
    if field.default is not dataclasses.MISSING:
        return plain(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return plain(field.default_factory())
    return None


def says_something(key, value) -> bool:
    return key not in ("peft_type", "peft_version") and not (value in (None, False, "", [], {}, "none") or value == 0)


methods = {}
for peft_type, config in sorted(PEFT_TYPE_TO_CONFIG_MAPPING.items()):
    defaults = {field.name: default(field) for field in dataclasses.fields(config)}
    defaults = {key: value for key, value in sorted(defaults.items()) if says_something(key, value)}
    tuner = PEFT_TYPE_TO_TUNER_MAPPING.get(peft_type)
    targets = getattr(tuner, "target_module_mapping", None) or {}
    entry = {"defaults": defaults}
    if peft_type == "IA3":
        targets = TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING
        entry["nulls"] = {"feedforward_modules": sorted(TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING["llama"])}
    if "llama" in targets:
        entry.setdefault("nulls", {})["target_modules"] = sorted(targets["llama"])
    methods[getattr(peft_type, "value", peft_type)] = entry
print(json.dumps({"peft": peft.__version__, "methods": methods}, indent=1))
