"""Rows that are evaluated without the others of their batch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import attrs
from torch import Tensor

from foreseer.adapters.anatomy import Anatomy, Rewired
from foreseer.adapters.calls import Call
from foreseer.adapters.examination import FAILURES, Attempt, Examination
from foreseer.adapters.notes import RaggedError, Unlike
from foreseer.adapters.rows import batch_of, select_rows
from foreseer.adapters.sameness import row_tolerance, same_output
from foreseer.adapters.visits import Visits
from foreseer.adapters.walk import Walk
from foreseer.backbone import Pass
from foreseer.errors import ContractError, UnsupportedModelError
from foreseer.transfer import on_device
from foreseer.types import Site

__all__ = ["SomeRows"]


class SomeRows:
    """See the module.

    Args:
        anatomy: What was learnt about the model; whether its batch can be cut is put there.
        examination: Asks the processes that share the rows whether they found the same.
        attempt: Wants a pass.
        add_output: Records the model's output of a pass.
    """

    def __init__(self, anatomy: Anatomy, examination: Examination, attempt: Attempt, add_output: Callable[[Pass, Walk, Collection[Site]], None]) -> None:
        self._anatomy, self._examination, self._attempt, self._add_output = anatomy, examination, attempt, add_output

    def visits(self, inputs: Call, rows: Sequence[int], substitute: Mapping[Site, Tensor], record: Collection[Site], see: Collection[Site]) -> Visits[Pass]:
        """Evaluate some rows without the others. Before that is done for the first time, both ways are
        compared; where they differ, all rows are evaluated.
        """
        resumed = frozenset(substitute)  # rows that resume behind a block skip what is before it: another comparison
        try:
            part, why = (yield from self._alone(inputs, rows, substitute, record, see)) if self._anatomy.separable else (None, "")
        except RaggedError as ragged:  # of these rows, in this step: others may be as long alone as among all
            self._anatomy.note(f"{self._anatomy.name}: {ragged}; so a rejection of such rows computes the whole batch")
            done = yield from self._among_all(inputs, rows, record, see)
        else:
            if part is None or resumed not in self._anatomy.compared:
                whole = yield from self._among_all(inputs, rows, record, see)
                tolerance = row_tolerance(whole.output, whole.features)
                differs = part is not None and not same_output(whole.output, part.output, tolerance=tolerance)
                if self._anatomy.separable and not self._examination.agreed([not why and not differs], whole.output)[0]:
                    self._anatomy.separable = False
                    why = why or "a row computed alone differs from the same row in the batch"
                    self._anatomy.note(f"{self._anatomy.name}: {why}; so a rejection computes the whole batch")
                self._anatomy.compared.add(resumed)
            done = part if part is not None and self._anatomy.separable else whole
        return done

    def _alone(
        self, inputs: Call, rows: Sequence[int], substitute: Mapping[Site, Tensor], record: Collection[Site], see: Collection[Site]
    ) -> Visits[tuple[Pass | None, str]]:
        """Evaluate some rows without the others. Returns the pass, or None and why it cannot be.

        Raises:
            RaggedError: They are shaped otherwise alone.
            Rewired: They are not where they seemed to be.
        """
        try:
            part, walk = yield from self._attempt(inputs, rows, substitute, record=record, see=see)
        except RaggedError:
            raise
        except Unlike as unlike:
            raise Rewired(str(unlike)) from None
        except UnsupportedModelError as error:
            return None, f"its batch cannot be cut: {error}"
        except ContractError:
            raise
        except FAILURES as error:
            return None, f"its batch cannot be cut ({type(error).__name__}: {error})"
        self._add_output(part, walk, record)
        missing = [str(site) for site in record if self._anatomy.claims(site) and site not in walk.notes.features]
        return (None, f"{', '.join(missing)} is not computed for some rows alone") if missing else (part, "")

    def _among_all(self, inputs: Call, rows: Sequence[int], record: Collection[Site], see: Collection[Site]) -> Visits[Pass]:
        """Evaluate all rows, and return some."""
        try:
            done, walk = yield from self._attempt(inputs, None, {}, record=record, see=see)
        except Unlike as unlike:
            raise Rewired(str(unlike)) from None
        self._add_output(done, walk, record)
        features, seen = ({site: tensor[on_device(rows, tensor.device)] for site, tensor in found.items()} for found in (done.features, done.seen))
        return attrs.evolve(done, output=select_rows(done.output, rows, batch_of(inputs.args, inputs.kwargs)), features=features, seen=seen)
