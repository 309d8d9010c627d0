"""The detector that the JSMA paper sketches: adversarial images are less regular than natural ones.

The score of an image is the sum of squared differences of neighbouring pixels (Papernot et al. 2016, section VII).
"""

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import roc_auc_score, roc_curve


def roughness(images: np.ndarray) -> np.ndarray:
    """The sum over vertical and horizontal neighbours of (x_p − x_q)², for images (n, channels, height, width)."""
    down = np.diff(images.astype(np.float64), axis=-2)
    across = np.diff(images.astype(np.float64), axis=-1)
    return (down**2).sum((1, 2, 3)) + (across**2).sum((1, 2, 3))


@dataclass(frozen=True, eq=False)
class Detection:
    """How well a score tells adversarial from clean, the adversarial being expected to score higher."""

    count: int
    """Adversarial samples."""
    paired: float
    """Share of adversarial samples that score higher than the very sample they were made from."""
    auc: float
    """Area under the ROC curve: the chance that a random adversarial scores higher than a random clean sample."""
    false_positives: np.ndarray
    true_positives: np.ndarray
    """The ROC curve."""

    def at(self, false_positive_rate: float) -> float:
        """The detection rate at the most that can be had for this false-positive rate."""
        return float(self.true_positives[self.false_positives <= false_positive_rate].max())


def detection(clean: np.ndarray, adversarial: np.ndarray, source: np.ndarray) -> Detection | None:
    """Judges a score; None where there is no adversarial sample to detect.

    Args:
        clean: Of each clean sample.
        adversarial: Of each adversarial sample.
        source: For each adversarial sample, the clean one it was made from.
    """
    if not len(adversarial):
        return None
    truth = np.concatenate([np.zeros(len(clean)), np.ones(len(adversarial))])
    score = np.concatenate([clean, adversarial])
    false, true, _ = roc_curve(truth, score)
    paired = float((adversarial > clean[source]).mean())
    return Detection(len(adversarial), paired, float(roc_auc_score(truth, score)), false, true)
