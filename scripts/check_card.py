#!/usr/bin/env python3
"""Has the Hub's own library read a model card: front matter, licence and results as its classes want them.

    python scripts/check_card.py RUN/checkpoints/step-00000500/README.md

Needs huggingface_hub. Prints what it read as one JSON object; fails if the card does not parse, a result is lost, or writing the
front matter again gives other data.
"""

import json
import sys

import yaml
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard_data import model_index_to_eval_results


def main():
    path = sys.argv[1]
    card = ModelCard.load(path)
    text = open(path, encoding="utf-8").read()
    front = yaml.safe_load(text.split("\n---\n", 1)[0].removeprefix("---\n"))
    index = front.get("model-index", [])
    told = sum(len(result["metrics"]) for model in index for result in model["results"])
    results = card.data.eval_results or []
    problems = []
    if len(results) != told:
        problems.append(f"{told} metrics in the front matter, {len(results)} read")
    if index:
        name, parsed = model_index_to_eval_results(index)
        if name != index[0]["name"] or len(parsed) != told:
            problems.append("model-index was read otherwise than it stands")
        # Written again by their class, it holds the same.
        again = yaml.safe_load(card.data.to_yaml())
        if again != front:
            problems.append(f"written again it differs: {again} and {front}")
    rebuilt = ModelCardData(**{k: v for k, v in front.items() if k != "model-index"})
    print(json.dumps({
        "license": rebuilt.license, "library_name": rebuilt.library_name, "pipeline_tag": rebuilt.pipeline_tag,
        "tags": rebuilt.tags, "model_name": card.data.model_name, "results": [
            [r.task_type, r.dataset_type, r.dataset_name, r.metric_type, r.metric_value] for r in results],
        "problems": problems,
    }, ensure_ascii=False, indent=1))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
