"""Kills programs at chosen and at random moments, and asks trainings to stop; all must resume.

A chosen moment is inside a change of a file (`programs/moments.py`): the program strikes itself,
and each kind of change that an undisturbed run makes has its turn. At random, a strike comes from
outside, after a random number of changes. Each program is struck a few times, then left alone
until its end: its results must then be those of an undisturbed one, to the bit, and nothing may be
left of the starts that died.
"""

from __future__ import annotations

import random
from pathlib import Path

from tests.soak.kills import compared
from tests.soak.kills.strikes import KILL, STOPS, Undisturbed, strike_all
from tests.soak.kills.victims import victims
from tests.soak.outcomes import LOST, Row
from tests.soak.programs.started import Programs

_KILLS, _STOPS = 100, 20


def run(folder: Path, share: float, seed: int) -> list[Row]:
    rng = random.Random(seed)
    before = {file.name for file in compared.SHARED.iterdir()}
    kills, stops = list[Row](), Row("signals that ask a training to stop")
    with Programs() as programs:
        for victim in victims(folder):
            undisturbed = Undisturbed(victim, programs, folder / victim.name)
            row = Row(f"SIGKILL of {victim.name}")
            strike_all(undisturbed, row, [KILL], max(1, round(_KILLS * victim.share * share)), rng)
            kills.append(row)
            if victim.asked_to_stop:
                strike_all(undisturbed, stops, STOPS, max(1, round(_STOPS * share)), rng)
    for name in compared.shared_memory(before):
        kills[0].add(LOST, f"left over in {compared.SHARED}: {name}")
    return [*kills, stops]
