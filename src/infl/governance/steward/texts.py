"""What the page says, apart from the numbers of a run."""

from infl.attacks import Status

STATUS = {
    str(Status.HOLDS): f"{Status.HOLDS}: the attacker got no more than was promised",
    str(Status.BROKEN): f"{Status.BROKEN}: a protection that was promised did not hold",
    str(Status.NOT_PROMISED): f"{Status.NOT_PROMISED}: the attack works, and nothing was promised against it",
    str(Status.NOT_JUDGED): f"{Status.NOT_JUDGED}: the attack did not work without protection either",
    str(
        Status.INCONCLUSIVE
    ): f"{Status.INCONCLUSIVE}: too few trials to tell chance from an attack that works a little",
    str(Status.CANNOT_TELL): f"{Status.CANNOT_TELL}: the attack could not show a broken promise if it was one",
}
"""What each finding means, in the order of the legend of :func:`infl.pl.audit`."""
SEALS = {
    "group": "all sites share one key; the coordinator reads no message, unless it conspires with a site",
    "pairwise": "each pair of sites has a secret of its own; the coordinator reads no message, also if it conspires with a site",
    "none": "NO SEAL: the coordinator reads every site's update",
}
LOCKS = {
    "field": "the stored weights are useless without the key; tested by attacks, not proved",
    "published": "the published keyed method; a wrong key often works nearly as well as the right one",
    "none": "NO LOCK: whoever has the file has the model",
}
NOT_PROTECTED = {
    "group": [
        "A site that sends wrong updates or has wrong labels: updates are sealed, so nobody sees whose it was.",
        "A site that conspires with the coordinator: together they can open the other sites' updates.",
    ],
    "pairwise": ["A site that sends wrong updates or has wrong labels: they are sealed, so nobody sees whose it was."],
    "none": [
        "The coordinator: it can read every site's update, and learn from it about the site's records.",
        "A site that sends wrong updates or has wrong labels.",
    ],
}
TOGETHER = (
    "The sites trained one model together, each on its own records. What travels between them are changes of the model's "
    "weights, and sums. This page says what left each site, who could read it, what the model is worth, and what is not "
    "protected."
)
NO_EPSILON = "No differential privacy: nothing bounds what the model remembers of the records it was trained on."
NAMES_ARE_KNOWN = (
    "Names of sites, features and classes are known to all parties. How many records each site has is not: it travels as "
    "part of a sum."
)
LEDGER = (
    "A site writes each message into its own ledger before it is sent: time, kind, size, a digest, sealed or not. Where "
    "the ledger is a file, its lines are chained and checked with the key, so that a change is noticed. Beside these "
    "messages only consent, refusals, public keys and shares of masks travel; no number in them was made of records."
)
NO_VALUES = "No message lists values of records; each has changes of weights or sums over a site's records."
GRANTS_UNKNOWN = "Who was granted the key is not known here: the key ring was not at hand when this page was written."
NO_GRANT = "The key ring's trail has no grant: as far as it says, nobody but the key holder has the key."
NOT_PRIVATE = (
    "It was not used. What the model itself remembers of its records is then bounded by nothing: somebody with the key "
    "may find out whether a certain record was trained on. The audit's membership attack says how well that works."
)
NO_AUDIT = (
    "No audit was made for this page. infl.tl.audit(run, sites) attacks the run as a coordinator, a thief of the file, "
    "a former member and a model user would, each attack beside the same on an unprotected run."
)
AUDIT_FIGURE = "What each attack got, with its 95 % interval, between chance (bar) and the same attack on an unprotected run (diamond)."
NO_MEASURES = "Under differential privacy the sites send no measures, which would need noise too: the run itself says nothing of this."
OTHER_WAYS = (
    "The same data, other ways: all in one place (which is what federation avoids), each site alone, without protection, "
    "with a wrong key or none. Mean ± standard deviation over repeated splits, on records that were held out."
)
