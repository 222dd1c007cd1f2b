"""Answers with documents: ``retriever | prompt | model | parser``, and a reward for keeping to what was found.

Run ``python -m darwin_align.integrations.langchain.rag``.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnablePassthrough

from darwin_align import DarwinChatModel, Request, Response, SearchConfig
from darwin_align.backends.local import LocalScorer
from darwin_align.operators import FunctionScorer, WeightedSum
from darwin_align.pocket import reward_path

__all__ = ["DOCUMENTS", "QUESTION", "BM25Retriever", "build", "grounding", "main"]

QUESTION = "How do I brew green tea?"
DOCUMENTS = (
    Document("Green tea: keep dry tea leaves in a closed tin, away from light.", metadata={"page": 12}),
    Document("Green tea: a short wait keeps the taste of the tea soft and clean.", metadata={"page": 13}),
    Document("Bread: water that is too hot kills the yeast, and bread stays flat.", metadata={"page": 31}),
    Document("Bread: tap the bottom of the bread and listen for a hollow sound.", metadata={"page": 32}),
    Document("Pasta: keep a cup of the salty water for the sauce.", metadata={"page": 40}),
)
"""Pages of a household book."""

PROMPT = ChatPromptTemplate(
    [("system", "You are a helpful assistant.\nThe household book says:\n{context}"), ("human", "{question}")]
)


class BM25Retriever(BaseRetriever):
    """Finds documents by their words (Okapi BM25), without a model or an index."""

    documents: Sequence[Document]
    k: int = 2
    """So many documents at most; those that share no word with the question are never among them."""

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,  # noqa: ARG002 - LangChain passes it
    ) -> list[Document]:
        texts = [Counter(_words(document.page_content)) for document in self.documents]
        scores = [sum(self._weight(word, text, texts) for word in _words(query)) for text in texts]
        best = sorted((i for i, score in enumerate(scores) if score > 0), key=lambda i: -scores[i])
        return [self.documents[i] for i in best[: self.k]]

    def _weight(self, word: str, text: Counter[str], texts: list[Counter[str]]) -> float:
        holding = sum(word in other for other in texts)
        rarity = math.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
        length = text.total() * len(texts) / sum(other.total() for other in texts)
        return rarity * text[word] * 2.2 / (text[word] + 1.2 * (0.25 + 0.75 * length))


def grounding(request: Request, responses: Sequence[Response]) -> list[float]:
    """Reward each answer with the share of the found documents' words that it takes up."""
    found = {word for m in request.conversation if m.role == "system" for word in _words(_book(m.text))}
    return [len(found & set(_words(response.text))) / max(1, len(found)) for response in responses]


def build(documents: Sequence[Document] = DOCUMENTS, *, weight: float = 20.0, **settings: Any) -> Runnable[str, str]:
    """Return the chain from a question to an answer.

    Args:
        documents: what may be found.
        weight: what keeping to all that was found is worth, beside the reward model's points.
        settings: of :class:`DarwinChatModel`.

    A document's content may come at the very end of an answer: partial answers are judged badly by it. So answers
    are compared when they are finished (``selector="none"``), and no beam takes over another's text.
    """
    config = SearchConfig.preset("mutate_best_of_n", cycles=1, mutations=10, seed=7)
    reward = LocalScorer.from_pretrained(reward_path(), threads=1)
    scorer = WeightedSum(scorers=(reward, FunctionScorer(function=grounding)), weights=(1.0, weight))
    model = DarwinChatModel(**{"scorer": scorer, "config": config, **settings})
    found = BM25Retriever(documents=documents) | _listed
    return {"context": found, "question": RunnablePassthrough()} | PROMPT | model | StrOutputParser()


def _listed(documents: list[Document]) -> str:
    return "\n".join(f"- {document.page_content}" for document in documents)


def _book(system: str) -> str:
    return system.partition("\n- ")[2]


def _words(text: str) -> list[str]:
    return [word for word in re.findall(r"[a-z]+", text.lower()) if len(word) > 2]


def main() -> None:
    """Ask once with the reward for keeping to the documents, and once without."""
    for document in BM25Retriever(documents=DOCUMENTS).invoke(QUESTION):
        print(f"found     page {document.metadata['page']}: {document.page_content}")
    for weight in (0.0, 20.0):
        print(f"\nkeeping to what was found is worth {weight:g}:\n{build(weight=weight).invoke(QUESTION)}")


if __name__ == "__main__":
    main()
