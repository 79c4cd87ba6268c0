"""An exception of dray's own code in a forward is no row's: the job stops with it, and no row is blamed."""

import pytest
from support.doubling import Doubling, item_of

from dray.pipelines.batching import collating
from dray.pipelines.batching.parts import Limits
from dray.pipelines.engine.block import predict
from dray.pipelines.engine.watchdog import Watchdog
from dray.pipelines.errors import FaultError, is_own_fault
from dray.pipelines.internals import linear


class Faulty(Doubling):
    """Its outputs are of a kind that dray's own `split` cannot take apart."""

    def forward(self, parts):
        self.batches.append(len(parts))
        return collating.split(object(), len(parts), was_collated=True)


def test_a_fault_of_our_own_is_not_cut_into_failed_rows():
    phases = Faulty()
    with pytest.raises(FaultError, match=r"a fault of dray, and not of a row: TypeError: .* \(at .*collating\.py:\d+\)"):
        predict(phases, [item_of([4, 5, 6, 7])], Limits.budget(40), Watchdog(60))
    assert len(phases.batches) == 1


class Short(Doubling):
    """Gives fewer outputs than it was given parts."""

    def forward(self, parts):
        return super().forward(parts)[1:]


def test_outputs_that_are_missing_are_no_rows_fault():
    with pytest.raises(FaultError, match="fault of dray"):
        predict(Short(), [item_of([4, 5, 6])], Limits.budget(40), Watchdog(60))


def test_what_a_model_or_a_library_raises_is_a_rows():
    (outcome,) = predict(Doubling(), [item_of([13])], Limits.budget(40), Watchdog(60))
    assert str(outcome.error) == "13 in the batch"


def test_code_that_stands_in_for_a_librarys_counts_as_the_librarys():
    import torch

    def raised(call):
        try:
            call()
        except Exception as error:
            return error

    wrong = raised(lambda: linear._multiply(torch.ones(3, 4), torch.ones(2, 2), None))
    assert wrong is not None
    assert not is_own_fault(wrong)
    assert is_own_fault(raised(lambda: collating.split(object(), 2, was_collated=True)))
