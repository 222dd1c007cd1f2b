"""Answers with documents: what is found, and that keeping to it is rewarded."""

import pytest
from langchain_core.documents import Document

from darwin_align import Request, Response, SearchConfig
from darwin_align.core import Message
from darwin_align.integrations.langchain import rag


def taken_up(text: str) -> float:
    """The share of the two pages about tea that an answer takes up, counted apart from the example."""
    words = {word for d in rag.DOCUMENTS[:2] for word in d.page_content.lower().strip(".").split() if len(word) > 3}
    return sum(word.strip(":,") in text.lower() for word in words) / len(words)


def pages(query: str, **settings: int) -> list[int]:
    found = rag.BM25Retriever(documents=rag.DOCUMENTS, **settings).invoke(query)
    return [document.metadata["page"] for document in found]


async def test_documents_are_found_by_their_words() -> None:
    assert pages("How do I brew green tea?") == [12, 13]
    assert pages("Why is my bread flat, was the yeast dead?")[0] == 31
    assert pages("A cup of salty water?", k=1) == [40]
    assert pages("Which stars are there?") == []
    retriever = rag.BM25Retriever(documents=rag.DOCUMENTS)
    assert await retriever.ainvoke(rag.QUESTION) == retriever.invoke(rag.QUESTION)


def test_rare_words_and_short_documents_weigh_more() -> None:
    documents = [Document(text) for text in ("tea tin", "tea cup", "tea cup and many more words about cups", "bread")]
    found = rag.BM25Retriever(documents=documents, k=4).invoke("a cup of tea")
    assert [document.page_content for document in found] == [documents[i].page_content for i in (1, 2, 0)]


def test_grounding_is_the_share_of_the_documents_words() -> None:
    system = Message(role="system", content="Be kind.\nThe household book says:\n- Keep tea cold.\n- Use tins.")
    request = Request(conversation=(system, Message(role="user", content="Tea?")))
    answers = [Response(text=text) for text in ("Keep cold tea and use tins!", "Keep tins.", "Be kind.", "")]
    assert rag.grounding(request, answers) == [1.0, 0.4, 0.0, 0.0]
    assert rag.grounding(Request.of("Tea?"), answers[:1]) == [0.0]


def test_the_answer_takes_up_more_of_what_was_found() -> None:
    config = SearchConfig.preset("mutate_best_of_n", cycles=1, mutations=10, seed=2)
    free, kept = (rag.build(weight=weight, config=config).invoke(rag.QUESTION) for weight in (0.0, 20.0))
    assert taken_up(kept) > taken_up(free)


def test_main_shows_what_was_found_and_both_answers(capsys: pytest.CaptureFixture[str]) -> None:
    rag.main()
    shown = capsys.readouterr().out
    assert shown.startswith("found     page 12: Green tea")
    free, kept = shown.split("keeping to what was found")[1:]
    assert taken_up(kept) > taken_up(free)
