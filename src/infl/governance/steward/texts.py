"""What the page says at length, apart from the numbers of a run; each is looked up in the catalogue when it is said."""

from infl.attacks import Status
from infl.governance.language import mark

STATUS = {
    Status.HOLDS: mark("holds: the attacker got no more than was promised"),
    Status.BROKEN: mark("leak: a protection that was promised did not hold"),
    Status.NOT_PROMISED: mark("not promised: the attack works, and nothing was promised against it"),
    Status.NOT_JUDGED: mark("not judged: the attack did not work without protection either"),
    Status.INCONCLUSIVE: mark("inconclusive: too few trials to tell chance from an attack that works a little"),
    Status.CANNOT_TELL: mark("cannot tell: the attack could not show a broken promise if it was one"),
}
"""What each finding means, in the order of the legend of :func:`infl.pl.audit`."""
UNDECIDED = (Status.NOT_JUDGED, Status.INCONCLUSIVE, Status.CANNOT_TELL)
"""Findings that count neither for a protection nor against it."""
SEALS = {
    "group": mark("all sites share one key; the coordinator reads no message, unless it conspires with a site"),
    "pairwise": mark(
        "each pair of sites has a secret of its own; the coordinator reads no message, also if it conspires with a site"
    ),
    "none": mark("NO SEAL: the coordinator reads every site's update"),
}
LOCKS = {
    "field": mark("the stored weights are useless without the key; tested by attacks, not proved"),
    "published": mark("the published keyed method; a wrong key often works nearly as well as the right one"),
    "none": mark("NO LOCK: whoever has the file has the model"),
}
WRONG_UPDATES = mark(
    "A site that sends wrong updates or has wrong labels: updates are sealed, so nobody sees whose it was."
)
NOT_PROTECTED = {
    "group": [
        WRONG_UPDATES,
        mark("A site that conspires with the coordinator: together they can open the other sites' updates."),
    ],
    "pairwise": [WRONG_UPDATES],
    "none": [
        mark("The coordinator: it can read every site's update, and learn from it about the site's records."),
        mark("A site that sends wrong updates or has wrong labels."),
    ],
}
NEVER_PROTECTED = [
    mark("Somebody who reads a computer's memory while it trains or predicts."),
    mark("Sizes and times of messages, which everybody on the way sees."),
    mark("A key that is passed on. A revoked site keeps what it has; only later models are closed to it."),
    mark(
        "The lock is a keyed reparametrisation whose worth is measured by attacks. It is not encryption with a proof; encrypt "
        "a file in the post as well."
    ),
]
REMEMBERS = mark("What the model remembers: who may use it with the key may learn who was in the training data.")
TOGETHER = mark(
    "The sites trained one model together, each on its own records. What travels between them are changes of the model's "
    "weights, and sums. This page says what left each site, who could read it, what the model is worth, and what is not "
    "protected."
)
NO_EPSILON = mark("No differential privacy: nothing bounds what the model remembers of the records it was trained on.")
NAMES_ARE_KNOWN = mark(
    "Names of sites, features and classes are known to all parties. How many records each site has is not: it travels as "
    "part of a sum."
)
LEDGER = mark(
    "A site writes each message into its own ledger before it is sent: time, kind, size, a digest, sealed or not. Where "
    "the ledger is a file, its lines are chained and checked with the key, so that a change is noticed. Beside these "
    "messages only consent, refusals, public keys and shares of masks travel; no number in them was made of records."
)
NO_VALUES = mark("No message lists values of records; each has changes of weights or sums over a site's records.")
GRANTS_UNKNOWN = mark(
    "Who was granted the key is not known here: the key ring was not at hand when this page was written."
)
NO_GRANT = mark("The key ring's trail has no grant: as far as it says, nobody but the key holder has the key.")
NOT_PRIVATE = mark(
    "It was not used. What the model itself remembers of its records is then bounded by nothing: somebody with the key "
    "may find out whether a certain record was trained on. The audit's membership attack says how well that works."
)
ATTACKED = mark(
    "The run was attacked as capable enemies would. Chance is what guessing gets; unprotected is what the same attack gets "
    "from a run of the same data with neither lock nor seal (for keys: what the right key gives). An attack whose control "
    "fails is not judged."
)
NO_AUDIT = mark(
    "No audit was made for this page. infl.tl.audit(run, sites) attacks the run as a coordinator, a thief of the file, "
    "a former member and a model user would, each attack beside the same on an unprotected run."
)
AUDIT_FIGURE = mark(
    "What each attack got, with its 95 % interval, between chance (bar) and the same attack on an unprotected run (diamond)."
)
NO_MEASURES = mark(
    "Under differential privacy the sites send no measures, which would need noise too: the run itself says nothing of this."
)
NO_VALIDATION = mark("No validation records were set aside, so the run itself says nothing of this.")
OTHER_WAYS = mark(
    "The same data, other ways: all in one place (which is what federation avoids), each site alone, without protection, "
    "with a wrong key or none. Mean ± standard deviation over repeated splits, on records that were held out."
)
EPSILON = {
    "record": mark(
        "Whether one training record was there changes the odds of anything that can be concluded from the model by at most a "
        "factor of e^ε = {factor}, except with a probability of about δ. An ε up to 1 is strong, up to 10 in common use, above that "
        "weak. Records that were held out stayed at their sites, and the number of records of all sites together counts as public."
    ),
    "donor": mark(
        "Whether one patient of a site was there changes the odds of anything that can be concluded from the model by at most a "
        "factor of e^ε = {factor}, except with a probability of about δ. An ε up to 1 is strong, up to 10 in common use, above that "
        "weak. Records that were held out stayed at their sites, and the number of records of all sites together counts as public."
    ),
}
"""What ε means, by the unit that it is of."""
EPSILON_IN_SHORT = {
    "record": mark("Differential privacy: ε = {epsilon} at δ = {delta} for each training record."),
    "donor": mark("Differential privacy: ε = {epsilon} at δ = {delta} for each patient of a site."),
}
BOUNDED = {"record": mark("each training record's"), "donor": mark("each patient's, at a site")}
KEPT_ENGLISH = mark(
    "Texts that come from other parts of the software are in English where they have not been translated."
)
