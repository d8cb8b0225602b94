"""The base of all that is passed around: values that never change."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, dataclass_transform


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
class _Frozen(type):
    def __new__(mcs, name: str, bases: Any, space: dict[str, Any], **named: str) -> Any:
        made = super().__new__(mcs, name, bases, {**named, **space})
        # The decorator makes the class once more, and then with its slots.
        return (
            made if "__slots__" in space else dataclass(frozen=True, slots=True)(made)
        )


class Value(metaclass=_Frozen):
    """Every subclass is a frozen, slotted dataclass, without saying so each time."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
