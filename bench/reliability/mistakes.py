"""A user's mistakes: each is refused in one sentence, soon, and nothing is left of it."""

from __future__ import annotations

from tests.cli.bad_inputs import Case, cases, write_broken_things

from bench.reliability.row import Row
from bench.reliability.stores import Ended, ToyStore, ToyStores, end_of
from lenet_study.training.data_files import ENVIRONMENT_VARIABLE

SECONDS = 15.0  # that an answer may take


def mistakes(stores: ToyStores, tries: int) -> list[Row]:
    """Give commands so many bad values of parameters, variables, files and folders."""
    row = Row("a bad parameter, variable, file or folder (timed: the answer)")
    store = stores.new()
    (store.folder / "data").symlink_to(stores.files.folder)
    write_broken_things(store.folder)
    possible = [
        case for case in cases() if _can_be_typed(case) and ENVIRONMENT_VARIABLE not in case.environment
    ]
    for case in stores.random.sample(possible, tries):
        filled = case.filled(store.folder)
        ended = end_of(store.start(*filled.arguments, **filled.environment), limit=2 * SECONDS)
        deviations = _deviations(filled, ended, store)
        row.count([f"{deviation}: `{case}`" for deviation in deviations], ended.seconds, ended.output)
    return [row]


def _can_be_typed(case: Case) -> bool:
    """Return whether a process can be given the case: its words are text, without a zero byte."""
    return all(word.isprintable() for word in (*case.arguments, *case.environment.values()))


def _deviations(case: Case, ended: Ended, store: ToyStore) -> list[str]:
    deviations = ended.deviations("the command", case.code)
    sentences = [line for line in ended.output.splitlines() if line.startswith("Error: ")]
    if len(sentences) != 1 or not all(name in sentences[0] for name in case.named):
        deviations.append("no sentence names the mistake")
    deviations += [f"took over {SECONDS:.0f} s"] if ended.seconds > SECONDS else []
    return deviations + [f"a run is {status}" for status in store.content().statuses()]
