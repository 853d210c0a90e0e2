"""Settlers on a real devnet: two of three sign what they recompute, and nothing else."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from simulated_operator import key, seed
from treasury_scene import TreasuryScene, treasury_scene

pytestmark = pytest.mark.process


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[TreasuryScene]:
    with treasury_scene(tmp_path) as made:
        yield made


def test_two_of_three_settlers_pay_what_they_recompute(scene: TreasuryScene) -> None:
    scene.operator.close([scene.operator.owe()])
    funding, payment = scene.operator.plans[0]
    assert scene.pay(funding, "settler a", "settler b")
    assert scene.pay(payment, "settler b", "settler c")
    assert scene.balance("seeder account") == payment.total_stroops
