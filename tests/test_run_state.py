"""Where a run stands: what checkpoints keep of it comes back as it was."""

from __future__ import annotations

import json

from networks import small_resnet

from nasir.running.state import RunState
from nasir.training.backend import Stretch


def test_a_state_goes_back_to_what_its_checkpoint_kept() -> None:
    graph = small_resnet((1, 1, 1))
    for stretch in (None, Stretch({}, False, 3, {"loss": 0.1 + 0.2})):
        for undecided in (False, True):
            before = RunState(graph, 4, undecided, stretch)
            meta = json.loads(json.dumps(before.to_meta("digest")))
            assert meta["graph"] == "digest"
            after = RunState(small_resnet((2, 1, 1)), 9, not undecided, Stretch({}, False, 1, {}))
            after.go_back(meta, graph)
            assert after == before


def test_older_checkpoints_that_say_less_are_decided_and_between_epochs() -> None:
    state = RunState(small_resnet((1, 1, 1)), 9, True, Stretch({}, False, 1, {}))
    state.go_back({"ordinal": 2}, state.graph)
    assert (state.ordinal, state.undecided, state.stretch) == (2, False, None)
