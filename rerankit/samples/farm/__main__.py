"""``python -m rerankit.samples.farm`` prints what the corpus holds."""

from __future__ import annotations

import sys
from collections import Counter

from rerankit.samples import farm


def main() -> None:
    """Write the counts that README.md quotes to standard output."""
    found, asked = farm.passages(), farm.questions()
    grades = Counter(grade for judged in farm.qrels().values() for grade in judged.values())
    topics = Counter(passage.metadata["topic"] for passage in found)
    answerable = sum(question.answerable for question in asked)
    lines = [
        f"passages\t{len(found)}",
        *(f"  {topic}\t{count}" for topic, count in topics.most_common()),
        f"subjects\t{len({passage.metadata['subject'] for passage in found})}",
        f"questions\t{len(asked)}",
        f"  answerable\t{answerable}",
        f"  unanswerable\t{len(asked) - answerable}",
        f"judgements\t{grades.total()}",
        *(f"  grade {grade}\t{grades[grade]}" for grade in (2, 1, 0)),
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
