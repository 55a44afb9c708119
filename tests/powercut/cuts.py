"""What may be on the disk when the power goes: of the writes since the last flush any subset, sectors whole."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from powercut.recording import Flush, Mark, Write

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from powercut.recording import Event

_ALL_SUBSETS_UP_TO = 8
_MAX_SECTORS_PAIRED = 400
_SINGLES_TO_RANDOMS = 4


@dataclass(frozen=True)
class Cut:
    """A state.

    Attributes:
        epoch: How many flushes came before that had anything to flush.
        step: The step that ended last.
        is_done: The cut comes right after that step, before anything of the next.
        kind: How the subset was chosen.
        chosen: Which of the epoch's writes, by their place.
        of: How many there are.
        changed: All sectors that are not the first image's.
    """

    epoch: int
    step: str
    is_done: bool
    kind: str
    chosen: tuple[int, ...]
    of: int
    changed: dict[int, bytes]

    @property
    def name(self) -> str:
        """What finds it again, with the recording and the seed."""
        return f"{self.step}{'!' if self.is_done else ''}/{self.epoch}/{self.kind}/{len(self.chosen)} of {self.of}"


def _subsets(
    count: int, sectors: Sequence[int], rng: random.Random, randoms: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    everything = range(count)
    for end in range(count + 1):
        yield "prefix", tuple(range(end))
    if count <= _ALL_SUBSETS_UP_TO:
        for bits in range(1 << count):
            yield "subset", tuple(at for at in everything if bits >> at & 1)
        return
    most = randoms * _SINGLES_TO_RANDOMS
    for at in everything if count <= most else sorted(rng.sample(everything, most)):
        yield "one", (at,)
        yield "all but one", tuple(other for other in everything if other != at)
    pairs = list(itertools.islice(itertools.combinations(sorted(set(sectors)), 2), _MAX_SECTORS_PAIRED))
    for pair in pairs if randoms >= _MAX_SECTORS_PAIRED // 2 else rng.sample(pairs, min(randoms, len(pairs))):
        yield "all but two sectors", tuple(at for at in everything if sectors[at] not in pair)
    for _ in range(randoms):
        share = rng.random()
        yield "random", tuple(at for at in everything if rng.random() < share)


def cut_everywhere(events: Sequence[Event], rng: random.Random, randoms: int) -> Iterator[Cut]:
    """Yield the states that a cut can leave: every prefix, and subsets of each epoch; none twice in an epoch.

    Args:
        events: A recording's.
        rng: Chooses.
        randoms: How many random subsets an epoch of more than 8 writes gets; a smaller one gets all subsets. Up to four
            times as many of its writes are cut to alone, and left out alone.
    """
    flushed: dict[int, bytes] = {}
    pending: list[Write] = []
    judged = epoch = 0
    step = ""

    def states(*, is_done: bool) -> Iterator[Cut]:
        seen: set[frozenset[tuple[int, bytes]]] = set()
        sectors = [write.sector for write in pending]
        for kind, chosen in _subsets(len(pending), sectors, rng, randoms):
            last = {pending[at].sector: pending[at].data for at in chosen}
            key = frozenset(last.items())
            if key not in seen:
                seen.add(key)
                yield Cut(epoch, step, is_done, kind, chosen, len(pending), {**flushed, **last})

    for event in events:
        match event:
            case Write():
                pending.append(event)
            case Flush() if pending:
                yield from states(is_done=False)
                flushed.update((write.sector, write.data) for write in pending)
                pending, judged, epoch = [], 0, epoch + 1
            case Mark(name):
                if len(pending) > judged:
                    yield from states(is_done=False)
                judged, step = len(pending), name
                yield from states(is_done=True)
            case _:
                pass
    if len(pending) > judged:
        yield from states(is_done=False)
