"""Every family gives plain transformers' numbers, or the refusal that docs/models.md tells of."""

from collections.abc import Iterator

import pytest

from families.table import CHECKS, documented, measured
from families.zoo import FAMILIES, Family


def cases() -> Iterator[object]:
    for family in FAMILIES:
        for check in CHECKS:
            quick = family.quick and check != "vllm"
            marks = [pytest.mark.xdist_group(family.name), *([] if quick else [pytest.mark.families])]
            if check != "vllm" or family.vllm:
                yield pytest.param(family, check, id=f"{family.name}-{check}", marks=marks)


@pytest.mark.parametrize(("family", "check"), cases())
def test_the_document_tells_what_is_measured(family: Family, check: str) -> None:
    cells = measured(check, family)
    told = documented()[family.name]
    assert cells == {column: told[column] for column in cells}, "docs/models.md is stale: make models"


def test_every_family_is_documented() -> None:
    assert list(documented()) == [family.name for family in FAMILIES]
    assert len(FAMILIES) >= 60
