"""Protocols by name: their values, and the name that settings get."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pydistill.data.dsa import DsaSettings
from pydistill.errors import SettingError
from pydistill.evaluation.protocols import PROTOCOLS, protocol_of, with_protocol
from pydistill.evaluation.settings import EvaluationSettings

MTT = EvaluationSettings()


def test_the_published_values() -> None:
    for name, batch_size, best_every in (("mtt", 256, None), ("datm", 128, None), ("ddranking", 256, 20)):
        protocol = PROTOCOLS[name]
        assert protocol.best_every == best_every
        assert protocol.training == replace(MTT.training, batch_size=batch_size), name
        assert (protocol.training.epochs, protocol.training.lr_at(500), protocol.training.lr_at(501)) == (
            1000,
            protocol.training.lr,
            protocol.training.lr * 0.1,
        )


def test_a_protocol_leaves_the_networks_the_repeats_and_the_seed() -> None:
    own = EvaluationSettings(models=("mlp",), repeats=3, seed=7, baselines=(), full_epochs=9)
    changed = with_protocol(own, "ddranking", None)
    assert changed == replace(own, training=replace(MTT.training, dsa=None), best_every=20)
    with pytest.raises(SettingError, match="protocol must be one of mtt, datm, ddranking, not 'ftd'"):
        with_protocol(own, "ftd", None)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_has_its_own_name_for_any_number_of_epochs(name: str) -> None:
    protocol = with_protocol(EvaluationSettings(repeats=1, seed=3), name, DsaSettings())
    shorter = replace(protocol.training, epochs=7, lr=0.5)
    assert protocol_of(replace(protocol, training=shorter)) == name


def test_everything_else_that_differs_is_named() -> None:
    training = replace(MTT.training, batch_size=64, schedule="cosine", dsa=DsaSettings(flip=0.0, shared=True))
    text = "mtt, batch_size 64, schedule cosine, dsa.flip 0.0, dsa.shared True"
    assert protocol_of(replace(MTT, training=training)) == text
    assert protocol_of(replace(MTT, training=replace(MTT.training, dsa=None))) == "mtt, no dsa"
    assert protocol_of(replace(MTT, training=replace(training, batch_size=128, dsa=None), best_every=5)) == (
        "datm, schedule cosine, no dsa, best_every 5"
    )
    assert protocol_of(replace(MTT, training=replace(MTT.training, momentum=0.0))) == "mtt, momentum 0.0"
