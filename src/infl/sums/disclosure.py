"""Which numbers of a sum are given under rules of disclosure: agreed on by sealed counts, before anything of it is sent.

Each site says, inside a sum, for each number whether it gives; all learn how many do. Where fewer do than are needed, all send
zeros, so that what is opened there is zero: nothing of it can be found in what was sent, by whoever has the key. Then each site
says whether one of its records makes up too much of a number, which closes it for all. What is closed comes back as NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from infl._settings import rules_in_force
from infl.data.asked import Asked, asked
from infl.data.columns import obs_column
from infl.data.labels import label_text
from infl.errors import DataError, SettingsError
from infl.privacy.own_rules import withheld
from infl.privacy.register import Question, Verdict
from infl.sums.answers import (
    SITES,
    Opening,
    against_of,
    alone_of,
    any_for_all,
    by_set,
    close,
    dominated,
    enough,
    holds_of,
    last_of_fewest,
    small,
)
from infl.sums.cells import Cells, refusal

if TYPE_CHECKING:
    from infl.privacy.disclosure import Disclosure
    from infl.privacy.rules import DisclosureRules
    from infl.sums.shape import Arrays, FederatedSum, State

CLOSED = "closed"
"""Name in the state of the rule that closed each number, by array; a number of :data:`RULE_NAMES`."""


def control() -> Disclosure | None:
    """Return the rules in force, None where there are none."""
    return rules_in_force()


def settled(groups: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Return groups of observations, by site of this process, that rules of disclosure in force let sums be released of.

    A few observations of a site change their group with the others that were in the same groups before, or not at all. Without
    rules the groups stay as they are.
    """
    rules, call = control(), asked()
    if rules is None or call is None:
        return groups
    return {
        site: rules.register(site).settled(records_of(site, call, rules), own, rules.rules.k)
        for site, own in groups.items()
    }


def records_of(site: str, call: Asked, disclosure: Disclosure) -> np.ndarray:
    """Return where a site's observations are in its register, (n_obs,)."""
    if site not in call.found:
        column = disclosure.rules.donor_key
        persons = None if column is None else _donors(call.sites[site], column, site)
        call.found[site] = disclosure.register(site).rows(call.names(site), persons)
    return call.found[site]


def refuse_groups_of(*columns: str) -> None:
    """Refuse a question about groups of columns that rules in force do not release.

    Raises
    ------
    SettingsError
        In one line, with the columns that they do.
    """
    rules = control()
    released = None if rules is None else rules.rules.groups
    column = None if released is None else next((name for name in columns if name not in released), None)
    if released is not None and column is not None:
        raise SettingsError(
            f"{column!r}: rules of disclosure here release groups of {', '.join(map(repr, released)) or 'no column'}; "
            "ask about one of these, or have the site's steward add it to groups"
        )


def refuse_under_rules(what: str, asked_for: bool = True, *, since: str = "") -> None:
    """Refuse what has no rules yet where there are some in force, before any work, and say why.

    Raises
    ------
    SettingsError
        In one line.
    """
    if asked_for and control() is not None:
        raise SettingsError(
            f"{what} is not yet under disclosure rules{since and f', since {since}'}: leave it out, or run it where "
            "infl.settings.disclosure is None"
        )


