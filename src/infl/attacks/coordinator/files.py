"""Model files that name code: what is opened, looked at and predicted with must run nothing that the file names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from infl.attacks._kit.consortium import MOST_OBS, Lies
from infl.attacks.coordinator.offers import Tripwire, tripwire, with_code
from infl.models.locked import PRIVATE, Header, LockedModel, load_model, lock_model
from infl.models.locked.header import digest_of

if TYPE_CHECKING:
    from infl.attacks._kit.audit_context import AuditContext


class CodeInFile(Lies):
    """Pass on model files whose header names code, and use them as anybody would."""

    name: ClassVar[str] = "code_in_file"
    quick: ClassVar[bool] = False
    question: ClassVar[str] = "Does a model file make its user run code of its author's choice?"
    tried: ClassVar[str] = (
        "Copies of the model file name a module, a file or a folder with code, and are opened, shown and predicted with."
    )

    def lies(self, context: AuditContext) -> Iterator[tuple[str, bool]]:
        """Put the tripwire into the header of the run's model, under all its names."""
        model, key = context.run.model, context.run.key if context.run.model.header.fingerprint else None
        unlocked = replace(model.header, lock="none", strength=0.0, key_version=0, fingerprint="")
        model = lock_model(
            unlocked, model.effective(key), model.private_arrays(key), None
        )  # anybody can make such a file
        header = {field.name: getattr(model.header, field.name) for field in fields(Header)}
        with tripwire() as wire:
            path = wire.folder / "model.infl.safetensors"
            for what, text in wire.names.items():
                ran = False
                for changed in with_code(header, header["options"], text):
                    _write(model, path, {name: changed[name] for name in header})
                    self._use(context, path)
                    ran |= wire.ran()
                yield what, ran
            yield "a pickle under the name of a model", self._pickle(context, wire, path)
            model.save(path, overwrite=True)
            yield "honest", self._use(context, path)

    @staticmethod
    def _use(context: AuditContext, path: Path) -> bool:
        """Do all that one does with a model file; whether all went well."""
        import infl

        try:
            model = load_model(path)
            repr(model), model._repr_html_()
            infl.tl.predict(next(iter(context.sites.values()))[:MOST_OBS].copy(), model)
        except Exception:  # noqa: BLE001 - whatever it ends with, code may have run
            return False
        return True

    def _pickle(self, context: AuditContext, wire: Tripwire, path: Path) -> bool:
        """Whether a file that torch would unpickle is."""
        import pickle

        class Run:
            def __reduce__(self) -> tuple[Any, ...]:
                return open, (str(wire.folder / "ran"), "w")

        path.write_bytes(pickle.dumps(Run()))
        self._use(context, path)
        return wire.ran()


def _write(model: LockedModel, path: Path, raw: dict[str, Any]) -> None:
    """Write a file as somebody would who has no use for checks: any header, with a digest that fits."""
    import torch
    from safetensors.torch import save

    header = Header(**raw | {"digest": ""})
    raw = raw | {"digest": digest_of(header, model.stored)}
    tensors = {name: tensor.contiguous() for name, tensor in model.stored.items()}
    tensors[PRIVATE] = torch.frombuffer(bytearray(model.private), dtype=torch.uint8)
    path.write_bytes(save(tensors, metadata={"infl": json.dumps(raw)}))
