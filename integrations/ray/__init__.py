"""A batch on many machines: the job of ``darwin-align batch`` on Ray Data, from prompts to parquet.

The keys, the seeds and the answers are those of a local run. See README.md beside this file.
"""

from darwin_align.integrations.ray.answers_file import read_answers
from darwin_align.integrations.ray.job import RayReport, answer_on_ray

__all__ = ["RayReport", "answer_on_ray", "read_answers"]
