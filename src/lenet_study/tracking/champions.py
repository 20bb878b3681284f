"""The champions of the registered model: an append-only history, which the aliases follow.

The history is the params of one run. MLflow never changes a param, and its database refuses a second value
under a key: of several processes that append the same entry at once, be it through a server, one succeeds.
A change is appended first; the aliases are set after it, and another param says that they were. A process
that dies in between leaves a change without that param, and whoever looks next sets the aliases.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, Self

import mlflow
from mlflow.entities import LifecycleStage
from mlflow.exceptions import MlflowException

from lenet_study.errors import IntegrityError, StoreError, one_line
from lenet_study.recipes.recipe_file import content_digest
from lenet_study.tracking.run import Run
from lenet_study.tracking.schema import Tag
from lenet_study.tracking.store import NAME, missing_ignored, prepare_experiment, store_call

CHAMPION, PREVIOUS, CHALLENGER = "champion", "previous", "challenger"  # aliases
Action = Literal["promoted", "named", "rolled back", "set elsewhere"]
_BY_HAND = ("named", "rolled back", "set elsewhere")
_CHANGE, _SETTLED = "change.{:06d}", "change.{:06d}.settled"  # params
_LIMIT = 2000  # characters of a reason, and of a name; MLflow cuts a param at 6,000
_RUN = "champion's history"
_SECOND_LOOK = 1.0  # seconds; a process of another host may be between two writes


@dataclass(frozen=True, kw_only=True)
class Change:
    """One change of the champion."""

    action: Action
    version: str  # the champion from then on; empty for none
    former: str  # the champion before; empty for none
    reason: str
    run_id: str  # that did it; empty if it was done elsewhere
    user: str
    time: str  # UTC

    def dumps(self) -> str:
        """Return the content of the change's param, which ends with the sum of the rest."""
        content = {name: value[:_LIMIT] for name, value in asdict(self).items()}
        return json.dumps({**content, "sha256": content_digest(content)}, ensure_ascii=False)

    @classmethod
    def loads(cls, text: str) -> Self:
        """Return the change that a param holds; raise ValueError or TypeError if it is damaged."""
        content = dict(json.loads(text))
        if content.pop("sha256", "") != content_digest(content):
            raise ValueError("its SHA-256 is another")
        return cls(**content)


@dataclass(frozen=True)
class History:
    """All changes of the champion, the earliest first.

    Attributes:
        changes: In the order in which they happened.
        settled: Whether the aliases have followed the last one.
        aliases: The version of each alias, as the registry has them.
    """

    changes: tuple[Change, ...] = ()
    settled: bool = True
    aliases: Mapping[str, str] = field(default_factory=dict)

    @property
    def number(self) -> int:
        """How many changes there are."""
        return len(self.changes)

    @property
    def champion(self) -> str:
        """The version that is the champion; empty if there is none."""
        return self.changes[-1].version if self.changes else ""

    @property
    def seen(self) -> str:
        """The champion that whoever looks now sees: the alias, or what it is about to follow."""
        return self.aliases.get(CHAMPION, "") if self.settled else self.champion

    @property
    def lineage(self) -> list[str]:
        """The versions back through which rollbacks lead, the champion last."""
        versions: list[str] = []
        for change in self.changes:
            if change.action == "rolled back" and change.version in versions:
                while versions[-1] != change.version:
                    versions.pop()
                continue
            for version in (change.former if not versions else "", change.version):
                if version and versions[-1:] != [version]:
                    versions.append(version)
        return versions

    @property
    def previous(self) -> str:
        """The version to which a rollback leads; empty if there is none."""
        return next(iter(self.lineage[-2:-1]), "")

    @property
    def withdrawn(self) -> set[str]:
        """Champions that were displaced by hand, and not made champion since."""
        versions: set[str] = set()
        for change in self.changes:
            versions |= {change.former} if change.action in _BY_HAND else set()
            versions -= {change.version, ""}
        return versions


