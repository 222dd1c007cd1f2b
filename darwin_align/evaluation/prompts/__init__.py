"""Methods of the search compared on anybody's prompts: the reward that they follow, and a second one as gold."""

from darwin_align.evaluation.prompts.page import page, plain, table
from darwin_align.evaluation.prompts.run import PlainPrompt, measure, read_prompts
from darwin_align.evaluation.prompts.summary import FIGURES, Summary, summary

__all__ = ["FIGURES", "PlainPrompt", "Summary", "measure", "page", "plain", "read_prompts", "summary", "table"]
