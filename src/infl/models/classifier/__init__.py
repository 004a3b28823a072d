"""Classification of samples or cells: residual MLP, federated standardisation, calibrated probabilities."""

from infl.models.classifier.task import Classifier

__all__ = ["Classifier"]
