"""Reports of a run for those who are responsible for the data: a page to read and sign, a model card, a data sheet.

Made of what the run itself knows (settings, ledgers, key trail, metrics) and of tables that :mod:`infl.tl` returns. No
record, no path and no key gets in.
"""

from infl._attached import attach as _attach

__getattr__, __dir__, __all__ = _attach(
    __name__,
    submod_attrs={
        "cards": ["data_sheet", "model_card"],
        "facts": ["STATEMENTS", "Facts"],
        "language": ["LANGUAGES"],
        "steward": ["steward_page"],
        "write": ["report", "write_report"],
    },
)
