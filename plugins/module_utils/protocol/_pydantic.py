# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The one place that imports pydantic.

Ansible imports module_utils on targets, and ansible-test in interpreters, that may lack third-party packages. Here
they get inert stand-ins, so that importing always works; a module checks :data:`HAS_PYDANTIC` before it uses a model.
"""

from __future__ import annotations

import traceback
import typing as t

PYDANTIC_IMPORT_ERROR: str | None = None
try:
    from pydantic import (
        BaseModel,
        BeforeValidator,
        ConfigDict,
        Field,
        TypeAdapter,
        ValidationError,
        field_validator,
        model_validator,
    )
    from pydantic.alias_generators import to_camel

    HAS_PYDANTIC = True
except ImportError:
    HAS_PYDANTIC = False
    PYDANTIC_IMPORT_ERROR = traceback.format_exc()

    if not t.TYPE_CHECKING:

        class BaseModel:
            """Stands for pydantic's base class where pydantic is missing."""

        class TypeAdapter:
            """Stands for pydantic's reader of other types where pydantic is missing."""

            def __init__(self, type):
                pass

        class ValidationError(Exception):
            """Stands for pydantic's error where pydantic is missing."""

        def BeforeValidator(func):  # noqa: N802 (pydantic's own name)
            return func

        def ConfigDict(**kwargs):  # noqa: N802 (pydantic's own name)
            return kwargs

        def Field(*args, **kwargs):  # noqa: N802 (pydantic's own name)
            return None

        def field_validator(*args, **kwargs):
            return lambda func: func

        def model_validator(*args, **kwargs):
            return lambda func: func

        def to_camel(name):
            return name


__all__ = [
    "HAS_PYDANTIC",
    "PYDANTIC_IMPORT_ERROR",
    "BaseModel",
    "BeforeValidator",
    "ConfigDict",
    "Field",
    "TypeAdapter",
    "ValidationError",
    "field_validator",
    "model_validator",
    "to_camel",
]
