"""A site's register of released sets of records, by record, over all its data sets and for life.

Who has the sums over several sets of records can add and subtract them. What comes out is a sum with one weight for all
records that were in the same sets: an atom. So as long as each atom has at least k records, no question can be asked whose
answer is of fewer, however many sums are combined. Two released sets then differ by no record or by k at least, and no single
record is a combination of what was released. Records that were in no set are behind no number and may be fewer.

Records are known by their names; on disk there are keyed digests of them, under a secret of the site. The file is only ever
added to, each line with the digest of all lines before.
"""

from infl.privacy.register.judging import Question, Verdict
from infl.privacy.register.register import Register
from infl.privacy.register.seen import SeenHeads

__all__ = ["Question", "Register", "SeenHeads", "Verdict"]
