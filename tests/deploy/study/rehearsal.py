"""A study between threads: every site has files of its own, and what they say goes through a coordinator's desk."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

from anndata import AnnData

from infl.deploy.study import matrices
from infl.deploy.study.desk import Desk
from infl.deploy.study.site import StudySite
from infl.deploy.study.specification import Study
from infl.deploy.study.working import WorkingObject
from infl.federation.messages import Heard, Said
from infl.federation.wire import decode, encode
from infl.keys import Keyring
from infl.privacy import Disclosure
from infl.privacy.seal import Ledger


class Killed(BaseException):
    """A process is no more."""


Fault = Callable[[str, str, int, int], None]
"""Called with where a site or the desk ("desk") is: its name, what it does, step and exchange; may raise :class:`Killed`."""


def no_fault(who: str, doing: str, step: int, number: int) -> None:
    """Go on."""


class Line:
    """One attempt: whoever is killed or fails ends it for all."""

    def __init__(self, study: Study, folder: Path, fault: Fault) -> None:
        self.study, self.fault = study, fault
        self.desk = Desk(study, folder / "desk")
        self.told: dict[tuple[str, int, int], bytes] = {}
        self.heard: dict[tuple[int, int], set[bytes]] = {}
        self.sent: dict[tuple[str, int, int], set[bytes]] = {}
        self.changed, self.over = threading.Condition(), False

    def exchange(self, said: Said) -> Heard:
        place = (said.site, said.step, said.number)
        self.fault(said.site, "says", said.step, said.number)
        content = encode(said)
        with self.changed:
            self.sent.setdefault(place, set()).add(content)
            for site, answer in self.desk.hear(decode(content)):
                self.told[(site, said.step, said.number)] = answer
                self.heard.setdefault((said.step, said.number), set()).add(answer)
            self.fault("desk", "told", said.step, said.number)
            self.changed.notify_all()
            self.changed.wait_for(lambda: place in self.told or self.over)
            if place not in self.told:
                raise Killed
        self.fault(said.site, "heard", said.step, said.number)
        return decode(self.told[place])

    def end(self) -> None:
        with self.changed:
            self.over = True
            self.changed.notify_all()


class Rehearsal:
    """Sites in folders, and what passed between them in all attempts."""

    def __init__(self, folder: Path, sites: dict[str, AnnData], study: Study, key: Keyring) -> None:
        self.folder, self.study, self.key = folder, study, key
        self.sent: dict[tuple[str, int, int], set[bytes]] = {}
        self.heard: dict[tuple[int, int], set[bytes]] = {}
        self.notes: dict[str, list[str]] = {site: [] for site in sites}
        for site, adata in sites.items():
            (folder / site).mkdir()
            adata.copy().write_h5ad(folder / f"{site}.h5ad")

    def attempt(
        self,
        fault: Fault = no_fault,
        admit: Callable[[Any], int] = lambda fit: 2,
        rules: Callable[[str], Disclosure] | None = None,
    ) -> dict[str, Any]:
        """Return by site the error that it ended with, None where it has done all."""
        line, write, done = Line(self.study, self.folder, fault), matrices._write, dict[str, int]()

        def wrote(path: Path, matrix: Any) -> None:
            write(path, matrix)
            fault(path.parent.name, "wrote a matrix", done[path.parent.name], 0)

        def at(site: str) -> BaseException | None:
            ledger = None
            try:
                working = WorkingObject(self.folder / site, self.study.digest, self.folder / f"{site}.h5ad", site)
                working.check_source()
                done[site], keep = working.done, working.keep

                def watched(step: int, written: Any) -> None:
                    fault(site, "keeps", step, 0)
                    keep(step, written)
                    done[site] = working.done
                    fault(site, "kept", step, 0)

                working.keep = watched  # type: ignore[method-assign]
                ledger = Ledger(self.folder / site / "site.ledger", bytes(32), run=self.study.run)
                with (
                    line.changed
                ):  # one site computes at a time, as each has a process of its own: torch's state is a process's
                    own = None if rules is None else rules(site)
                    note = self.notes[site].append
                    StudySite(site, self.study, working, self.key, ledger, note, own, admit).run(line.exchange)
            except BaseException as error:  # noqa: BLE001 - a thread's error is what this returns
                line.end()
                return error
            finally:
                if ledger is not None:
                    ledger.close()
            return None

        with mock.patch.object(matrices, "_write", wrote), ThreadPoolExecutor(len(self.study.sites)) as pool:
            futures = {site: pool.submit(at, site) for site in self.study.sites}
        for kept, new in ((self.sent, line.sent), (self.heard, line.heard)):
            for place, contents in new.items():
                kept.setdefault(place, set()).update(contents)  # type: ignore[call-overload]
        return {site: future.result() for site, future in futures.items()}

    def result(self, site: str) -> AnnData:
        """Return a site's working object."""
        return WorkingObject(self.folder / site, self.study.digest, self.folder / f"{site}.h5ad", site).read()
