"""Objects out of sentences: right ones, of the class that was asked for."""

from pydantic import BaseModel, ConfigDict

from darwin_align.integrations.langchain import extraction
from darwin_align.integrations.langchain.extraction import Note

NOTES = [
    Note(person="Anna", text="milk in the cellar"),
    Note(person="Tom", text="soap in the hall"),
    Note(person="Yuki", text="candles in the study"),
]


class Order(BaseModel):
    """Put goods on the shopping list."""

    model_config = ConfigDict(title="add_to_shopping_list")

    item: str
    count: int


def test_notes_are_extracted_all_at_once() -> None:
    assert extraction.extract(extraction.TEXTS) == NOTES


async def test_one_by_one_and_in_a_stream() -> None:
    chain = extraction.build()
    assert await chain.ainvoke(extraction.TEXTS[1]) == NOTES[1]
    assert list(chain.stream(extraction.TEXTS[2]))[-1] == NOTES[2]


def test_another_schema() -> None:
    assert extraction.build(Order).invoke("Put 12 eggs on the shopping list.") == Order(item="eggs", count=12)
