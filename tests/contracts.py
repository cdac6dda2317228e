"""What the type checker must agree with: each extraction module is an Extractor."""

import classifier_ood.ensemble
import classifier_ood.extract
import genomics_ood.extract
import genomics_ood.extract_features
import genomics_ood.extract_kmers
import images_ood.extract
from ood_suite.runs.extraction import Extractor

OURS: list[Extractor] = [
    classifier_ood.ensemble,
    classifier_ood.extract,
    genomics_ood.extract,
    genomics_ood.extract_features,
    genomics_ood.extract_kmers,
    images_ood.extract,
]