class Judge:
    """Rules on the sums of one list, with what is known of the sites' records.

    Parameters
    ----------
    disclosure, members
        The rules in force, and all sites.
    about, sums
        What the sums are for, and all of them.

    Raises
    ------
    SettingsError
        It is not known which records stand behind one of them.
    """

    def __init__(
        self, disclosure: Disclosure, members: tuple[str, ...], about: str, sums: Sequence[FederatedSum]
    ) -> None:
        self.disclosure, self.members, self.about = disclosure, members, about
        self.rules: DisclosureRules = disclosure.rules
        call, without = asked(), [one.name for one in sums if one.cells is None]
        if call is None or without:
            names = without if call else [about] if about else [one.name for one in sums]
            raise SettingsError(refusal(call.function if call else None, names))
        self.call: Asked = call

    def opening(
        self,
        purpose: str,
        cells: Cells,
        shapes: Mapping[str, tuple[int, ...]],
        sites: Mapping[str, Any],
        state: State,
        add: Callable[[Mapping[str, Arrays], str], Arrays],
    ) -> Opening:
        """Return what is opened of a sum, after all sites said what they give; what is, is in their registers.

        Parameters
        ----------
        purpose, cells, shapes
            What is summed.
        sites, state
            What the sites of this process have, and all know.
        add
            Adds numbers over all sites.

        Raises
        ------
        DataError
            A sum that is opened as a whole or not at all is not.
        """
        sets = {site: np.asarray(cells.sets(has, state), dtype=bool) for site, has in sites.items()}
        bins = {site: cells.bins(has, state) if cells.bins else "" for site, has in sites.items()}
        verdicts = {site: self._verdict(site, purpose, cells, sets[site], bins[site]) for site in sites}
        gives = {site: self._gives(cells, shapes, verdicts[site], sites[site]) for site in sites}
        against = {site: by_set(cells, shapes, against_of(verdicts[site], cells)) for site in sites}
        if cells.tied:
            against = {site: any_for_all(of_site) for site, of_site in against.items()}
        parts = {
            site: {f"gives {name}": small(gives[site][name], cells, name) for name in shapes}
            | {f"against {name}": small(against[site][name], cells, name) for name in shapes}
            for site in sites
        }
        for site in sites if cells.parts else ():
            parts[site]["left"] = self._left(site, cells, gives[site], sets[site])
        for site in sites if cells.tied else ():
            parts[site] |= holds_of(cells, sets[site], sites[site], state, any(g.any() for g in gives[site].values()))
        total = add(parts, f"{purpose}: sites that give, {self.rules.needed} needed")
        alone, rule = alone_of(total, cells, self.rules.needed), {}
        for name, shape in shapes.items():
            opened = enough(total[f"gives {name}"], total[f"against {name}"], self.rules.needed, of_all=cells.of_all)
            told = alone if name in cells.on_features else alone.any()
            rule[name] = np.where(np.broadcast_to(opened & ~told, shape), 0, SITES)
            if cells.joined is not None:
                rule[name] = np.where(cells.joined(rule[name] > 0), SITES, rule[name])
        if cells.parts:
            self._close_one_more(purpose, cells, rule, total, gives, sets, add)
        for name, closed in (cells.closed(state) if cells.closed else {}).items():
            close(rule, name, closed)
        if cells.sizes is not None:
            self._close_dominated(purpose, cells, rule, gives, sites, state, add)
        if not cells.partly and any(closed.any() for closed in rule.values()):
            raise DataError(
                f"{purpose}: nothing is opened, since fewer than {self.rules.needed} sites can give it, or each of its groups, "
                f"under their rules of disclosure (k={self.rules.k}); use more records, coarser groups, or fewer terms"
            )
        gives = {site: {name: of[name] & (rule[name] == 0) for name in of} for site, of in gives.items()}
        for site in sites:
            self._release(site, purpose, cells, sets[site], gives[site], shapes, bins[site])
        return Opening(rule, gives)

    def _verdict(self, site: str, purpose: str, cells: Cells, sets: np.ndarray, bins: str) -> Verdict:
        if sets.shape[1] != len(rows := self._rows(site)):
            raise SettingsError(
                f"{self.call.function} ({purpose}) is not yet under disclosure rules at {site}: run it without them"
            )
        order = None if cells.order is None else cells.order(sets)
        question = self._question(site, purpose, cells, sets, bins)
        return self.disclosure.register(site).judge(rows, sets, self.rules, question, order=order)

    def _question(self, site: str, purpose: str, cells: Cells, sets: np.ndarray, bins: str) -> Question:
        of_values = cells.features or cells.parameters
        statistic = f"{purpose} {self.call.told} {self.call.values(site)}" if of_values else ""
        panel = f"{cells.panel or 'features'} {self.call.digest}" if cells.features else ""
        own = withheld(self.call.sites[site].obs, sets, self.rules)
        about = purpose, self.members, cells.labels, cells.features, panel, cells.parameters, statistic
        return Question(*about, own=own, bins=bins)

    def _rows(self, site: str) -> np.ndarray:
        return records_of(site, self.call, self.disclosure)

    def _gives(self, cells: Cells, shapes: Mapping[str, tuple[int, ...]], verdict: Verdict, has: Any) -> Arrays:
        given = verdict.given
        if cells.tied:  # sets without a record hold nothing back
            given = np.full(len(given), given[0] and not set(verdict.reasons[1:]) - {"", "empty"})
        gives = by_set(cells, shapes, given)
        if cells.measured is not None:
            measured = cells.measured(has)
            gives |= {name: gives[name] & measured for name in cells.on_features}
        return gives

    def _close_one_more(
        self,
        purpose: str,
        cells: Cells,
        rule: dict[str, np.ndarray],
        answers: Arrays,
        gives: Mapping[str, Arrays],
        sets: Mapping[str, np.ndarray],
        add: Callable[[Mapping[str, Arrays], str], Arrays],
    ) -> None:
        """Close parts of all records, one after the other, while too few sites have what is left of a sum over all without them."""
        lead = (by_part := _by_part(cells, rule))[0]
        for _ in range(cells.parts):
            closed = (rule[lead] > 0).reshape(cells.parts, -1)
            holders = answers["left"]
            if closed.any():
                left = {s: {"holds": self._left(s, cells, gives[s], own, closed)} for s, own in sets.items()}
                holders = add(left, f"{purpose}: sites that have what is closed")["holds"]
            few = (holders > 0.5) & (holders < self.rules.needed - 0.5)
            given = np.broadcast_to(answers[f"gives {lead}"].reshape(cells.parts, -1), closed.shape)
            more = last_of_fewest(given, closed) & few & ~closed
            if not more.any():
                return
            for name in by_part:
                rule[name][np.broadcast_to(more.reshape(rule[lead].shape), rule[name].shape)] = SITES
            for site, own in sets.items():
                held = [number for number in np.flatnonzero(more.any(axis=1)) if gives[site][lead][number].any()]
                self.disclosure.register(site).hold_back(self._rows(site), own[held])

    def _left(self, site: str, cells: Cells, gives: Arrays, sets: np.ndarray, closed: np.ndarray | None = None) -> Any:
        """Return whether a site is in the difference of a sum over all records and those over the parts that are open, by feature."""
        given = gives[_by_part(cells, gives)[0]].reshape(cells.parts, -1)
        opened = given if closed is None else given & ~closed
        whole = [gives[name].reshape(-1) for name in gives if np.all(np.asarray(cells.of.get(name, 0)) == cells.parts)]
        rest = {column.tobytes(): sets[: cells.parts][~column].any() for column in np.unique(opened, axis=1).T}
        left = np.array([rest[column.tobytes()] for column in opened.T])
        return np.where(whole[0] if whole else True, left & given.any(axis=0), opened.any(axis=0))

    def _close_dominated(
        self,
        purpose: str,
        cells: Cells,
        rule: dict[str, np.ndarray],
        gives: Mapping[str, Arrays],
        sites: Mapping[str, Any],
        state: State,
        add: Callable[[Mapping[str, Arrays], str], Arrays],
    ) -> None:
        """Close numbers that one record dominates at a site, and then wholes in which too little else is closed."""
        assert cells.sizes is not None
        sizes = {site: cells.sizes(has, state, self.rules) for site, has in sites.items()}
        share = self.rules.dominance

        def objections(site: str) -> Arrays:
            return {name: gives[site][name] & dominated(*sizes[site][name], share) for name in cells.dominated}

        total = add({site: objections(site) for site in sites}, f"{purpose}: sites where one record dominates")
        for name in cells.dominated:
            close(rule, name, total[name] > 0.5)
        for name in cells.linked:
            close(rule, name, rule[cells.dominated[0]] > 0)
        if not cells.parted:
            return

        def together(site: str) -> Arrays:
            found = {}
            for name in cells.dominated:
                largest, whole = sizes[site][name]
                closed = rule[name] > 0
                largest, whole = np.where(closed, largest, 0).max(axis=0), np.where(closed, whole, 0).sum(axis=0)
                found[name] = dominated(largest, whole, share)
            return found

        total = add(
            {site: together(site) for site in sites}, f"{purpose}: sites where one record dominates what is closed"
        )
        for name in cells.dominated:
            close(rule, name, total[name] > 0.5)

    def _release(
        self,
        site: str,
        purpose: str,
        cells: Cells,
        sets: np.ndarray,
        gives: Arrays,
        shapes: Mapping[str, tuple[int, ...]],
        bins: str,
    ) -> None:
        """Write down which sets are behind what a site gives."""
        behind: set[int] = set()
        for name, shape in shapes.items():
            if gives[name].any():
                behind |= set(np.unique(np.broadcast_to(cells.of.get(name, 0), shape)[gives[name]]).tolist())
        if cells.tied and behind:
            behind = {number for number in range(len(sets)) if sets[number].any()}
        question = self._question(site, purpose, cells, sets, bins)
        self.disclosure.register(site).release(self._rows(site), sets, self.rules, question, order=sorted(behind))


def _by_part(cells: Cells, arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Return the names of the arrays that have a row for each part of all records."""
    return [name for name in arrays if np.size(cells.of.get(name, 0)) == cells.parts]


def persons_of(site: str, rules: DisclosureRules) -> np.ndarray | None:
    """Return the number of the person of each observation of a site, None where each is one."""
    call = asked()
    if call is None or rules.donor_key is None:
        return None
    return np.unique(_donors(call.sites[site], rules.donor_key, site), return_inverse=True)[1]


def _donors(adata: Any, column: str, site: str) -> list[str]:
    return label_text(obs_column(adata, column, where=site, role="donor_key")).tolist()
