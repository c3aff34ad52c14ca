"""Run by the official scorer's own Python: truth and prediction files in, its scores out as JSON."""

import json
import sys
from pathlib import Path

from isic_challenge_scoring.classification import ClassificationMetric, ClassificationScore

score = ClassificationScore.from_file(Path(sys.argv[1]), Path(sys.argv[2]), ClassificationMetric.AUC)
result = {name: {k: float(v) for k, v in row.items()} for name, row in score.per_category.to_dict("index").items()}
print(json.dumps(result | {"balanced_accuracy": float(score.aggregate["balanced_accuracy"])}))
