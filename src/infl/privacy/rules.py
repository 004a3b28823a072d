"""Rules of disclosure: which sums over few records, few sites or one large value a site does not give.

The names of the rules, as they stand beside a result that is closed: ``sites``, fewer sites than are needed can give the number,
each for a reason of its own that stays there (:data:`REASONS`); ``dominance``, one record makes up too much of it at a site.

References
----------
Hundepool et al., Statistical Disclosure Control, Wiley 2012. Homer et al., Resolving individuals contributing trace amounts of
DNA to highly complex mixtures, PLoS Genetics 2008. Sankararaman et al., Genomic privacy and limits of individual detection in a
pool, Nature Genetics 2009.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from infl._parameters import Kind, Names, Real, Text, Whole

REASONS = {
    "": "the site gives",
    "empty": "the site has no record there",
    "records": "fewer than k records",
    "differencing": "with what was released before, fewer than k records could be told apart",
    "parameters": "fewer records than three for each parameter",
    "statistics": "more different sums of values were released about so few records than they bear",
    "features": "more features per record than the bound",
    "bins": "its values were counted in other bins before",
    "sites": "with it, sums would follow that too few sites have records of",
    "members": "the same records were released to members that differ by too few sites",
}
"""Why a site gives a number or does not; kept at the site."""
KINDS: dict[str, Kind] = {
    "k": Whole(1),
    "dominance": Real(0, 1, open="low"),
    "min_holders": Whole(1),
    "colluders": Whole(0),
    "features_per_record": Real(0, open="low", infinite=True),
    "records_per_parameter": Real(0),
    "donor_key": Text(none=True, says="the name of one obs column"),
    "groups": Names(empty=True, none=True, says="names of obs columns, each of them once"),
    "own": Names(empty=True, says="names of rules, each of them once"),
}
"""What each rule may be, by name."""


@dataclass(frozen=True, kw_only=True)
class DisclosureRules:
    """What a site asks of a sum before it gives its share.

    Parameters
    ----------
    k
        Fewest records, or donors with `donor_key`, that a set has which is released, and by which two released sets differ.
    dominance
        Largest share that one record may have in a sum of values that are not negative.
    min_holders
        Fewest sites with records behind an opened number, beside the colluders.
    colluders
        Sites that are assumed to pool what they know. A number is opened where ``min_holders + colluders`` sites give it.
    features_per_record
        Most features whose means are released, per record of the set, over all panels of features in a record's life; see
        :func:`membership_auc`. ``float("inf")``: no bound.
    records_per_parameter
        Fewest records of a site per parameter of a model, and per different sum of their values, beyond two.
    donor_key
        Column of ``obs`` with the person that a record is of; then k counts persons. None: each record is a person.
    groups
        Columns of ``obs`` whose groups may be asked about. None: any.
    own
        Rules of your own, see :data:`infl.privacy.OWN_RULES`, which are asked after those above.

    Examples
    --------
    >>> DisclosureRules().needed
    3
    >>> DisclosureRules(k=0)
    Traceback (most recent call last):
    infl.errors.SettingsError: k=0: give a whole number of at least 1
    """

    k: int = 5
    dominance: float = 0.7
    min_holders: int = 2
    colluders: int = 1
    features_per_record: float = 2.0
    records_per_parameter: float = 3.0
    donor_key: str | None = None
    groups: tuple[str, ...] | None = None
    own: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, KINDS[field.name].read(field.name, getattr(self, field.name)))

    @property
    def needed(self) -> int:
        """Sites that have to give a number before it is opened."""
        return self.min_holders + self.colluders


def membership_auc(n_features: int, n_records: int) -> float:
    """Return how well released means tell a member from others, as the area under the ROC curve.

    It holds for the best statistic of one who knows the record itself and the population's means, for features that do not depend
    on each other; features that do tell less. Means and variances tell as much as means of twice as many features.

    Parameters
    ----------
    n_features
        Of which means are released.
    n_records
        That the means are of.

    Examples
    --------
    >>> round(membership_auc(100, 1000), 2), round(membership_auc(2000, 20), 2)
    (0.59, 1.0)
    """
    return 0.5 * (1 + math.erf(math.sqrt(n_features / n_records) / 2)) if n_records else 1.0