class Champions:
    """The champion's history and aliases in the present store; ``client`` is MLflow's."""

    def __init__(self, client: Any = None) -> None:
        self._client = client or mlflow.MlflowClient()

    def history(self) -> History:
        """Return the history as it stands.

        Raises:
            IntegrityError: A change is not as it was written.
            StoreError: The store failed.
        """
        with store_call():
            try:
                model = self._client.get_registered_model(NAME)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return History()
            run_id = model.tags.get(Tag.HISTORY_RUN_ID, "")
            params = self._client.get_run(run_id).data.params if run_id else {}
        changes: list[Change] = []
        while content := params.get(_CHANGE.format(len(changes) + 1)):
            try:
                changes.append(Change.loads(content))
            except (ValueError, TypeError) as error:
                key = _CHANGE.format(len(changes) + 1)
                where = f"param {key} of run {run_id}: {one_line(error)}"
                raise IntegrityError(
                    f"The champion's history is damaged ({where}): bring the store back from a backup"
                ) from error
        settled = not changes or _SETTLED.format(len(changes)) in params
        aliases = {alias: str(version) for alias, version in model.aliases.items()}
        return History(tuple(changes), settled, aliases)

    def settle(self) -> History:
        """Make the aliases follow the history, or the history what somebody has set elsewhere; return it.

        Raises:
            StoreError: The store failed.
        """
        looked = followed = -1
        while True:
            history = self.history()
            # A change that came while the aliases were set for another may have had its own overwritten.
            if not history.settled or followed not in (-1, history.number):
                followed = history.number
                self._follow(history)
            elif history.champion == history.aliases.get(CHAMPION, ""):
                return history
            elif looked != history.number:
                looked = history.number
                time.sleep(_SECOND_LOOK)
            else:
                self._append(history, self._set_elsewhere(history))

    def change(self, history: History, action: Action, version: str, reason: str, run: Run) -> bool:
        """Make a version the champion if the history is still the one given; return whether it was.

        Raises:
            StoreError: The store failed.
        """
        change = Change(
            action=action,
            version=version,
            former=history.champion,
            reason=reason,
            run_id=run.id,
            user=run.former_tags.get(Tag.USER, ""),
            time=_now(),
        )
        if not self._append(history, change):
            return False
        self.settle()
        return True

    def _set_elsewhere(self, history: History) -> Change:
        """Return the entry of an alias that is not as the history says."""
        change = Change(
            action="set elsewhere",
            version=history.aliases.get(CHAMPION, ""),
            former=history.champion,
            reason="by another program, such as MLflow's page",
            run_id="",
            user="",
            time=_now(),
        )
        if history.changes:
            return change
        with store_call():  # the store is older than this history
            tags = self._client.get_model_version(NAME, change.version).tags
        reason, run_id = (tags.get(tag, "") for tag in (Tag.PROMOTED_REASON, Tag.PROMOTED_BY_RUN))
        former = history.aliases.get(PREVIOUS, "")
        return replace(change, action="promoted", former=former, reason=reason, run_id=run_id)

    def _append(self, history: History, change: Change) -> bool:
        """Append an entry; return whether no other process was faster."""
        with store_call():
            run_id, key = self._history_run() or self._make_history_run(), _CHANGE.format(history.number + 1)
            content = change.dumps()
            try:
                self._client.log_param(run_id, key, content)
            except MlflowException as error:
                present = self._client.get_run(run_id)
                if present.info.lifecycle_stage != LifecycleStage.ACTIVE:
                    message = f"Run {run_id}, which holds the champion's history, is deleted"
                    raise StoreError(f"{message}: `mlflow runs restore --run-id {run_id}`") from error
                if key not in present.data.params:
                    raise
                return bool(present.data.params[key] == content)
        return True

    def _follow(self, history: History) -> None:
        """Set the aliases as the last change says, the champion's last of all."""
        last = history.changes[-1]
        with store_call():
            if last.version and last.action != "set elsewhere":
                self._set_tags(last)
            for alias, version in ((PREVIOUS, history.previous), (CHAMPION, history.champion)):
                if version != history.aliases.get(alias, ""):
                    self._set_alias(alias, version)
            if history.champion and self.history().aliases.get(CHALLENGER) == history.champion:
                self._set_alias(CHALLENGER, "")
            self._client.log_param(self._history_run(), _SETTLED.format(history.number), "true")

    def _set_tags(self, change: Change) -> None:
        with missing_ignored():  # deleted meanwhile: the next look at the aliases finds that out
            for tag, value in ((Tag.PROMOTED_REASON, change.reason), (Tag.PROMOTED_BY_RUN, change.run_id)):
                self._client.set_model_version_tag(NAME, change.version, tag, value)

    def _set_alias(self, alias: str, version: str) -> None:
        with missing_ignored():
            if version:
                self._client.set_registered_model_alias(NAME, alias, version)
            else:
                self._client.delete_registered_model_alias(NAME, alias)

    def _history_run(self) -> str:
        """Return the id of the run that holds the history; empty if there is none."""
        return str(self._client.get_registered_model(NAME).tags.get(Tag.HISTORY_RUN_ID, ""))

    def _make_history_run(self) -> str:
        """Make the run that holds the history, and return its id; whoever names theirs last is followed."""
        tags = {Tag.STAGE: "history", Tag.DESCRIPTION: "Its params are the history of the champion."}
        run_id = self._client.create_run(prepare_experiment("", ""), run_name=_RUN, tags=tags).info.run_id
        self._client.set_terminated(run_id)
        self._client.set_registered_model_tag(NAME, Tag.HISTORY_RUN_ID, run_id)
        if mlflow.get_tracking_uri().startswith("http"):
            time.sleep(_SECOND_LOOK)  # a process of another host may be doing the same
        return self._history_run()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
